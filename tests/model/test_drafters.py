"""Prompt lookup, the cost curve and the plan against plain definitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.drafters import Belief, CostCurve, PromptLookup, plan

TOKENS = st.lists(st.integers(0, 3), max_size=40)  # few tokens, so that texts repeat
CURVES = st.dictionaries(st.integers(1, 64), st.floats(0.1, 100), min_size=2, max_size=6).map(CostCurve)


def lookup_plainly(text: list[int], order: int, longest: int) -> list[int]:
    """What followed the last earlier occurrence of the newest `order` tokens, over and over."""
    newest = text[-order:]
    for at in range(len(text) - 1, order - 1, -1):
        if len(newest) == order and text[at - order : at] == newest:
            return [text[at:][n % (len(text) - at)] for n in range(longest)]
    return []


@given(TOKENS, st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=8), st.integers(1, 4))
def test_lookup_proposes_what_followed_the_newest_tokens_last_time(
    text: list[int], commits: list[list[int]], order: int
) -> None:
    lookup, so_far = PromptLookup(text, order), list(text)
    assert lookup.propose(7) == lookup_plainly(so_far, order, 7)
    for tokens in commits:
        lookup.extend(tokens)
        so_far += tokens
        assert lookup.propose(7) == lookup_plainly(so_far, order, 7)


@given(st.lists(st.integers(), unique=True, max_size=30), st.integers(1, 4))
def test_lookup_never_takes_the_newest_tokens_for_an_earlier_occurrence(text: list[int], order: int) -> None:
    lookup = PromptLookup(text[: len(text) // 2], order)
    lookup.extend(text[len(text) // 2 :])
    assert lookup.propose(5) == []


@given(CURVES)
def test_cost_is_what_was_measured_at_the_measured_sizes(curve: CostCurve) -> None:
    for rows, ms in curve.ms.items():
        assert curve(rows) == pytest.approx(ms)


@given(CURVES, st.integers(1, 64))
def test_cost_between_two_sizes_lies_on_the_line_between_them(curve: CostCurve, rows: int) -> None:
    below = max((n for n in curve.ms if n <= rows), default=None)
    above = min((n for n in curve.ms if n >= rows), default=None)
    if below is None:
        assert curve(rows) == curve.ms[min(curve.ms)]
    elif above is not None and below != above:
        share = (rows - below) / (above - below)
        assert curve(rows) == pytest.approx(curve.ms[below] * (1 - share) + curve.ms[above] * share)


def test_cost_past_the_largest_size_goes_on_as_it_went() -> None:
    assert CostCurve({1: 10.0, 8: 17.0, 16: 33.0})(24) == pytest.approx(49.0)


def rate(chances: list[float], n: int, masks: int, cost: CostCurve, chance: float, rows: int) -> float:
    """Tokens a millisecond of a forward with n drafts and that many masks: what `plan` maximises."""
    sure, expected = 1.0, 1.0
    for each in chances[:n]:
        sure *= each
        expected += sure
    drafted = sum(chance**place for place in range(1, masks + 1))
    return (expected + sure * drafted) / cost(rows + n + masks)


@given(
    st.lists(st.floats(0, 1), max_size=12),
    CURVES,
    st.integers(0, 8),
    st.floats(0, 1),
    st.integers(1, 300),
)
def test_no_other_forward_is_expected_to_commit_more_a_millisecond(
    chances: list[float], curve: CostCurve, block: int, chance: float, rows: int
) -> None:
    curve = CostCurve({size: max(curve.ms.values()) + size for size in curve.ms} | {400: 900.0})  # rising
    drafts = list(range(len(chances)))
    found = plan(drafts, chances, curve, block, chance, rows)
    n = len(found.drafts)
    assert list(found.drafts) == drafts[:n]
    assert 0 <= found.masks <= block
    best = max(
        rate(chances, n, masks, curve, chance, rows)
        for n in range(len(drafts) + 1)
        for masks in range(block + 1)
    )
    assert rate(chances, n, found.masks, curve, chance, rows) == pytest.approx(best)


def test_sure_drafts_that_cost_nothing_are_all_taken_and_hopeless_ones_are_not() -> None:
    flat, steep = CostCurve({1: 1.0, 64: 1.001}), CostCurve({1: 1.0, 64: 64.0})
    assert plan([5, 6, 7], [0.99] * 3, flat, 4, 0.8, 1).drafts == (5, 6, 7)
    assert plan([5, 6, 7], [0.3] * 3, steep, 4, 0.3, 1) == plan([], [], steep, 0, 0.0, 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_belief_stays_a_probability(outcomes: list[tuple[int, bool]]) -> None:
    belief = Belief(0.6)
    for accepted, rejected in outcomes:
        belief.update(accepted, rejected)
    assert 0 <= belief.rate <= 1
