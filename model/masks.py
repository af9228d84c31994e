"""Which row may look at which: boolean masks, True where it may. Rows are queries, columns keys.

Plain functions of sizes; they know nothing of tokens. P is the number of committed keys before the new rows.
"""

from __future__ import annotations

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


def clean_then_noisy(clean: int, noisy: int, past: int) -> Tensor:
    """(clean + noisy, past + clean + noisy): clean rows causal, the noisy block sees them all and itself.

    Clean rows never see the noisy block: their results are those of a forward without it.
    """
    mask = causal(clean + noisy, past)
    mask[clean:] = True
    return mask
