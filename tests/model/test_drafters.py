"""Prompt lookup, the cost curve and the plan against plain definitions."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.drafters import (
    MOST_BLOCKS,
    OFFER,
    Belief,
    Beliefs,
    CostCurve,
    Plan,
    PromptLookup,
    Revision,
    agreed,
    plan,
    worth,
)

TOKENS = st.lists(st.integers(0, 3), max_size=40)  # few tokens, so that texts repeat
CURVES = st.builds(  # more rows never cost less
    lambda ms, *more: CostCurve(dict(zip(sorted(ms), sorted(ms.values()), strict=True)), *more),
    st.dictionaries(st.integers(1, 64), st.floats(0.1, 100), min_size=2, max_size=6),
    st.floats(0, 0.01),
    st.floats(0, 30),
    st.floats(0, 5),
)


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


def surprises(old: list[int], new: list[int], longest: int = 8) -> int:
    """How many forwards give a token that was not proposed, when each accepts what it can and gives one more."""
    revision, at, found = Revision(old, old), 0, 0
    while at < len(new):
        accepted = 0
        for token in revision.propose(longest):
            if at + accepted >= len(new) or token != new[at + accepted]:
                break
            accepted += 1
        revision.extend(new[at : at + accepted + 1])
        at += accepted + 1
        found += accepted < longest and at < len(new)
    return found


OLD = [token for n in range(8) for token in (100 + n, 1, 200 + n, 2, 300 + n)]  # 1 and 2 come again and again


def replaced(token: int, by: list[int]) -> list[int]:
    return [new for old in OLD for new in (by if old == token else [old])]


@pytest.mark.parametrize("by", [[7], [7, 8], [1, 7], [7, 8, 9]], ids=str)
def test_a_name_that_is_changed_throughout_surprises_at_first_only(by: list[int]) -> None:
    assert surprises(OLD, OLD) == 0
    # As often as it takes to write it once, and where it comes again in the draft that follows.
    assert surprises(OLD, replaced(1, by)) <= len(by) + 1


def test_lines_that_are_taken_out_or_put_in_are_passed() -> None:
    assert surprises(OLD, OLD[:10] + OLD[20:]) <= 3
    assert surprises(OLD, [*OLD[:10], 50, 51, 52, *OLD[10:]]) <= 4


def test_a_replacement_that_was_not_made_again_is_forgotten() -> None:
    revision = Revision([1, 10, 11, 1, 12, 13, 1, 14], [])
    revision.extend([7, 10, 11])
    assert revision.propose(3) == [7, 12, 13]
    revision.extend([1, 12, 13])
    assert revision.propose(3) == [1, 14]


@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=20),
    st.integers(1, 9),
)
def test_any_text_may_follow_any_other(old: list[int], new: list[list[int]], longest: int) -> None:
    revision = Revision(old, old)
    for tokens in new:
        assert len(revision.propose(longest)) <= longest
        revision.extend(tokens)
    assert set(revision.propose(longest)) <= {0, 1, 2, 3}


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


def gain(chances: list[float], plan: Plan, cost: CostCurve, beliefs: Beliefs, rows: int, keys: int) -> float:
    """What `plan` maximises, spelled out: every outcome i (exactly i drafts accepted) with its probability."""
    total, sure = 0.0, 1.0
    for i in range(len(plan.drafts) + 1):
        last = i == len(plan.drafts)
        likely = sure if last else sure * (1 - chances[i])
        offered = beliefs.offer * worth(beliefs.masks.chances(plan.masks))
        drawn = offered - beliefs.pace * plan.masks * cost.ms_per_draft
        total += likely * (1 + i + (drawn if i in plan.after else 0.0))
        sure *= 1.0 if last else chances[i]
    return total - beliefs.pace * cost(rows + plan.rows, keys, plan.masks > 0)


@given(
    st.lists(st.floats(0, 1), max_size=5),
    CURVES,
    st.integers(0, 4),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 300),
    st.integers(0, 4000),
)
def test_no_other_forward_gains_more(
    chances: list[float], curve: CostCurve, block: int, pace: float, offer: float, rows: int, keys: int
) -> None:
    beliefs = Beliefs(curve)
    beliefs.pace, beliefs.offer = pace, offer
    drafts = list(range(len(chances)))
    found = plan(drafts, chances, curve, beliefs, block, rows, keys)
    assert list(found.drafts) == drafts[: len(found.drafts)]
    assert found.masks <= block
    others = [
        Plan(tuple(drafts[:n]), after, masks)
        for n in range(len(drafts) + 1)
        for masks in range(block + 1)
        for count in range(MOST_BLOCKS + 1 if masks else 1)
        for after in combinations(range(n + 1), count)
    ]
    gains = [gain(chances, other, curve, beliefs, rows, keys) for other in others]
    best = max(gains)
    assert gain(chances, found, curve, beliefs, rows, keys) == pytest.approx(best)
    without = max(gain for gain, other in zip(gains, others, strict=True) if not other.drafts)
    assert found.gain == pytest.approx(best - without, abs=1e-6)


def test_sure_drafts_that_cost_nothing_are_all_taken_and_hopeless_ones_are_not() -> None:
    flat, steep = CostCurve({1: 1.0, 64: 1.001}), CostCurve({1: 1.0, 64: 64.0})
    assert plan([5, 6, 7], [0.99] * 3, flat, Beliefs(flat), 4, 1, 0).drafts == (5, 6, 7)
    assert plan([5, 6, 7], [0.3] * 3, steep, Beliefs(steep), 4, 1, 0) == Plan((), (), 0)


def test_a_draft_that_pays_behind_a_few_keys_does_not_behind_thousands() -> None:
    curve = CostCurve({1: 20.0, 16: 30.0}, ms_per_pair=0.005)
    beliefs = Beliefs(curve)
    assert plan([5, 6], [0.8, 0.8], curve, beliefs, 0, 1, 10).drafts == (5, 6)
    assert plan([5, 6], [0.8, 0.8], curve, beliefs, 0, 1, 8000).drafts == ()


def test_masks_are_left_out_where_an_adapter_costs_more_than_they_bring() -> None:
    cheap, dear = (CostCurve({1: 20.0, 16: 26.0}, ms_masked=ms) for ms in (1.0, 12.0))
    for curve, wanted in ((cheap, True), (dear, False)):
        beliefs = Beliefs(curve)
        beliefs.offer = 0.7
        assert (plan([], [], curve, beliefs, 4, 1, 0).masks > 0) == wanted


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=200))
def test_belief_stays_a_probability(outcomes: list[tuple[int, int]]) -> None:
    belief = Belief([0.6, 0.5])
    for accepted, more in outcomes:
        belief.update(accepted, accepted + more)
    assert all(0 <= chance <= 1 for chance in belief.chances(5))


def test_what_is_not_tried_is_believed_in_again_in_time() -> None:
    belief = Belief([0.6, 0.5])
    for _ in range(100):
        belief.update(0, 2)
    low = belief.chances(1)[0]
    for _ in range(1000):
        belief.fade()
    assert low < 0.01
    assert belief.chances(2) == pytest.approx([0.6, 0.5], abs=0.01)


def test_an_offer_is_worth_what_it_gained_the_plans_behind_it() -> None:
    beliefs = Beliefs(CostCurve({1: 1.0, 8: 2.0}))
    expected = worth(beliefs.masks.chances(3))
    for gained in [0.9, 0.1] * 400:
        beliefs.keep_offer(3, gained)
    assert beliefs.offer * expected == pytest.approx(0.5, abs=0.02)
    for _ in range(2000):
        beliefs.keep_offer(0, 0.0)  # no masks: nothing is learnt, and they are believed in again
    assert beliefs.offer == pytest.approx(OFFER, abs=0.01)


def test_belief_learns_each_depth_apart() -> None:
    belief = Belief([0.5, 0.5])
    for _ in range(200):
        belief.update(1, 2)  # the first is accepted, the second is not
    first, second = belief.chances(2)
    assert first > 0.95
    assert second < 0.05


def test_what_masks_and_old_text_both_say_is_believed_as_the_surer_one_does() -> None:
    found, believed = [1, 2, 3, 4], [0.5, 0.6, 0.7, 0.8]
    assert agreed(found, believed, [1, 2], [0.9, 0.1]) == [0.9, 0.6, 0.7, 0.8]
    assert agreed(found, believed, [1, 5], [0.9, 0.9]) == believed
    assert agreed(found[:1], believed[:1], [1, 2], [0.9, 0.9]) == [0.5]  # it says less
    assert agreed(found, believed, [], []) == believed
    # The longer draft wins, which the masks' own chances alone would have beaten.
    assert worth(agreed([7] * 24, [0.5, 0.6, *[0.8] * 22], [7] * 4, [0.95] * 4)) > worth([0.95] * 4)
