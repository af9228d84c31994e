"""transformers' Qwen2 class in fp32, greedy, as a peer.

    python -P -m benchmarks.peer_transformers GGUF THREADS

The weights are those of the same GGUF file, read by our own reader. No prompt is ever reused.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from benchmarks.peers import Ask, Reply, resident_bytes, serve
from model.checkpoints import Checkpoint, open_checkpoint
from model.tokens import load_tokenizer

# Ours -> theirs, inside a layer.
LAYER = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
WHOLE = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}


def build(checkpoint: Checkpoint) -> Qwen2ForCausalLM:
    """transformers' own class with the checkpoint's weights."""
    shape = checkpoint.config
    config = Qwen2Config(
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocab,
        max_position_embeddings=shape.context,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        rms_norm_eps=shape.norm_eps,
        tie_word_embeddings=shape.tied,
        dtype="float32",
    )
    with torch.device("meta"):
        net = Qwen2ForCausalLM(config)
    weights = {theirs(name): checkpoint.tensor(name) for name in checkpoint.names()}
    net.load_state_dict(weights, assign=True)
    # A rotary table is no weight; made on the meta device, it has no values yet.
    net.model.rotary_emb = type(net.model.rotary_emb)(config)
    return net.eval()


def theirs(name: str) -> str:
    """`layers.3.q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    stem, _, kind = name.rpartition(".")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{kind}"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{LAYER[part]}.{kind}"


@torch.inference_mode()
def main(gguf: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    checkpoint = open_checkpoint(gguf)
    net, tokenizer = build(checkpoint), load_tokenizer(Path(gguf))

    def answer(ask: Ask) -> Reply:
        begin = time.perf_counter()
        cache = DynamicCache(config=net.config)
        step = torch.tensor([ask.ids])
        written: list[int] = []
        prefilled = begin
        while True:
            logits = net(step, cache=cache, use_cache=True, logits_to_keep=1).logits
            written.append(int(logits[0, -1].argmax()))
            if len(written) == 1:
                prefilled = time.perf_counter()
            if len(written) == ask.tokens:
                break
            step = torch.tensor([written[-1:]])
        end = time.perf_counter()
        return Reply(
            text=tokenizer.decode(written),
            tokens=len(written),
            prefill_tokens=len(ask.ids),
            prefill_ms=(prefilled - begin) * 1000,
            decode_ms=(end - prefilled) * 1000,
            ms=(end - begin) * 1000,
            rss_bytes=resident_bytes(),
        )

    serve(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
