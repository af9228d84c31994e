"""What forwards cost on this machine, in milliseconds of the thread's own processor time, which other programs add little
to. Knows nothing of what is planned by it (`drafters.py`)."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from statistics import median

from torch import Tensor

from model.decoder import KVCache
from model.drafters import CostCurve
from model.sampler import Block, Network

_ROWS = (1, 4, 8, 16, 32)
MEASURE_S = 0.6  # of a start's seconds
_BEHIND, _KEYS = 8, 1024  # rows, and the keys before them, that say what attention costs


def measure(network: Network, cache: KVCache) -> CostCurve:
    """What a forward costs here, the best of a few. The cache is empty behind it."""
    many, behind = _BEHIND, min(_KEYS, cache.capacity // 2)

    def forward(clean: int, masks: int, keys: int, tail: int) -> tuple[float, Tensor]:
        cache.length = keys
        blocks = [Block(1, [None] * masks)] if masks else []
        start = time.thread_time()
        _, noisy_BD = network.forward(cache, [0] * clean, blocks, tail)
        return (time.thread_time() - start) * 1000, noisy_BD

    ms = dict.fromkeys(_ROWS, math.inf)
    far = drafts = math.inf
    ratios: list[float] = []
    rounds, until = 0, time.perf_counter() + MEASURE_S
    while rounds < 2 or time.perf_counter() < until:
        rounds += 1
        for rows in _ROWS:
            ms[rows] = min(ms[rows], forward(rows, 0, 0, rows)[0])
        far = min(far, forward(many, 0, behind, many)[0])
        if network.adapter is not None:
            # One right behind the other: the machine may change its speed.
            clean_ms, _ = forward(many, 0, 0, 1)
            masked_ms, noisy_BD = forward(1, many - 1, 0, 1)
            ratios.append(masked_ms / clean_ms)
            most = network.most_masks
            start = time.thread_time()
            network.draft(noisy_BD[:most], 0, unlikely=0.0)
            drafts = min(drafts, (time.thread_time() - start) * 1000 / most)
    cache.length = 0
    for more, less in pairwise(reversed(_ROWS)):
        ms[less] = min(ms[less], ms[more])  # more rows never cost less
    pairs = max(0.0, far - ms[many]) / (many * behind)
    if network.adapter is None:
        return CostCurve(ms, pairs)
    return CostCurve(ms, pairs, max(0.0, median(ratios) - 1) * ms[many], drafts)
