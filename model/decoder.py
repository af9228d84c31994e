"""One lean decoder for the Llama, Qwen2 and Qwen3 shapes: RMSNorm, RoPE, grouped-query attention, SwiGLU.

Takes embeddings, positions and something that attends; returns hidden states. It knows nothing of tokens' meaning,
of sampling, of where weights come from, nor of how its linear layers hold their numbers (`quantise.py`).

Every product here is *batch invariant* on the CPU: a row's result does not depend on how many rows are computed with
it. That is what lets a verified draft equal plain autoregressive decoding to the last bit, and a cached prefix equal
a recomputed one. Int8 linears are invariant by construction (rows are scaled one by one, sums are exact integers);
attention is written as plain matrix products because fused attention kernels are not (tests/model/test_decoder.py).
The rows of a drafting adapter are the exception: they are drafts, and what the base says of them is not theirs.

Shape suffixes: N rows (tokens) of this forward, T rows visible (cache and N), D width, H query heads, K key/value
heads, G = H / K, E head width, R adapter rank, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Linear(Protocol):
    """(N, in) to (N, width), and further columns behind, if the linear holds an adapter's first factors."""

    width: int

    def __call__(self, x_NI: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Config:
    """Shape of a decoder. `context` is the longest sequence its positions were trained for, in tokens."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocab: int
    rope_theta: float
    norm_eps: float
    qkv_bias: bool
    qk_norm: bool
    tied: bool
    context: int


# What the BLAS adds up in which order depends on the sizes of a product. In products of 8 to 448 rows, over keys in
# blocks of 256, a row's result was never seen to depend on its neighbours (MKL 2024.2, AVX2, one and two threads;
# tests/model/test_decoder.py holds it): smaller ones are padded, larger ones cut.
LEAST_ROWS, KEY_BLOCK = 8, 256
MOST_TOKENS = 32


FUSED: dict[str, tuple[str, ...]] = {
    "qkv": ("q", "k", "v"),
    "o": ("o",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
}
"""The linears of a `Layer`, and those of a checkpoint whose rows each of them stacks."""
LINEARS = tuple(name for names in FUSED.values() for name in names)


def linear_shapes(c: Config) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear of a layer, in the order of `LINEARS`."""
    q, kv, d, m = c.heads * c.head_dim, c.kv_heads * c.head_dim, c.width, c.mlp_width
    shapes = [(q, d), (kv, d), (kv, d), (d, q), (m, d), (m, d), (d, m)]
    return dict(zip(LINEARS, shapes, strict=True))


def fused_weight(tensor: Callable[[str], Tensor], layer: int, fused: str) -> Tensor:
    """The weight of a layer's linear out of a checkpoint's tensors."""
    return torch.cat([tensor(f"layers.{layer}.{name}.weight") for name in FUSED[fused]])


def fused_bias(tensor: Callable[[str], Tensor], c: Config, layer: int, fused: str) -> Tensor | None:
    """The bias of a layer's linear, where this shape has one."""
    if not c.qkv_bias or fused != "qkv":
        return None
    return torch.cat([tensor(f"layers.{layer}.{name}.bias") for name in FUSED[fused]])


def layer_norms(tensor: Callable[[str], Tensor], c: Config, layer: int) -> dict[str, Tensor]:
    """The norms of a layer, by the names of `Layer`'s fields."""
    names = ["attn_norm", "mlp_norm"] + ["q_norm", "k_norm"] * c.qk_norm
    return {name: tensor(f"layers.{layer}.{name}.weight") for name in names}


class Attention(Protocol):
    """What a forward attends to. Called once a layer with the new rows; decides what they see and what is kept."""

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Layer:
    """One block's weights. `qkv` and `gate_up` are fused: rows of q, k, v (gate, up) stacked in that order."""

    attn_norm: Tensor
    qkv: Linear
    o: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


@dataclass(frozen=True)
class Chain:
    """Tells a noisy row the token at its own place once that is chosen: h + B silu(A_h |h| + A_e |e|), with h the row's
    hidden state, e the token's embedding and |x| = x / rms(x). Drafts then depend on each other without a further
    forward (sequentially dependent draft heads: Hydra, arXiv 2402.05109).

    Shapes: `hidden_A` and `token_A` (C, D), `B` (D, C).
    """

    hidden_A: Linear
    token_A: Linear
    B: Linear

    def __call__(self, hidden_ND: Tensor, embedding_ND: Tensor) -> Tensor:
        inner_NC = self.hidden_A(_unit(hidden_ND)) + self.token_A(_unit(embedding_ND))
        return hidden_ND + self.B(F.silu(inner_NC))


def _unit(x_ND: Tensor) -> Tensor:
    return F.rms_norm(x_ND, x_ND.shape[-1:], eps=1e-6)


Pairs = Sequence[Mapping[str, tuple[Tensor, Tensor]]]
"""The low-rank factors of an adapter: `pairs[layer][linear]` is (A, B), A (R, in) and B (out, R), any scale in B."""


class Adapter:
    """Low-rank products for every linear of every layer, the embedding of a masked place, and perhaps a chain.

    Left unmerged: the decoder adds B(Ax) on the rows it is told to, so the other rows stay those of the frozen base,
    bit for bit. The base's linears hold the rows of A as their `further` ones (`first_factors`): passes over memory are
    what a forward of a few rows takes its time for, and A's ride along. B stays in fp32, a linear of the checkpoint at a
    time: in int8 each small product costs its input's rounding, and takes twice as long. The last bits of these products
    depend on how many rows there are; padding them away would take a third longer.
    """

    def __init__(self, pairs: Pairs, mask_embedding: Tensor, chain: Chain | None):
        self.mask_embedding, self.chain = mask_embedding, chain
        self._ups_RO = [{name: b_OR.T.contiguous() for name, (_, b_OR) in layer.items()} for layer in pairs]

    def add_(self, layer: int, names: Sequence[str], x_ND: Tensor, y_NO: Tensor) -> None:
        """Add the products to y in place; `names` are the linears fused into y's columns, in order. Ax stands behind
        them."""
        ups = [self._ups_RO[layer][name] for name in names]
        columns = y_NO.split([up.shape[1] for up in ups] + [len(up) for up in ups], 1)
        for part_NO, inner_NR, up_RO in zip(columns, columns[len(ups) :], ups, strict=False):
            part_NO.addmm_(inner_NR, up_RO)


def first_factors(layer: Mapping[str, tuple[Tensor, Tensor]], names: Sequence[str]) -> Tensor:
    """The rows of A of fused linears, stacked in their order."""
    return torch.cat([layer[name][0] for name in names])


class LowRank(Protocol):
    """Adds its products to a linear's, in place: `Adapter`, or what acts like one."""

    def add_(self, layer: int, names: Sequence[str], x_ND: Tensor, y_NO: Tensor) -> None: ...


Gate = tuple[LowRank, slice]
"""An adapter and the rows on which it acts."""


def _behind(gates: Sequence[Gate], shift: int) -> list[Gate]:
    """The gates of a forward's rows from `shift` on."""
    return [(a, slice(max(0, rows.start - shift), rows.stop - shift)) for a, rows in gates]


class Decoder:
    """`forward` maps embeddings to normalised hidden states, `logits` maps those to the vocabulary."""

    def __init__(
        self, config: Config, layers: Sequence[Layer], embedding: Tensor, norm: Tensor, head: Linear
    ):
        self.config, self.layers, self.embedding, self.norm, self.head = config, layers, embedding, norm, head
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        angles = torch.outer(torch.arange(config.context, dtype=torch.float32), config.rope_theta**-half)
        # Rotate-half convention: the sine of the first half carries the minus sign of the rotation.
        self._cos = torch.cat([angles.cos(), angles.cos()], -1)[:, None]
        self._sin = torch.cat([-angles.sin(), angles.sin()], -1)[:, None]

    def embed(self, ids_N: Tensor) -> Tensor:
        return F.embedding(ids_N, self.embedding).float()

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, V) float32 scores of the base's whole vocabulary."""
        return self.head(hidden_ND)

    def forward(
        self,
        x_ND: Tensor,
        positions_N: Tensor,
        attention: Attention,
        gates: Sequence[Gate] = (),
        tail: int | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, (N, D); of the last `tail` rows only, when given.

        `tail` may be 0 for a forward that is run for its keys and values alone.
        """
        last = len(self.layers) - 1
        cos, sin = self._cos[positions_N], self._sin[positions_N]
        for index in range(len(self.layers)):
            x_ND = self._layer(index, x_ND, cos, sin, attention, gates, tail if index == last else None)
        return F.rms_norm(x_ND, (self.config.width,), self.norm, self.config.norm_eps)

    def _layer(
        self,
        index: int,
        x_ND: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention: Attention,
        gates: Sequence[Gate],
        tail: int | None,
    ) -> Tensor:
        c, layer = self.config, self.layers[index]
        h_ND = F.rms_norm(x_ND, (c.width,), layer.attn_norm, c.norm_eps)
        qkv = _gated(index, ("q", "k", "v"), layer.qkv, h_ND, gates).view(len(x_ND), -1, c.head_dim)
        qk, v_NKE = qkv[:, : c.heads + c.kv_heads], qkv[:, c.heads + c.kv_heads :]
        if layer.q_norm is not None and layer.k_norm is not None:
            q = F.rms_norm(qk[:, : c.heads], (c.head_dim,), layer.q_norm, c.norm_eps)
            k = F.rms_norm(qk[:, c.heads :], (c.head_dim,), layer.k_norm, c.norm_eps)
            qk = torch.cat([q, k], 1)
        qk = qk * cos + qk.roll(c.head_dim // 2, -1) * sin
        q_NHE, k_NKE = qk[:, : c.heads], qk[:, c.heads :]
        if tail is not None:
            shift = len(x_ND) - tail
            q_NHE, x_ND = q_NHE[shift:], x_ND[shift:]
            gates = _behind(gates, shift)
        o_ND = attention.attend(index, q_NHE, k_NKE, v_NKE).reshape(len(x_ND), c.heads * c.head_dim)
        if not len(x_ND):
            return x_ND  # a forward for keys and values alone
        x_ND = x_ND + _gated(index, ("o",), layer.o, o_ND, gates)
        return x_ND + self._mlp(index, layer, x_ND, gates)

    def _mlp(self, index: int, layer: Layer, x_ND: Tensor, gates: Sequence[Gate]) -> Tensor:
        h_ND = F.rms_norm(x_ND, (self.config.width,), layer.mlp_norm, self.config.norm_eps)
        gate, up = _gated(index, ("gate", "up"), layer.gate_up, h_ND, gates).chunk(2, -1)
        return _gated(index, ("down",), layer.down, F.silu(gate) * up, gates)


def _gated(index: int, names: Sequence[str], linear: Linear, x_ND: Tensor, gates: Sequence[Gate]) -> Tensor:
    """The base's product for all rows, an adapter's added on its rows only."""
    y_NO = linear(x_ND)
    for adapter, rows in gates:
        adapter.add_(index, names, x_ND[rows], y_NO[rows])
    return y_NO[:, : linear.width]


def attend(q_NHE: Tensor, keys_KTE: Tensor, values_KTE: Tensor, bias_NT: Tensor | None) -> Tensor:
    """Grouped-query attention, (N, H, E). `bias_NT` is 0 where a row may look and -inf where not; it covers the last
    columns, those before it are seen by all; None: everything is.

    The G query heads of a key/value head are stacked as rows of one product: each key is read once for all of them.
    """
    n, heads, e = q_NHE.shape
    if n > MOST_TOKENS:
        parts = zip(
            q_NHE.split(MOST_TOKENS),
            [None] * -(-n // MOST_TOKENS) if bias_NT is None else bias_NT.split(MOST_TOKENS),
            strict=True,
        )
        return torch.cat([attend(q, keys_KTE, values_KTE, bias) for q, bias in parts])
    k = keys_KTE.shape[0]
    g = heads // k
    q = q_NHE.reshape(n, k, g, e).permute(1, 0, 2, 3).reshape(k, n * g, e) * e**-0.5
    if n * g < LEAST_ROWS:
        q = F.pad(q, (0, 0, 0, LEAST_ROWS - n * g))
    scores = torch.bmm(q, keys_KTE.transpose(1, 2))
    if bias_NT is not None:
        closing = scores[:, : n * g, scores.shape[-1] - bias_NT.shape[-1] :]
        closing.unflatten(1, (n, g)).add_(bias_NT[:, None])
    # Summed over keys in blocks of one size: of a longer sum, the library chooses the pieces by its length.
    weights = scores.softmax(-1).split(KEY_BLOCK, -1)
    values = values_KTE.split(KEY_BLOCK, 1)
    out = torch.bmm(weights[0], values[0])
    for weight, value in zip(weights[1:], values[1:], strict=True):
        out.baddbmm_(weight, value)
    if n * g < LEAST_ROWS:
        out = out[:, : n * g]
    return out.view(k, n, g, e).permute(1, 0, 2, 3).reshape(n, heads, e)


class KVCache:
    """Keys and values of committed tokens, in place in one buffer of fixed capacity (rows).

    `attend` writes the new rows behind the first `length` ones; they count only after `keep`. `see` sets what
    the next forward's rows may look at.
    """

    def __init__(self, config: Config, capacity: int):
        shape = (config.layers, config.kv_heads, -(-capacity // KEY_BLOCK) * KEY_BLOCK, config.head_dim)
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)
        self.capacity, self.length = capacity, 0
        self._bias: Tensor | None = None
        self._padded: Tensor | None = (
            None  # the same, up to a whole block of keys; made at a forward's first layer
        )

    def see(self, mask_NT: Tensor | None) -> None:
        """What the next forward's rows see: (N, length + N) booleans, True where a row may look; None: everything."""
        self._bias = self._padded = None
        if mask_NT is not None:
            open_columns = int(mask_NT.all(0).long().cumprod(0).sum())
            closed_NT = ~mask_NT[:, open_columns:]
            self._bias = torch.zeros(closed_NT.shape).masked_fill_(closed_NT, -torch.inf)

    def keep(self, rows: int) -> None:
        """Count the first `rows` rows of the last forward as committed."""
        self.length += rows
        self._padded = None

    def truncate(self, length: int) -> None:
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length
        self._padded = None

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        end = self.length + len(k_NKE)
        assert end <= self.capacity, (end, self.capacity)
        keys, values = self.keys[layer], self.values[layer]
        keys[:, self.length : end] = k_NKE.transpose(0, 1)
        values[:, self.length : end] = v_NKE.transpose(0, 1)
        if not len(q_NHE):
            return q_NHE
        if self._padded is None:
            self._padded = self._up_to_whole_blocks(len(k_NKE), -end % KEY_BLOCK)
        end += -end % KEY_BLOCK
        return attend(q_NHE, keys[:, :end], values[:, :end], self._padded[-len(q_NHE) :])

    def _up_to_whole_blocks(self, rows: int, pad: int) -> Tensor:
        hidden = torch.full((rows, pad), -torch.inf)
        return hidden if self._bias is None else torch.cat([self._bias, hidden], 1)
