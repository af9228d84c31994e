"""Estimates with their uncertainty: pass@k, intervals, and paired comparison of two runs. Plain numbers in
and out."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples passes (Chen et al. 2021, arXiv 2107.03374)."""
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {passed} passed in {samples} samples is undefined")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def wilson(passed: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 % by default."""
    if total == 0:
        return 0.0, 1.0
    share = passed / total
    middle = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low, high = (middle - spread) / scale, (middle + spread) / scale
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding may put 0 or 1 outside


def bootstrap(
    values: Sequence[float], weights: Sequence[float] | None = None, rounds: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval, 95 %, of the mean under resampling of `values`, which `weights` (default: 1 each) go with."""
    if not values:
        return math.nan, math.nan
    draw = random.Random(seed)
    count = len(values)
    weights = weights or [1.0] * count

    def mean(chosen: Sequence[int]) -> float:
        return math.fsum(values[n] * weights[n] for n in chosen) / math.fsum(weights[n] for n in chosen)

    found = sorted(mean(draw.choices(range(count), k=count)) for _ in range(rounds))
    return found[int(0.025 * rounds)], found[min(rounds - 1, int(0.975 * rounds))]


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that two runs are equally good, from the problems that only one of them
    solved."""
    total = only_first + only_second
    if total == 0:
        return 1.0
    fewer = min(only_first, only_second)
    tail = sum(math.comb(total, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total)


def paired(first: dict[str, float], second: dict[str, float], seed: int = 0) -> dict[str, float]:
    """Two runs over their common problems (id -> share of samples passed): counts, difference, interval,
    p-value.

    The difference is second minus first, its interval by bootstrap over problems; the p-value is McNemar's
    on problems that one run solves (share above one half) and the other does not.
    """
    common = sorted(first.keys() & second.keys())
    differences = [second[name] - first[name] for name in common]
    solved = [(first[name] > 0.5, second[name] > 0.5) for name in common]
    low, high = bootstrap(differences, seed=seed)
    only_first, only_second = solved.count((True, False)), solved.count((False, True))
    return {
        "problems": len(common),
        "both": solved.count((True, True)),
        "only_first": only_first,
        "only_second": only_second,
        "neither": solved.count((False, False)),
        "difference": math.fsum(differences) / len(common) if common else math.nan,
        "low": low,
        "high": high,
        "p": mcnemar(only_first, only_second),
    }


def area_under(points: Sequence[tuple[float, float]]) -> float:
    """Area under a curve (x, y) by trapezoids, over the span of x divided out: the mean height. One point:
    its y."""
    ordered = sorted(points)
    if not ordered:
        return math.nan
    span = ordered[-1][0] - ordered[0][0]
    if span <= 0:
        return max(y for _, y in ordered)
    return math.fsum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(ordered)) / span
