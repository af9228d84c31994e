"""Small random models with a tokenizer of their own, on disk as any checkpoint is: for trials that must be repeated.

Knows nothing of training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model.checkpoints import source_name, tensor_shapes
from model.decoder import Config
from model.tokens import special_ids

MARKS = (
    "<|endoftext|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|file_sep|>",
    "<|repo_name|>",
)
HUGGING_FACE = 1  # the style of `source_name`


def write(
    folder: Path, texts: Iterable[str], *, vocab: int, layers: int, width: int, context: int, seed: int
) -> None:
    """A Qwen2-shaped model of random weights, and a byte-level BPE learnt from `texts`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(MARKS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    c = Config(
        layers=layers,
        width=width,
        heads=width // 32,
        kv_heads=max(1, width // 64),
        head_dim=32,
        mlp_width=width * 8 // 3 // 16 * 16,
        vocab=tokenizer.get_vocab_size(),
        rope_theta=1e4,
        norm_eps=1e-6,
        qkv_bias=True,
        qk_norm=False,
        tied=True,
        context=context,
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in tensor_shapes(c).items():
        if len(shape) == 1:
            value = torch.ones(shape) if name.endswith("norm.weight") else torch.zeros(shape)
        else:
            value = torch.randn(shape, generator=generator) * (0.02 if "embed" in name else shape[-1] ** -0.5)
        tensors[source_name(name, HUGGING_FACE)] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hugging_face_config(c, "qwen2"), indent=1))


def marks_of(folder: Path) -> dict[str, int]:
    """The ids of a written model's special tokens."""
    return special_ids(Tokenizer.from_file(str(folder / "tokenizer.json")))


def hugging_face_config(c: Config, architecture: str) -> dict[str, object]:
    """config.json of a model of this shape, for our own reader and for transformers."""
    names = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
    return {
        "model_type": architecture,
        "architectures": [names[architecture]],
        "num_hidden_layers": c.layers,
        "hidden_size": c.width,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.mlp_width,
        "vocab_size": c.vocab,
        "rope_theta": c.rope_theta,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied,
        "max_position_embeddings": c.context,
        "hidden_act": "silu",
    }
