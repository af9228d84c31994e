"""When to stay quiet: wrong suggestions shown against right ones withheld, as the bar of confidence rises.

Takes any run's answers with their confidence and verdict; an empty answer counts as withheld.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Point(msgspec.Struct, frozen=True):
    """At one bar: shares of all answers (0..1)."""

    bar: float
    shown: float
    wrong_shown: float
    right_withheld: float


def curve(answers: Sequence[tuple[float, bool]], steps: int = 101) -> list[Point]:
    """`answers` are (confidence, right). Bars at the quantiles of confidence, from all shown to none."""
    if not answers:
        return []
    ordered = sorted(confidence for confidence, _ in answers)
    last = len(ordered) - 1
    bars = sorted({0.0, *(ordered[round(i * last / (steps - 1))] for i in range(steps))})
    total = len(answers)
    points = []
    for bar in [*bars, float("inf")]:
        shown = [right for confidence, right in answers if confidence >= bar]
        withheld = [right for confidence, right in answers if confidence < bar]
        points.append(
            Point(bar, len(shown) / total, (len(shown) - sum(shown)) / total, sum(withheld) / total)
        )
    return points


def separation(answers: Sequence[tuple[float, bool]]) -> float:
    """The chance that a right answer has more confidence than a wrong one (area under the ROC curve); ties
    half."""
    right = sorted(confidence for confidence, good in answers if good)
    wrong = sorted(confidence for confidence, good in answers if not good)
    if not right or not wrong:
        return float("nan")
    above = 0.0
    below = equal = 0
    for confidence in right:
        while below < len(wrong) and wrong[below] < confidence:
            below += 1
        equal = below
        while equal < len(wrong) and wrong[equal] == confidence:
            equal += 1
        above += below + (equal - below) / 2
    return above / (len(right) * len(wrong))


def bar_for(answers: Sequence[tuple[float, bool]], most_wrong: float) -> Point | None:
    """The lowest bar at which at most `most_wrong` (0..1) of the shown answers are wrong."""
    for point in curve(answers, steps=1001):
        if point.shown > 0 and point.wrong_shown / point.shown <= most_wrong:
            return point
    return None
