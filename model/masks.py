"""Which row may look at which: boolean masks, True where it may. Rows are queries, columns keys.

Plain functions of sizes; they know nothing of tokens. P is the number of committed keys before the new rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def causal(rows: int, past: int) -> Tensor:
    """(rows, past + rows): each row sees what came before it and itself."""
    return torch.ones(rows, past + rows, dtype=torch.bool).tril(past)


def block_causal(rows: int, past: int, block: int) -> Tensor:
    """(rows, past + rows): each row sees every earlier block and all of its own.

    Blocks lie at absolute multiples of `block`, counted from position 0 (Stable-DiffCoder's alignment).
    """
    end = torch.arange(past, past + rows).div(block, rounding_mode="floor").add(1).mul(block)
    return torch.arange(past + rows)[None] < end[:, None]


def clean_then_noisy(clean: int, blocks: Sequence[tuple[int, int]], past: int) -> Tensor:
    """(N, past + N) for `clean` causal rows, then noisy blocks: pairs (after, size) of a block's size and of how many of
    the clean rows it sees. A block sees all of itself and nothing of other blocks.

    Clean rows never see a noisy block: their results are those of a forward without any.
    """
    rows = clean + sum(size for _, size in blocks)
    mask = causal(rows, past)
    start = clean
    for after, size in blocks:
        mask[start : start + size, past + after :] = False
        mask[start : start + size, past + start : past + start + size] = True
        start += size
    return mask
