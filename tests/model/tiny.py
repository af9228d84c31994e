"""Tiny random networks of every kind the sampler knows, for tests of laws that hold whatever the weights.

Their linears are int8, as the engine's are: results do not depend on which rows are computed together.
"""

from __future__ import annotations

import torch

from model.decoder import FUSED, Adapter, Chain, Config, Decoder, Layer, Pairs, first_factors, linear_shapes
from model.drafters import CostCurve
from model.quantise import Fp32Linear, Int8Linear, quantise_weight
from model.sampler import Network

VOCAB, MASK, END = 61, 5, 2
FLAT = CostCurve({1: 1.0, 64: 1.2})
STEEP = CostCurve({1: 1.0, 64: 64.0})


def config(**changes: object) -> Config:
    base = {
        "layers": 2,
        "width": 32,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "mlp_width": 48,
        "vocab": VOCAB,
        "rope_theta": 1e4,
        "norm_eps": 1e-6,
        "qkv_bias": True,
        "qk_norm": False,
        "tied": False,
        "context": 512,
    }
    return Config(**(base | changes))  # type: ignore[arg-type]


def linear(
    weight: torch.Tensor, bias: torch.Tensor | None = None, further: torch.Tensor | None = None
) -> Int8Linear:
    return Int8Linear(*quantise_weight(weight), bias, further_RI=further)


def decoder(c: Config, seed: int, pairs: Pairs | None = None) -> Decoder:
    """With the first factors of `pairs` in its linears, for an adapter of theirs."""
    g = torch.Generator().manual_seed(seed)
    further: list[dict[tuple[str, ...], torch.Tensor | None]] = [
        {names: first_factors(pairs[n], names) if pairs else None for names in FUSED.values()}
        for n in range(c.layers)
    ]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g) / shape[-1] ** 0.5

    kv = c.kv_heads * c.head_dim
    layers = [
        Layer(
            attn_norm=torch.ones(c.width),
            qkv=linear(
                random(c.heads * c.head_dim + 2 * kv, c.width) * 2,
                random(c.heads * c.head_dim + 2 * kv),
                more["q", "k", "v"],
            ),
            o=linear(random(c.width, c.heads * c.head_dim), further=more["o",]),
            mlp_norm=torch.ones(c.width),
            gate_up=linear(random(2 * c.mlp_width, c.width) * 2, further=more["gate", "up"]),
            down=linear(random(c.width, c.mlp_width), further=more["down",]),
        )
        for more in further
    ]
    return Decoder(c, layers, random(c.vocab, c.width) * 4, torch.ones(c.width), linear(head_weight(c, seed)))


def head_weight(c: Config, seed: int) -> torch.Tensor:
    return (
        torch.randn(c.vocab, c.width, generator=torch.Generator().manual_seed(seed + 100)) / c.width**0.5 * 3
    )


def pairs(c: Config, seed: int, rank: int = 4) -> Pairs:
    g = torch.Generator().manual_seed(seed)
    return [
        {
            name: (torch.randn(rank, i, generator=g) / i**0.5, torch.randn(o, rank, generator=g) / rank**0.5)
            for name, (o, i) in linear_shapes(c).items()
        }
        for _ in range(c.layers)
    ]


def adapter(c: Config, seed: int, *, chained: bool = False) -> Adapter:
    """Of `pairs(c, seed)`, which the decoder must hold."""
    g, d = torch.Generator().manual_seed(seed + 1000), c.width
    mask_embedding = torch.randn(d, generator=g)
    chain = [torch.randn(*shape, generator=g) for shape in ((6, d), (6, d), (d, 6))] if chained else []
    return Adapter(pairs(c, seed), mask_embedding, Chain(*map(Fp32Linear, chain)) if chained else None)


def network(kind: str, block: int, seed: int) -> Network:
    """`kind`: base (AR), gated, gated-small (drafts from part of the vocabulary), gated-chain (that, and rows are told
    their own tokens), merged (block-causal, aligned), merged-causal, merged-ar."""
    c = config()
    d = decoder(c, seed, pairs(c, seed + 1) if kind.startswith("gated") else None)
    if kind == "base":
        return Network(d)
    if kind.startswith("merged"):
        return Network(
            d,
            block=block,
            mask_id=MASK,
            block_causal=kind == "merged",
            aligned=True,
            verifies=kind == "merged-ar",
        )
    if kind == "gated":
        return Network(d, block=block, mask_id=MASK, adapter=adapter(c, seed + 1))
    vocab = torch.tensor([id for id in range(VOCAB) if id % 3 or id == END])
    head = linear(head_weight(c, seed)[vocab])
    gate = adapter(c, seed + 1, chained=kind == "gated-chain")
    return Network(d, block=block, mask_id=MASK, adapter=gate, draft_head=head, draft_vocab_S=vocab)
