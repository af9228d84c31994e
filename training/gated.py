"""The gated adapter over a frozen base, as training sees it: cheap clean passes, noisy passes with gradients.

The base's linears are int8 in both directions (`frozen.py`); where the processor multiplies it, bf16 is up to twice as
fast (`bf16.py`). Clean rows run without gradient and without the adapter, once a sequence; noisy blocks attend to their
keys and values (`noisy_blocks.py`).

Knows nothing of files, schedules or losses.

Shape suffixes: C clean tokens, N noisy blocks, B places of a block, R noisy rows of all sequences, D width, V
vocabulary, S the drafting head's vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from model import store
from model.adapters import CHAIN
from model.checkpoints import open_checkpoint
from model.decoder import (
    FUSED,
    Chain,
    Config,
    Decoder,
    Layer,
    fused_bias,
    fused_weight,
    layer_norms,
    linear_shapes,
)
from model.loading import TWO_DIGITS
from model.quantise import Fp32Linear, Int8Linear
from model.schema import DiffcoderError
from training import bf16
from training.draft_head import DraftHead
from training.frozen import FrozenLinear, GatedLinear
from training.noisy_blocks import Apart, BlockAttention, Clean, Noisy


class GatedModel:
    """A frozen base and a trainable gated adapter.

    `draft_vocab_S` are the token ids that the drafting head knows; every id this class takes or returns is a
    full-vocabulary id. `precision` is that of all products but the heads'.
    """

    def __init__(
        self,
        base: Path,
        *,
        rank: int,
        scale: float,
        draft_vocab_S: Tensor,
        seed: int,
        chain: int = 0,
        precision: Literal["int8", "bf16"] = "int8",
    ):
        checkpoint = open_checkpoint(base)
        self.base, self.config, self.rank, self.scale = base, checkpoint.config, rank, scale
        c = self.config
        self.parameters = _initial_adapter(c, rank, chain, seed)
        clean: list[Layer] = []
        noisy: list[Layer] = []
        self._kind = torch.bfloat16 if precision == "bf16" else torch.float32
        for n in range(c.layers):
            products: dict[str, Any] = {}
            gated: dict[str, Any] = {}
            for fused in FUSED:
                weight = fused_weight(checkpoint.tensor, n, fused)
                bias = fused_bias(checkpoint.tensor, c, n, fused)
                pairs = [self._pair(n, name) for name in FUSED[fused]]
                if precision == "bf16":
                    gated[fused] = made = bf16.GatedLinear(weight, bias, pairs, scale)
                    products[fused] = made.frozen
                else:
                    frozen = FrozenLinear(weight, bias, digits=2 if fused in TWO_DIGITS else 1)
                    products[fused], gated[fused] = frozen.product, GatedLinear(frozen, pairs, scale)
            norms: dict[str, Any] = layer_norms(checkpoint.tensor, c, n)
            clean.append(Layer(**products, **norms))
            noisy.append(Layer(**gated, **norms))
        embedding = checkpoint.tensor("embed.weight")
        head = embedding if c.tied else checkpoint.tensor("head.weight")
        head_SD = head[draft_vocab_S]
        norm = checkpoint.tensor("norm.weight")
        self.clean = Decoder(c, clean, embedding, norm, Int8Linear.of(head))
        # Scores come from int8 products in either precision: in bf16 two of 24,576 would often be equal.
        draft_head = (
            FrozenLinear(head_SD, transposed=bf16.Frozen(head_SD.T.contiguous()))
            if precision == "bf16"
            else FrozenLinear.head(head_SD)
        )
        self.noisy = Decoder(c, noisy, embedding, norm, draft_head)
        self.drafts = DraftHead(
            draft_vocab_S, c.vocab, draft_head, chain_of(self.parameters, "chain."), self.noisy.embed
        )
        if not self.parameters["mask_embedding"].any():
            self.parameters["mask_embedding"].data.copy_(embedding.mean(0))

    def _pair(self, layer: int, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        prefix = f"layers.{layer}.{name}.lora_"
        return self.parameters[prefix + "A"], self.parameters[prefix + "B"]

    @torch.no_grad()
    def read(self, *ids_C: Tensor) -> list[tuple[Clean, Tensor]]:
        """The frozen base over clean sequences, in one pass: their keys and values, and hidden states (C, D)."""
        lengths = [len(ids) for ids in ids_C]
        sequences = [Clean(self.config, length, self._kind) for length in lengths]
        positions = torch.cat([torch.arange(length) for length in lengths])
        hidden = self.clean.forward(self.clean.embed(torch.cat(ids_C)), positions, Apart(sequences))
        return list(zip(sequences, hidden.split(lengths), strict=True))

    @torch.no_grad()
    def choose(self, hidden_CD: Tensor) -> Tensor:
        """The base's greedy next token after each row."""
        return self.clean.logits(hidden_CD).argmax(-1)

    def denoise(self, *parts: Noisy) -> Tensor:
        """Hidden states (R, D) of noisy blocks, part by part; with gradient."""
        places = [part.anchors_N[:, None] + 1 + torch.arange(part.ids_NB.shape[1]) for part in parts]
        ids_R, mask_R, positions_R = (
            torch.cat([x.reshape(-1) for x in some])
            for some in ([part.ids_NB for part in parts], [part.mask_NB for part in parts], places)
        )
        x_RD = torch.where(mask_R[:, None], self.parameters["mask_embedding"], self.noisy.embed(ids_R))
        sight = BlockAttention(parts, self.config.heads // self.config.kv_heads)
        return self.noisy.forward(x_RD, positions_R, sight)


def chain_of(weights: Mapping[str, Tensor], prefix: str) -> Chain | None:
    """The chain whose weights have names that begin so, in fp32; None where there are none."""
    names = [prefix + name for name in CHAIN]
    return Chain(*(Fp32Linear(weights[name]) for name in names)) if names[0] in weights else None


def _initial_adapter(config: Config, rank: int, chain: int, seed: int) -> dict[str, nn.Parameter]:
    """A random, B zero: the adapter starts as the base itself. The mask embedding is set later."""
    generator = torch.Generator().manual_seed(seed)
    parameters = initial_pairs(config, rank, generator)
    parameters["mask_embedding"] = nn.Parameter(torch.zeros(config.width))
    if chain:
        for name in ("hidden_A", "token_A"):
            down = torch.randn(chain, config.width, generator=generator) / math.sqrt(config.width)
            parameters[f"chain.{name}"] = nn.Parameter(down)
        parameters["chain.B"] = nn.Parameter(torch.zeros(config.width, chain))
    return parameters


def initial_pairs(c: Config, rank: int, generator: torch.Generator) -> dict[str, nn.Parameter]:
    """A low-rank pair for every linear of every layer, by the names of adapter files; B is zero."""
    parameters = {}
    for n in range(c.layers):
        for name, (out, width) in linear_shapes(c).items():
            down = torch.randn(rank, width, generator=generator) / math.sqrt(width)
            parameters[f"layers.{n}.{name}.lora_A"] = nn.Parameter(down)
            parameters[f"layers.{n}.{name}.lora_B"] = nn.Parameter(torch.zeros(out, rank))
    return parameters


def adapter_bytes(
    weights: Mapping[str, Tensor],
    draft_vocab_S: Tensor,
    scale: float,
    base_sha256: str,
    facts: dict[str, object],
) -> bytes:
    """The adapter as a safetensors file: fp16 weights, `draft_vocab`, and the metadata that the engine needs."""
    tensors = {name: value.detach().half().contiguous() for name, value in weights.items()}
    tensors["draft_vocab"] = draft_vocab_S.int()
    table = {
        "kind": "gated",
        "rank": len(weights["layers.0.q.lora_A"]),
        "scale": scale,
        "base_sha256": base_sha256,
    } | facts
    return save(
        tensors,
        {name: value if isinstance(value, str) else json.dumps(value) for name, value in table.items()},
    )


def load_adapter(model: GatedModel, path: Path) -> dict[str, str]:
    """Put an adapter file's weights into the model; returns its metadata. That the file is for this base is
    `model.adapters.read_adapter`'s to say; raises DiffcoderError where its shapes are others."""
    with safe_open(path, "pt") as file:
        names = set(file.keys()) - {"draft_vocab"}
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        if shapes != {name: tuple(value.shape) for name, value in model.parameters.items()}:
            raise DiffcoderError(
                "bad_adapter", f"{path} has another rank or chain than the recipe: change one of them."
            )
        for name in names:
            model.parameters[name].data.copy_(file.get_tensor(name))
        return dict(file.metadata() or {})


def checkpoint_sha256(path: Path) -> str:
    """SHA-256 of a checkpoint file; of a folder, that of its first weights file by name."""
    if path.is_dir():
        path = min(path.glob("*.safetensors"))
    return store.sha256(path)
