"""Where drafted tokens come from before the model verifies them, and how many are worth a forward. No torch.

Two drafters, one verifier: text that already exists (`PromptLookup`), and the masked places of the last forward, whose
probabilities the sampler hands to `plan`. How far to draft is a matter of cost: `CostCurve` holds what a forward of n
rows takes on this machine.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CostCurve:
    """Milliseconds of a forward by its number of rows, measured at a few sizes and interpolated between them."""

    ms: Mapping[int, float]

    def __call__(self, rows: int) -> float:
        sizes = sorted(self.ms)
        at = bisect_left(sizes, rows)
        if at == 0:
            return self.ms[sizes[0]]
        if at == len(sizes):
            low, high = sizes[-2:]
        else:
            low, high = sizes[at - 1], sizes[at]
        slope = (self.ms[high] - self.ms[low]) / (high - low)
        return self.ms[low] + slope * (rows - low)


class PromptLookup:
    """Proposes what followed the last occurrence of the newest `order` tokens in `text` and in what was written.

    In an edit most of the old text survives, so its tokens are the best draft there is.
    """

    def __init__(self, text: Sequence[int], order: int = 3):
        self.order = order
        self._text = list(text)
        self._index: dict[tuple[int, ...], int] = {}
        for end in range(order, len(self._text)):
            self._index[tuple(self._text[end - order : end])] = end
        self._seen = len(self._text)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take note of tokens that were committed."""
        self._text.extend(tokens)
        # An n-gram is indexed once its continuation is known: the newest one must not find itself.
        for end in range(max(self._seen, self.order), len(self._text)):
            self._index[tuple(self._text[end - self.order : end])] = end
        self._seen = len(self._text)

    def propose(self, longest: int) -> list[int]:
        """Up to `longest` tokens that may come next; empty where nothing matches."""
        at = self._index.get(tuple(self._text[len(self._text) - self.order :]))
        if at is None:
            return []
        period = len(self._text) - at  # a text that repeats itself is taken to go on doing so
        return [self._text[at + n % period] for n in range(longest)]


@dataclass
class Belief:
    """Running estimate of how likely a drafter's next token is accepted, each token given those before it."""

    rate: float
    weight: float = 8.0

    def update(self, accepted: int, rejected: bool) -> None:
        for outcome in [1.0] * accepted + [0.0] * rejected:
            self.rate += (outcome - self.rate) / self.weight


@dataclass(frozen=True)
class Plan:
    """What the next forward carries: drafted tokens to verify, and how many masked places behind them."""

    drafts: tuple[int, ...]
    masks: int


def plan(
    drafts: Sequence[int], chances: Sequence[float], cost: CostCurve, block: int, rate: float, rows: int
) -> Plan:
    """The forward that is expected to commit most tokens a millisecond.

    `chances[i]`: probability that draft i is accepted given that those before it are. Masks draft for the forward
    after this one, and only if every token of this one is accepted; `rate`: how likely such a draft is
    accepted, each given those before it. `block`: masks on offer at most. `rows`: clean rows that run in any case.
    """
    best, best_rate = Plan((), 0), 0.0
    expected, all_accepted = 1.0, 1.0
    for n in range(len(drafts) + 1):
        if n:
            all_accepted *= chances[n - 1]
            expected += all_accepted
        worth, last = 0.0, 1.0
        for masks in range(block + 1):
            if masks:
                last *= rate
                worth += last
            tokens_a_ms = (expected + all_accepted * worth) / cost(rows + n + masks)
            if tokens_a_ms > best_rate:
                best, best_rate = Plan(tuple(drafts[:n]), masks), tokens_a_ms
    return best
