"""A plain, slow sampler: recomputes everything at every step with a dense mask, caches nothing, fuses nothing.

The oracle for model/sampler.py: the same tokens under the same rule and seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.decoder import KVCache
from model.sampler import Network
from model.unmask import UnmaskRule


def gumbel(size: int, seed: int, place: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + place) & 0x7FFF_FFFF_FFFF_FFFF)
    return -(-torch.rand(size, generator=generator).clamp_min(1e-20).log()).log()


def pick(logits: Tensor, temperature: float, seed: int, place: int) -> tuple[int, float, float]:
    """(index, probability, entropy)."""
    scores = logits / temperature + gumbel(len(logits), seed, place) if temperature > 0 else logits
    index = int(scores.argmax())
    log = logits.log_softmax(-1)
    return index, float(log[index].exp()), float(-(log.exp() * log).nansum())


@torch.inference_mode()
def dense(network: Network, clean: list[int], block: list[int | None]) -> tuple[Tensor, Tensor]:
    """Scores of every clean row (n, V) and hidden states of every row of the block (b, D), from nothing."""
    n, b = len(clean), len(block)
    d = network.decoder
    x = torch.cat(
        [
            d.embed(torch.tensor(clean, dtype=torch.long)),
            torch.stack(
                [
                    d.embed(torch.tensor([network.mask_id if token is None else token]))[0]
                    if token is not None or network.adapter is None
                    else network.adapter.mask_embedding
                    for token in block
                ]
            )
            if b
            else torch.zeros(0, d.config.width),
        ]
    )
    mask = torch.zeros(n + b, n + b, dtype=torch.bool)
    for i in range(n + b):
        for j in range(n + b):
            if i >= n:
                mask[i, j] = True
            elif network.block_causal:
                mask[i, j] = j < n and j // network.block <= i // network.block
            else:
                mask[i, j] = j <= i
    cache = KVCache(d.config, n + b)
    cache.see(mask)
    gates = [(network.adapter, slice(n, n + b))] if network.adapter is not None and b else []
    hidden = d.forward(x, torch.arange(n + b), cache, gates)
    ar = d.logits(hidden[:n])
    if network.mask_id is not None:
        ar[:, network.mask_id] = -torch.inf
    return ar, hidden[n:]


@torch.inference_mode()
def scores(network: Network, hidden: Tensor, own: int | None) -> Tensor:
    """Scores (S,) of one noisy row whose own place holds the token `own`."""
    if network.adapter is not None and (chain := network.adapter.chain) is not None:
        token = network.decoder.embed(torch.tensor([own]))[0]
        length = hidden.pow(2).mean().add(1e-6).sqrt(), token.pow(2).mean().add(1e-6).sqrt()
        inner = chain.hidden_A((hidden / length[0])[None]) + chain.token_A((token / length[1])[None])
        hidden = hidden + chain.B(inner * inner.sigmoid())[0]
    head = network.draft_head if network.draft_head is not None else network.decoder.logits
    found = head(hidden[None])[0]
    ids = torch.arange(len(found)) if network.draft_vocab_S is None else network.draft_vocab_S
    found[ids == network.mask_id] = -torch.inf
    return found


def autoregressive(
    network: Network, prompt: list[int], budget: int, ends: set[int], temperature: float = 0.0, seed: int = 0
) -> list[int]:
    out: list[int] = []
    while len(out) < budget:
        ar, _ = dense(network, prompt + out, [])
        token, _, _ = pick(ar[-1], temperature, seed, len(out))
        if token in ends:
            break
        out.append(token)
    return out


def denoise(
    network: Network,
    prompt: list[int],
    budget: int,
    ends: set[int],
    rule: UnmaskRule,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[int]:
    text = list(prompt)
    goal = len(prompt) + budget
    ahead: dict[int, int] = {}  # places of the text that were revealed before those in front of them
    while len(text) < goal:
        start = len(text) // network.block * network.block if network.aligned else len(text)
        end = min(start + network.block, goal)
        clean = text[:start]
        block = [*text[start:], *[ahead.get(i) for i in range(len(text), end)]]
        known = len(text) - start
        while None in block:
            ar, hidden = dense(network, clean, block)
            masked = [i for i, token in enumerate(block) if token is None]
            found: dict[int, tuple[int, float, float]] = {}
            for i in masked:
                place = start + i - len(prompt)
                if network.adapter is None:
                    found[i] = pick(scores(network, hidden[i], None), temperature, seed, place)
                elif i == 0:
                    found[i] = pick(ar[-1], temperature, seed, place)
                else:
                    guessed = block[i - 1] is None
                    own = found[i - 1][0] if guessed else block[i - 1]
                    index, p, h = pick(scores(network, hidden[i - 1], own), temperature, seed, place)
                    if network.draft_vocab_S is not None:
                        index = int(network.draft_vocab_S[index])
                    if guessed and network.adapter.chain is not None:  # both picks must hold
                        p, h = p * found[i - 1][1], h + found[i - 1][2]
                    found[i] = index, p, h
            chosen = rule.choose([found[i][1] for i in masked], [found[i][2] for i in masked])
            places = {masked[at] for at in chosen}
            if network.adapter is not None:
                places.add(0)
            for i in places:
                block[i] = found[i][0]
            for i in range(known, end - start):
                if block[i] is None:
                    break
                if block[i] in ends:
                    return (clean + block[:i])[len(prompt) :]  # type: ignore[return-value]
            if network.adapter is not None:
                break  # the block slides on
        revealed = block.index(None) if None in block else len(block)
        ahead = {start + i: token for i, token in enumerate(block) if token is not None}
        text = clean + block[:revealed]  # type: ignore[assignment]
    return text[len(prompt) :]
