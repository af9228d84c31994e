"""Whole tiny models on disk, as Hugging Face's own classes write them, with a byte-level tokenizer of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model.decoder import Config, linear_shapes

CONFIGS = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}
QWEN_MARKS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|file_sep|>",
    "<|repo_name|>",
)
STABLE_MARKS = (
    "<[begin▁of▁sentence]>",
    "<[end▁of▁sentence]>",
    "<[fim-prefix]>",
    "<[fim-middle]>",
    "<[fim-suffix]>",
    "<[MASK_TOKEN]>",
)


def write_tokenizer(folder: Path, marks: Sequence[str]) -> int:
    """tokenizer.json of some 500 tokens; returns their number."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(marks), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([Path(__file__).read_text()], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def write_model(
    folder: Path,
    family: str = "qwen2",
    tied: bool = False,
    marks: Sequence[str] = QWEN_MARKS,
    **changes: object,
) -> transformers.PreTrainedModel:
    """A random model of a family in `folder`; returns transformers' own of it."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = {
        "vocab_size": write_tokenizer(folder, marks),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
    }
    extra = {"head_dim": 32} if family == "qwen3" else {}  # wider in all than the model: Qwen3 does that too
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[family](**shape | extra | changes))
    for name, parameter in model.named_parameters():
        # Norms and biases start as ones and zeros, which would hide mistakes.
        mean = 1.0 if "norm" in name else 0.0
        parameter.data.normal_(mean, 0.2 if parameter.ndim == 2 else 0.5)
    model.save_pretrained(folder)
    return model.eval()


def write_adapter(
    path: Path, config: Config, base_sha256: str, rank: int = 4, changes: dict[str, str] | None = None
) -> Path:
    """A random gated adapter in the file format; `changes` go into its metadata."""
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.3 / shape[-1] ** 0.5).half()

    tensors = {
        "mask_embedding": random(config.width),
        "draft_vocab": torch.arange(0, config.vocab, 2, dtype=torch.int32),
    }
    for layer in range(config.layers):
        for name, (out, width) in linear_shapes(config).items():
            tensors[f"layers.{layer}.{name}.lora_A"] = random(rank, width)
            tensors[f"layers.{layer}.{name}.lora_B"] = random(out, rank)
    facts = {"kind": "gated", "rank": json.dumps(rank), "scale": json.dumps(2.0), "base_sha256": base_sha256}
    save_file(tensors, path, facts | (changes or {}))
    return path
