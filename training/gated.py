"""The gated adapter over a frozen base, as training sees it: cheap clean passes, noisy passes with gradients.

The base's linears are int8 in both directions. Forward they are the engine's own products (`model.quantise`);
backward the gradient rows go through the transposed int8 weight, each row scaled on its own like any input.
On two AVX2 cores this is twice as fast as fp32, and the adapter learns against the very numbers it will run
on. Clean rows run without gradient and without the adapter, once a sequence; noisy blocks attend to their
keys and values.

Knows nothing of files, schedules or losses.

Shape suffixes: C clean tokens, N noisy blocks, B places of a block, R = N * B noisy rows, D width, H query
heads, K key/value heads, E head width, V vocabulary, S the drafting head's vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from model.checkpoints import open_checkpoint
from model.decoder import (
    FUSED,
    Chain,
    Config,
    Decoder,
    KVCache,
    Layer,
    Linear,
    fused_bias,
    fused_weight,
    layer_norms,
    linear_shapes,
)
from model.loading import TWO_DIGITS
from model.masks import causal
from model.quantise import Int8Linear, quantise_weight
from model.schema import DiffcoderError


class _Product(torch.autograd.Function):
    """y = forward(x), dx = backward(dy): a linear map whose weights are not trained."""

    @staticmethod
    def forward(ctx, x, forward_linear, backward_linear):
        ctx.backward_linear = backward_linear
        return forward_linear(x)

    @staticmethod
    def backward(ctx, dy):
        return ctx.backward_linear(dy), None, None


class FrozenLinear:
    """x @ weight.T + bias in int8, with a gradient for x alone."""

    def __init__(
        self, weight_OI: Tensor, bias_O: Tensor | None = None, digits: int = 1, gradient_digits: int = 1
    ):
        self.product = Int8Linear(*quantise_weight(weight_OI), bias_O, digits)
        self.transposed = Int8Linear(*quantise_weight(weight_OI.T.contiguous()), digits=gradient_digits)
        self.width = len(weight_OI)

    def __call__(self, x_NI: Tensor) -> Tensor:
        return _Product.apply(x_NI, self.product, self.transposed)


class GatedLinear:
    """A frozen (fused) linear with the low-rank products of its parts added to every row."""

    def __init__(self, frozen: Linear, pairs: list[tuple[nn.Parameter, nn.Parameter]], scale: float):
        self.frozen, self.pairs, self.scale, self.width = frozen, pairs, scale, frozen.width

    def __call__(self, x_NI: Tensor) -> Tensor:
        parts = [x_NI @ down.T @ (up.T * self.scale) for down, up in self.pairs]
        return self.frozen(x_NI) + (parts[0] if len(parts) == 1 else torch.cat(parts, -1))


class BlockAttention:
    """Noisy rows of N blocks: each block sees the clean keys up to its anchor and all of itself."""

    def __init__(self, cache: KVCache, anchors_N: Tensor, block: int):
        self.cache, self.block = cache, block
        self.clean = cache.length
        seen_NC = torch.arange(self.clean)[None] <= anchors_N[:, None]
        bias_NC = torch.zeros(seen_NC.shape).masked_fill_(~seen_NC, -torch.inf)
        self.bias_R1C = bias_NC.repeat_interleave(block, 0)[:, None]

    def attend(self, layer: int, q_RHE: Tensor, k_RKE: Tensor, v_RKE: Tensor) -> Tensor:
        rows, heads, e = q_RHE.shape
        kv, b, c = k_RKE.shape[1], self.block, self.clean
        g = heads // kv
        q = (q_RHE * e**-0.5).view(rows, kv, g, e).transpose(0, 1).reshape(kv, rows * g, e)
        k_own = k_RKE.view(rows // b, b, kv, e).permute(2, 0, 3, 1)  # K N E B
        v_own = v_RKE.view(rows // b, b, kv, e).permute(2, 0, 1, 3)  # K N B E
        keys, values = self.cache.keys[layer][:, :c], self.cache.values[layer][:, :c]
        clean = torch.bmm(q, keys.transpose(1, 2)).view(kv, rows, g, c).add_(self.bias_R1C)
        own = q.view(kv, rows // b, b * g, e) @ k_own
        weights = torch.cat([clean, own.view(kv, rows, g, b)], -1).softmax(-1)
        out = torch.bmm(weights[..., :c].reshape(kv, rows * g, c), values).view(kv, rows // b, b * g, e)
        out = out + weights[..., c:].reshape(kv, rows // b, b * g, b) @ v_own
        return out.view(kv, rows, g, e).transpose(0, 1).reshape(rows, heads, e)


class GatedModel:
    """A frozen base and a trainable gated adapter.

    `draft_vocab_S` are the token ids that the drafting head knows; every id this class takes or returns is a
    full-vocabulary id unless its name says `draft`.
    """

    def __init__(
        self, base: Path, *, rank: int, scale: float, draft_vocab_S: Tensor, seed: int, chain: int = 0
    ):
        checkpoint = open_checkpoint(base)
        self.base, self.config, self.rank, self.scale = base, checkpoint.config, rank, scale
        self.draft_vocab_S = draft_vocab_S
        c = self.config
        self.draft_of_V = torch.full((c.vocab,), -1).scatter_(
            0, draft_vocab_S, torch.arange(len(draft_vocab_S))
        )
        self.parameters = _initial_adapter(c, rank, chain, seed)
        self.chain = (
            Chain(*(self.parameters[f"chain.{name}"] for name in ("hidden_A", "token_A", "B")))
            if chain
            else None
        )
        clean: list[Layer] = []
        noisy: list[Layer] = []
        for n in range(c.layers):
            frozen = {
                fused: FrozenLinear(
                    fused_weight(checkpoint.tensor, n, fused),
                    fused_bias(checkpoint.tensor, c, n, fused),
                    digits=2 if fused in TWO_DIGITS else 1,
                )
                for fused in FUSED
            }
            gated = {
                fused: GatedLinear(linear, [self._pair(n, name) for name in FUSED[fused]], scale)
                for fused, linear in frozen.items()
            }
            norms = layer_norms(checkpoint.tensor, c, n)
            clean.append(Layer(**{fused: linear.product for fused, linear in frozen.items()}, **norms))  # type: ignore[arg-type]
            noisy.append(Layer(**gated, **norms))  # type: ignore[arg-type]
        embedding = checkpoint.tensor("embed.weight")
        head = embedding if c.tied else checkpoint.tensor("head.weight")
        self.clean = Decoder(c, clean, embedding, checkpoint.tensor("norm.weight"), Int8Linear.of(head))
        self.noisy = Decoder(
            c, noisy, embedding, checkpoint.tensor("norm.weight"), FrozenLinear(head[draft_vocab_S])
        )
        if not self.parameters["mask_embedding"].any():
            self.parameters["mask_embedding"].data.copy_(embedding.mean(0))

    def _pair(self, layer: int, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        prefix = f"layers.{layer}.{name}.lora_"
        return self.parameters[prefix + "A"], self.parameters[prefix + "B"]

    @torch.no_grad()
    def read(self, ids_C: Tensor) -> tuple[KVCache, Tensor]:
        """The frozen base over clean tokens: its keys and values, and its hidden states (C, D)."""
        cache = KVCache(self.config, len(ids_C))
        cache.see(causal(len(ids_C), 0))
        hidden_CD = self.clean.forward(self.clean.embed(ids_C), torch.arange(len(ids_C)), cache)
        cache.keep(len(ids_C))
        return cache, hidden_CD

    @torch.no_grad()
    def choose(self, hidden_CD: Tensor) -> Tensor:
        """The base's greedy next token after each row."""
        return self.clean.logits(hidden_CD).argmax(-1)

    @torch.no_grad()
    def teach(self, hidden_CD: Tensor) -> Tensor:
        """The base's own scores (C, S) over the drafting vocabulary for the token after each row."""
        return self.noisy.head.product(hidden_CD)  # type: ignore[attr-defined]

    def denoise(self, cache: KVCache, ids_NB: Tensor, mask_NB: Tensor, anchors_N: Tensor) -> Tensor:
        """Hidden states (R, D) of the noisy blocks that follow clean positions `anchors_N`; with gradient."""
        block = ids_NB.shape[1]
        positions_R = (anchors_N[:, None] + 1 + torch.arange(block)).reshape(-1)
        x_RD = torch.where(
            mask_NB.reshape(-1, 1), self.parameters["mask_embedding"], self.noisy.embed(ids_NB.reshape(-1))
        )
        return self.noisy.forward(x_RD, positions_R, BlockAttention(cache, anchors_N, block))

    def draft_logits(self, hidden_RD: Tensor, previous_R: Tensor) -> Tensor:
        """(R, S) scores over the drafting vocabulary, with gradient, given the tokens at the rows' own places."""
        embedding_RD = self.noisy.embed(previous_R)
        return self.noisy.logits(self.chain(hidden_RD, embedding_RD) if self.chain else hidden_RD)


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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_ids(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))
