"""The decoder against transformers' classes, and its own promise: a row's result depends on that row alone."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
import transformers

from model import loading, store
from model.checkpoints import open_checkpoint
from model.decoder import Decoder, KVCache
from model.generator import Generator
from model.loading import Loaded
from model.sampler import Block, Network
from model.tokens import encode_text
from tests.model import tiny
from tests.model.folders import CONFIGS, write_model
from tests.model.test_checkpoints import hf_name

STDLIB = Path(json.__file__).parent.parent


def hidden(decoder: Decoder, ids: list[int], sizes: list[int]) -> torch.Tensor:
    """Hidden states of all rows, computed in forwards of these many rows."""
    network, cache = Network(decoder), KVCache(decoder.config, len(ids))
    found, start = [], 0
    with torch.inference_mode():
        for size in sizes:
            rows = ids[start : start + size]
            cache.see(network._mask(len(rows), (), start))
            positions = torch.arange(start, start + len(rows))
            found.append(decoder.forward(decoder.embed(torch.tensor(rows)), positions, cache))
            cache.keep(len(rows))
            start += len(rows)
    return torch.cat(found)


def logits(decoder: Decoder, ids: list[int]) -> torch.Tensor:
    return decoder.logits(hidden(decoder, ids, [len(ids)]))


# --- transformers' classes


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_transformers(family: str, tied: bool, tmp_path: Path) -> None:
    theirs = write_model(tmp_path, family, tied)
    ours = loading.load(str(tmp_path), form="fp32").decoder
    ids = torch.randint(0, ours.config.vocab, (70,), generator=torch.Generator().manual_seed(3)).tolist()
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(
        logits(ours, ids), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
    )


def test_rotary_base_and_context_come_from_the_checkpoint(tmp_path: Path) -> None:
    theirs = write_model(tmp_path, "qwen2", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    ours = loading.load(str(tmp_path), form="fp32").decoder
    ids = list(range(9, 109))
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(
        logits(ours, ids), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
    )


@pytest.mark.model
def test_logits_of_the_real_model_are_those_of_transformers(default_model: str, fp32: Loaded) -> None:
    """transformers' class over our reading of the GGUF file: the file's reader has tests of its own."""
    checkpoint = open_checkpoint(store.model_path(default_model))
    c = checkpoint.config
    config = transformers.Qwen2Config(
        vocab_size=c.vocab,
        hidden_size=c.width,
        intermediate_size=c.mlp_width,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        max_position_embeddings=c.context,
        rms_norm_eps=c.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        tie_word_embeddings=c.tied,
    )
    with torch.device("meta"):
        theirs = transformers.Qwen2ForCausalLM(config).eval()
    theirs.load_state_dict(
        {hf_name(name): checkpoint.tensor(name) for name in checkpoint.names()}, assign=True
    )
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(
        config
    )  # its frequencies are not among the weights
    ids = encode_text(fp32.tokenizer, (STDLIB / "bisect.py").read_text())[:100]
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    found = logits(fp32.decoder, ids)
    assert (found - expected).abs().max() < 1e-3
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


# --- a row's result depends on that row alone


SHAPES = {
    "default": {"width": 896, "heads": 14, "kv_heads": 2, "head_dim": 64},
    "large": {"width": 1536, "heads": 12, "kv_heads": 2, "head_dim": 128, "mlp_width": 64},
    "tiny": {"width": 576, "heads": 9, "kv_heads": 3, "head_dim": 64, "qkv_bias": False},
    "8b": {"width": 512, "heads": 32, "kv_heads": 8, "head_dim": 128, "qkv_bias": False},
    "no groups": {"width": 64, "heads": 4, "kv_heads": 4, "head_dim": 16},
    "one group": {"width": 64, "heads": 8, "kv_heads": 1, "head_dim": 8},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_rows_do_not_depend_on_how_many_are_computed_together(shape: dict[str, object]) -> None:
    decoder = tiny.decoder(tiny.config(layers=1, **shape), 1)
    rng = random.Random(1)
    ids = [rng.randrange(tiny.VOCAB) for _ in range(150)]
    alone = hidden(decoder, ids, [1] * len(ids))
    splits = [
        [size] * (len(ids) // size) + [len(ids) % size] * (len(ids) % size > 0) for size in range(2, 34)
    ]
    splits += [[len(ids)], [64, 86], [1, 149], [149, 1], [100, 3, 3, 3, 41]]
    for split in splits:
        assert torch.equal(hidden(decoder, ids, split), alone), split


@pytest.mark.model
def test_rows_of_the_real_model_do_not_depend_on_how_many_are_computed_together(generator: Generator) -> None:
    decoder = generator.network.decoder
    ids = encode_text(generator._tokenizer, (STDLIB / "textwrap.py").read_text())[:330]
    whole = hidden(decoder, ids, [256, 74])  # the engine never runs more rows at once
    assert torch.equal(hidden(decoder, ids, [256, 60, *[1] * 14]), whole)
    assert torch.equal(hidden(decoder, ids, [*range(1, 25), 30]), whole)  # 1 + 2 + ... + 24 = 300


def noisy_network(kind: str, seed: int) -> Network:
    return tiny.network(kind, 4, seed)


@pytest.mark.parametrize("kind", ["gated", "merged"])
@pytest.mark.parametrize("past", [0, 1, 7, 16, 40])
def test_noisy_blocks_behind_change_no_bit_of_clean_rows(kind: str, past: int) -> None:
    network = noisy_network(kind, 3)
    cache, rng = KVCache(network.decoder.config, 128), random.Random(past)
    past_ids = [rng.randrange(tiny.VOCAB) for _ in range(past)]
    if past:
        network.forward(cache, past_ids, (), 0)
        cache.keep(past)
    for clean in range(1, 12):
        ids = [rng.randrange(tiny.VOCAB) for _ in range(clean)]
        alone, _ = network.forward(cache, ids, (), clean)
        keys = cache.keys[:, :, past : past + clean].clone()
        for places in ([None], [None] * 4, [3, None, 9, None, None, 1]):
            beside, _ = network.forward(cache, ids, [Block(clean, places)], clean)
            assert torch.equal(alone, beside)
            assert torch.equal(keys, cache.keys[:, :, past : past + clean])


@pytest.mark.parametrize("kind", ["gated", "gated-small", "merged"])
def test_noisy_rows_do_not_depend_on_what_was_cached(kind: str) -> None:
    network = noisy_network(kind, 4)
    rng = random.Random(5)
    ids = [rng.randrange(tiny.VOCAB) for _ in range(24)]
    block = [None, 7, None, None]
    _, expected = network.forward(KVCache(network.decoder.config, 64), ids, [Block(24, block)], 0)
    for cached in (4, 8, 20, 24):
        cache = KVCache(network.decoder.config, 64)
        network.forward(cache, ids[:cached], (), 0)
        cache.keep(cached)
        _, found = network.forward(cache, ids[cached:], [Block(24 - cached, block)], 0)
        assert torch.equal(found, expected), cached


@pytest.mark.model
def test_the_adapter_leaves_the_real_models_clean_rows_as_they_are(generator: Generator) -> None:
    network, bare = generator.network, Network(generator.network.decoder, mask_id=generator.network.mask_id)
    ids = encode_text(generator._tokenizer, (STDLIB / "textwrap.py").read_text())[:40]
    cache = KVCache(network.decoder.config, 64)
    alone, _ = bare.forward(cache, ids, (), 40)
    beside, noisy = network.forward(cache, ids, [Block(40, [None] * 4)], 40)
    assert torch.equal(alone, beside)
    without, _ = bare.forward(cache, [*ids, *[0] * 4], (), 4)
    assert not torch.equal(network.decoder.logits(noisy), without)  # and acts on the noisy ones


@pytest.mark.parametrize("tail", [0, 1, 3, 9])
def test_a_tail_is_the_end_of_the_whole(tail: int) -> None:
    decoder = tiny.decoder(tiny.config(), 2)
    network, ids = Network(decoder), [5, 9, 2, 44, 1, 7, 8, 30, 31]
    whole, _ = network.forward(KVCache(decoder.config, 16), ids, (), 9)
    part, _ = network.forward(KVCache(decoder.config, 16), ids, (), tail)
    assert torch.equal(part, whole[9 - tail :] if tail else part)
    assert len(part) == tail


# --- what int8 costs


def loss(decoder: Decoder, texts: list[list[int]]) -> float:
    """Mean loss of the texts' tokens but their first, nats."""
    logs = [
        logits(decoder, ids[:-1]).log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]) for ids in texts
    ]
    return -torch.cat(logs).mean().item()


@pytest.mark.model
def test_int8_loses_at_most_a_hundredth(generator: Generator, fp32: Loaded) -> None:
    files = ("shlex.py", "sched.py", "fnmatch.py", "colorsys.py")
    texts = [encode_text(fp32.tokenizer, (STDLIB / file).read_text())[:200] for file in files]
    exact, small = loss(fp32.decoder, texts), loss(generator.network.decoder, texts)
    print(f"loss over {sum(map(len, texts))} tokens: fp32 {exact:.4f}, int8 {small:.4f} nats")
    assert small == pytest.approx(exact, rel=0.01)
