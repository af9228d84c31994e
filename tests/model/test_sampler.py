"""The fast sampler against the plain one, and the laws of verification, on tiny networks of every kind."""

from __future__ import annotations

import random

import pytest
import torch

from model.decoder import KVCache
from model.drafters import PromptLookup
from model.sampler import PREFILL_ROWS, Block, Run, denoise, prefill, verify
from model.unmask import UnmaskRule
from tests.model import reference_sampler as reference
from tests.model.tiny import END, FLAT, MASK, STEEP, VOCAB, network

RULES = [
    UnmaskRule.of("sequential", None),
    UnmaskRule.of("confidence", 0.3),
    UnmaskRule.of("entropy_bound", 0.8),
    UnmaskRule.of("top_k", 2),
]


def prompt_of(rng: random.Random, length: int, repeats: bool = False) -> list[int]:
    """Random ids; END and MASK may well be among them: in a prompt they are only tokens."""
    ids = [rng.randrange(VOCAB) for _ in range(length)]
    return (ids[: length // 3 + 1] * 4)[:length] if repeats else ids


@pytest.mark.parametrize("kind", ["gated", "gated-small", "gated-chain", "merged", "merged-causal"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_denoise_equals_the_plain_sampler(kind: str, rule: UnmaskRule) -> None:
    rng = random.Random(f"{kind} {rule.name}")
    for seed in range(12):
        block = rng.choice([1, 2, 3, 4, 8])
        net = network(kind, block, seed)
        prompt = prompt_of(rng, rng.randrange(1, 23))
        budget, temperature = rng.randrange(1, 20), rng.choice([0.0, 0.0, 0.8])
        run = Run(max_tokens=budget, ends=frozenset({END}), temperature=temperature, seed=seed)
        cache = KVCache(net.decoder.config, 128)
        split = rng.randrange(len(prompt))
        split -= split % block if net.aligned else 0
        assert prefill(net, cache, prompt[:split], run) == split
        denoise(net, cache, prompt[split:], run, rule)
        wanted = reference.denoise(net, prompt, budget, {END}, rule, temperature, seed)
        assert run.tokens == wanted, (seed, block, len(prompt), budget, split)
        assert MASK not in run.tokens
        assert run.stop_reason == ("budget" if len(wanted) == budget else "end_token")


@pytest.mark.parametrize("kind", ["base", "gated", "gated-small", "gated-chain", "merged-ar"])
@pytest.mark.parametrize("cost", [FLAT, STEEP], ids=["flat", "steep"])
def test_verify_equals_plain_autoregression(kind: str, cost: object) -> None:
    rng = random.Random(kind)
    for seed in range(25):
        net = network(kind, rng.choice([2, 4, 6]), seed)
        prompt = prompt_of(rng, rng.randrange(1, 30), repeats=seed % 2 == 0)
        budget, temperature = rng.randrange(1, 40), rng.choice([0.0, 0.0, 0.7])
        run = Run(max_tokens=budget, ends=frozenset({END}), temperature=temperature, seed=seed)
        cache = KVCache(net.decoder.config, 128)
        verify(net, cache, prompt, run, cost, PromptLookup(prompt, 2))  # type: ignore[arg-type]
        assert run.tokens == reference.autoregressive(net, prompt, budget, {END}, temperature, seed), (
            seed,
            kind,
        )
        assert run.forwards <= len(run.tokens) + 1


@pytest.mark.parametrize("kind", ["gated", "gated-chain"])
def test_revealing_the_first_place_alone_is_the_bases_own_greedy_text(kind: str) -> None:
    rng = random.Random(kind)
    for seed in range(8):
        net, prompt = network(kind, rng.choice([1, 3, 4]), seed), prompt_of(rng, rng.randrange(1, 20))
        run = Run(max_tokens=20, ends=frozenset({END}))
        denoise(net, KVCache(net.decoder.config, 128), prompt, run, UnmaskRule.of("sequential", None))
        assert run.tokens == reference.autoregressive(net, prompt, 20, {END})


def test_drafts_save_forwards_where_text_repeats() -> None:
    net = network("base", 1, 3)
    free = Run(max_tokens=60, ends=frozenset())
    cache = KVCache(net.decoder.config, 128)
    verify(net, cache, [7], free, FLAT)
    text = free.tokens
    again = Run(max_tokens=60, ends=frozenset())
    verify(net, KVCache(net.decoder.config, 256), [7], again, FLAT, PromptLookup([7, *text, 7], 2))
    assert again.tokens == text
    assert again.forwards < free.forwards / 2


def test_masked_block_never_changes_what_clean_rows_say() -> None:
    net = network("gated", 4, 5)
    cache = KVCache(net.decoder.config, 64)
    with_block, _ = net.forward(cache, [1, 2, 3], [Block(3, [None] * 4), Block(1, [None] * 2)], 3)
    alone, _ = net.forward(cache, [1, 2, 3], [], 3)
    assert torch.equal(with_block, alone)


@pytest.mark.parametrize("kind", ["gated", "merged"])
def test_every_place_of_a_block_sees_every_other(kind: str) -> None:
    net = network(kind, 4, 2)
    cache = KVCache(net.decoder.config, 64)
    _, first = net.forward(cache, [1, 2, 3, 4], [Block(4, [None, 9, None, None])], 0)
    _, other = net.forward(cache, [1, 2, 3, 4], [Block(4, [None, 9, None, 10])], 0)
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("block", [3, 4])
def test_a_long_prompt_is_read_by_whole_blocks(block: int) -> None:
    """Every token sees its whole block, also where one forward ends and the next begins."""
    net, prompt = (
        network("merged", block, 4),
        prompt_of(random.Random(block), 2 * PREFILL_ROWS // block * block),
    )
    parts, whole = (KVCache(net.decoder.config, 2 * PREFILL_ROWS) for _ in range(2))
    prefill(net, parts, prompt, Run(max_tokens=1, ends=frozenset()))
    net.forward(whole, prompt, (), 0)
    assert torch.equal(parts.keys, whole.keys)


def test_cancellation_and_deadline_stop_between_forwards() -> None:
    net = network("gated", 4, 1)
    looks = iter([False, False, True])
    run = Run(max_tokens=500, ends=frozenset(), cancelled=lambda: next(looks))
    verify(net, KVCache(net.decoder.config, 64), [1], run, FLAT)
    assert (run.stop_reason, run.forwards) == ("cancelled", 2)
    late = Run(max_tokens=500, ends=frozenset(), deadline=0.0)
    denoise(net, KVCache(net.decoder.config, 64), [1], late, RULES[0])
    assert (late.stop_reason, late.forwards, late.tokens) == ("deadline", 0, [])


def test_drafts_are_shown_with_their_masks() -> None:
    net = network("gated", 4, 1)
    shown = []
    run = Run(max_tokens=12, ends=frozenset(), on_draft=shown.append)
    denoise(net, KVCache(net.decoder.config, 64), [1, 2], run, RULES[0])
    assert len(shown) == run.forwards - 1  # the last one's text is the answer
    assert any(None in draft.block for draft in shown)
    assert [draft.tokens for draft in shown] == [tuple(run.tokens[: len(draft.tokens)]) for draft in shown]
