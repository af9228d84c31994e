"""Noisy blocks over clean sequences: what each sees, computed with gradient for the blocks alone.

Any number of blocks stand behind anchors of one clean sequence; a row sees the clean keys up to its block's anchor and
all of its own block. Knows nothing of weights, targets or losses.

Shape suffixes: C clean tokens, N blocks, B places of a block, R rows of all blocks, H query heads, K key/value heads,
G = H / K, E head width, T keys that a piece looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.decoder import Config

_ROWS_A_PIECE = 48  # so that a piece's scores stay in the cache


class Clean:
    """Keys and values of a clean sequence, (layers, K, C, E), kept by the forward over it."""

    def __init__(self, config: Config, length: int, kind: torch.dtype):
        shape = (config.layers, config.kv_heads, length, config.head_dim)
        self.keys, self.values = torch.empty(shape, dtype=kind), torch.empty(shape, dtype=kind)

    def attend(self, layer: int, q_CHE: Tensor, k_CKE: Tensor, v_CKE: Tensor) -> Tensor:
        keys, values = (
            self.keys[layer].copy_(k_CKE.transpose(0, 1)),
            self.values[layer].copy_(v_CKE.transpose(0, 1)),
        )
        q = q_CHE.transpose(0, 1).to(keys.dtype)
        out = F.scaled_dot_product_attention(
            q[None], keys[None], values[None], is_causal=True, enable_gqa=True
        )
        return out[0].transpose(0, 1)


class Noisy(NamedTuple):
    """Noisy blocks over one clean sequence, each after its anchor."""

    clean: Clean
    ids_NB: Tensor
    mask_NB: Tensor
    anchors_N: Tensor


class Apart:
    """Clean rows of several sequences in one forward, each seeing its own sequence."""

    def __init__(self, sequences: Sequence[Clean]):
        self.sequences, self.lengths = sequences, [sequence.keys.shape[2] for sequence in sequences]

    def attend(self, layer: int, q_CHE: Tensor, k_CKE: Tensor, v_CKE: Tensor) -> Tensor:
        rows = zip(self.sequences, *(x.split(self.lengths) for x in (q_CHE, k_CKE, v_CKE)), strict=True)
        return torch.cat([sequence.attend(layer, q, k, v) for sequence, q, k, v in rows])


class BlockAttention:
    """Noisy rows of blocks: each block sees its sequence's clean keys up to its anchor, and all of itself.

    Computed some blocks at a time, against the clean keys up to the last one's anchor; the backward pass leaves out the
    gradients of clean keys and values, which nobody needs.
    """

    def __init__(self, parts: Sequence[Noisy], groups: int):
        self.groups, self.pieces = groups, list[_Piece]()
        begin = 0
        for sequence, ids_NB, _, anchors_N in parts:
            block, kind = ids_NB.shape[1], sequence.keys.dtype
            for some in anchors_N.split(max(1, _ROWS_A_PIECE // block)):
                clean = int(some.max()) + 1
                own = torch.arange(len(some)).repeat_interleave(block)
                seen_RC = (torch.arange(clean) <= some[:, None]).repeat_interleave(block, 0)
                seen_RT = torch.cat([seen_RC, own[:, None] == own], 1).repeat_interleave(groups, 0)
                bias = torch.zeros(seen_RT.shape, dtype=kind).masked_fill_(~seen_RT, -torch.inf)
                rows = slice(begin, begin + len(own))
                seen = sequence.keys[:, :, :clean], sequence.values[:, :, :clean]
                self.pieces.append(_Piece(*seen, rows, bias))
                begin = rows.stop

    def attend(self, layer: int, q_RHE: Tensor, k_RKE: Tensor, v_RKE: Tensor) -> Tensor:
        kind, q_RHE = self.pieces[0].keys.dtype, q_RHE * q_RHE.shape[-1] ** -0.5
        out_RHE: Tensor = _BlockAttention.apply(*(x.to(kind) for x in (q_RHE, k_RKE, v_RKE)), self, layer)
        return out_RHE


class _Piece(NamedTuple):
    """Some blocks' rows: the clean keys and values that they see, and what is added to their scores.

    The G query heads of a key/value head are rows of one product, as in `model.decoder.attend`.
    """

    keys: Tensor
    values: Tensor
    rows: slice
    bias: Tensor

    def queries(self, groups: int) -> slice:
        return slice(self.rows.start * groups, self.rows.stop * groups)

    def seen(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, the clean ones first."""
        keys = torch.cat([self.keys[layer], k[:, self.rows]], 1)
        return keys, torch.cat([self.values[layer], v[:, self.rows]], 1)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q_RHE, k_RKE, v_RKE, attention, layer):
        (r, kv, e), g = k_RKE.shape, attention.groups
        q = q_RHE.view(r, kv, g, e).transpose(0, 1).reshape(kv, r * g, e)
        k, v = k_RKE.transpose(0, 1).contiguous(), v_RKE.transpose(0, 1).contiguous()
        out, weights = torch.empty_like(q), []
        for piece in attention.pieces:
            (keys, values), queries = piece.seen(layer, k, v), piece.queries(g)
            weights.append(torch.baddbmm(piece.bias, q[:, queries], keys.transpose(1, 2)).softmax(-1))
            torch.bmm(weights[-1], values, out=out[:, queries])
        ctx.attention, ctx.layer = attention, layer
        ctx.save_for_backward(q, k, v, *weights)
        return out.view(kv, r, g, e).transpose(0, 1).reshape(r, kv * g, e)

    @staticmethod
    def backward(ctx, dout_RHE):
        (q, k, v, *weights), g = ctx.saved_tensors, ctx.attention.groups
        kv, r, e = k.shape
        dout = dout_RHE.reshape(r, kv, g, e).transpose(0, 1).reshape(kv, r * g, e)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for piece, weight in zip(ctx.attention.pieces, weights, strict=True):
            (keys, values), queries, rows = piece.seen(ctx.layer, k, v), piece.queries(g), piece.rows
            clean, seed = piece.keys.shape[2], dout[:, queries]
            torch.bmm(weight[..., clean:].transpose(1, 2), seed, out=dv[:, rows])
            dweight = torch.bmm(seed, values.transpose(1, 2))
            dscores = torch._softmax_backward_data(dweight, weight, -1, weight.dtype)
            torch.bmm(dscores, keys, out=dq[:, queries])
            torch.bmm(dscores[..., clean:].transpose(1, 2), q[:, queries], out=dk[:, rows])
        dq_RHE = dq.view(kv, r, g, e).transpose(0, 1).reshape(r, kv * g, e)
        return dq_RHE, dk.transpose(0, 1), dv.transpose(0, 1), None, None
