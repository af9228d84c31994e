"""Which row sees which in `[noisy | clean]` training, as one rule that serves dense masks and flex attention alike.

A sequence of L tokens is run as 2L rows: row i < L is token i under noise, row L + i the same token clean, both at
position i. A noisy row sees its own block's noisy rows and the clean rows of earlier blocks; a clean row sees clean rows
only: up to itself where `causal` (the rows stay those of an autoregressive model), otherwise the whole of its block.
Rows of different documents see each other only where documents are not given.

Shape suffixes: L tokens, M = 2L rows, H query heads, K key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from model.decoder import Attention

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def noisy_and_clean(length: int, block: int, *, causal: bool, documents_L: Tensor | None = None) -> Rule:
    """The rule in flex attention's form: (batch, head, row, column) index tensors -> may look."""

    def rule(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        row_clean, column_clean = row >= length, column >= length
        row_at, column_at = row % length, column % length
        row_block, column_block = row_at // block, column_at // block
        from_noisy = ~row_clean & (
            (~column_clean & (row_block == column_block)) | (column_clean & (column_block < row_block))
        )
        behind = column_at <= row_at if causal else column_block <= row_block
        allowed = from_noisy | (row_clean & column_clean & behind)
        if documents_L is not None:
            allowed = allowed & (documents_L[row_at] == documents_L[column_at])
        return allowed

    return rule


def next_token(*, documents_L: Tensor | None = None) -> Rule:
    """The same for clean rows alone, as an autoregressive model has them."""

    def rule(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        behind = column <= row
        return behind if documents_L is None else behind & (documents_L[row] == documents_L[column])

    return rule


def dense(rule: Rule, rows: int, device: torch.device | None = None) -> Tensor:
    """(M, M) booleans, True where a row may look: for SDPA."""
    at = torch.arange(rows, device=device)
    zero = torch.zeros((), dtype=torch.long, device=device)
    return rule(zero, zero, at[:, None], at[None])


def sparse(rule: Rule, rows: int, device: torch.device | None = None) -> BlockMask:
    """The same for flex attention."""
    return create_block_mask(
        rule, B=None, H=None, Q_LEN=rows, KV_LEN=rows, device=str(device or torch.device("cpu"))
    )


def attention(rule: Rule, rows: int, device: torch.device) -> Attention:
    """Rows of one forward that see each other by a rule: on a GPU only tiles that somebody sees are computed."""
    if device.type == "cuda":  # elsewhere flex attention has no kernel with a backward pass
        return FlexAttention(sparse(rule, rows, device))
    return MaskedAttention(dense(rule, rows, device))


class MaskedAttention:
    """Rows of one forward see each other under a mask; nothing is kept. For `model.decoder.Decoder.forward`."""

    def __init__(self, mask_MM: Tensor):
        self.mask_MM = mask_MM

    def attend(self, layer: int, q_MHE: Tensor, k_MKE: Tensor, v_MKE: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q_MHE, k_MKE, v_MKE))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask_MM, enable_gqa=True)
        return out[0].transpose(0, 1)


class FlexAttention:
    """The same by flex attention. Compiled on a GPU; on the processor its plain definition, which tests compare."""

    def __init__(self, mask: BlockMask):
        self.mask = mask

    def attend(self, layer: int, q_MHE: Tensor, k_MKE: Tensor, v_MKE: Tensor) -> Tensor:
        # Autocast knows SDPA but not this: turned by positions, queries and keys are fp32, values what products gave.
        q, k, v = (x.to(v_MKE.dtype).transpose(0, 1)[None] for x in (q_MHE, k_MKE, v_MKE))
        compute = _compiled if q.device.type == "cuda" else flex_attention
        out = compute(q, k, v, block_mask=self.mask, enable_gqa=True)
        return out[0].transpose(0, 1)


_compiled = torch.compile(flex_attention)  # costs nothing before its first call
