"""The rules that choose which places of a noisy block to commit after a forward. Plain numbers in, indices out.

Each place brings its best token's probability and the entropy (nats) of its distribution, in the block's order. Every
forward commits at least one place, so that a block of B places ends after at most B forwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model.schema import DiffcoderError, Rule

DEFAULTS: dict[Rule, float] = {"sequential": 1, "confidence": 0.9, "entropy_bound": 0.15, "top_k": 2}
GATED_DEFAULTS = DEFAULTS | {"confidence": 0.95}
"""An adapter's rows are surer than they are right (docs/experiments.md, 2026-11-26)."""


@dataclass(frozen=True)
class UnmaskRule:
    """`threshold`: probability for confidence, gamma in nats for entropy_bound, places a forward for top_k."""

    name: Rule
    threshold: float

    @classmethod
    def of(cls, name: Rule, threshold: float | None, defaults: Mapping[Rule, float] = DEFAULTS) -> UnmaskRule:
        value = defaults[name] if threshold is None else threshold
        if (
            not (0 <= value < float("inf"))
            or (name == "confidence" and value > 1)
            or (name == "top_k" and value < 1)
        ):
            raise DiffcoderError(
                "bad_request", f"The threshold {value} does not fit the rule {name}: leave it out."
            )
        return cls(name, value)

    def choose(self, probability: Sequence[float], entropy: Sequence[float]) -> list[int]:
        """Indices of the places to commit now, ascending.

        sequential: the leftmost. confidence: all at or above the threshold, else the surest (Stable-DiffCoder's
        `low_confidence`). entropy_bound: the longest run of lowest entropies whose sum less its largest stays
        within gamma (arXiv 2505.24857). top_k: a fixed number, for comparison: known to collapse.
        """
        n = len(probability)
        surest = max(range(n), key=lambda i: (probability[i], -i))
        if self.name == "sequential":
            return [0]
        if self.name == "confidence":
            return [i for i in range(n) if probability[i] >= self.threshold] or [surest]
        if self.name == "top_k":
            return sorted(sorted(range(n), key=lambda i: (-probability[i], i))[: int(self.threshold)])
        chosen: list[int] = []
        total = 0.0
        # Ascending, so the largest of the sum is the newest: what counts is the sum before it.
        for i in sorted(range(n), key=lambda i: (entropy[i], i)):
            if chosen and total > self.threshold:
                break
            chosen.append(i)
            total += entropy[i]
        return sorted(chosen)
