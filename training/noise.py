"""Which places of a block are masked: block-wise clipped noise and its warm-up (Stable-DiffCoder, arXiv
2601.15892).

Per block: t ~ U(0, u_max), u = min(1, max(t, 1/B)); each place is masked with probability u, and one at
random when none was. Clipping is there because with small blocks and linear noise a block in five would mask
nothing and teach nothing. Works on numpy arrays and a generator that the caller seeds; knows nothing of
tokens.

Shape suffixes: N blocks, B places of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rate_ceiling(step: int, warmup_steps: int, initial: float) -> float:
    """u_max at `step`: linear from `initial` to 1 over `warmup_steps`, then 1."""
    if step >= warmup_steps:
        return 1.0
    return initial + (1.0 - initial) * step / warmup_steps


def clipped_rates(
    rng: np.random.Generator, blocks: int, block: int, ceiling: float = 1.0
) -> NDArray[np.float64]:
    """(N,) masking rates u in [1/B, 1]."""
    return np.minimum(1.0, np.maximum(rng.uniform(0.0, ceiling, blocks), 1.0 / block))


def mask_blocks(rng: np.random.Generator, rates_N: NDArray[np.float64], block: int) -> NDArray[np.bool_]:
    """(N, B) True where masked; no block is left without a mask."""
    mask_NB = rng.random((len(rates_N), block)) < rates_N[:, None]
    chosen_N = rng.integers(block, size=len(rates_N))
    empty_N = ~mask_NB.any(1)
    mask_NB[empty_N, chosen_N[empty_N]] = True
    return mask_NB
