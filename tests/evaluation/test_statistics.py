"""Estimators against their definitions and against scipy."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import quiet, statistics
from evaluation.similarity import edit_similarity, levenshtein

scipy_stats = pytest.importorskip("scipy.stats")


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_all_choices_that_hold_a_pass(samples: int, data: st.DataObject) -> None:
    passed = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    answers = [True] * passed + [False] * (samples - passed)
    choices = list(itertools.combinations(answers, k))
    assert statistics.pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_refuses_what_is_undefined() -> None:
    for samples, passed, k in ((3, 1, 4), (3, 4, 1), (3, 1, 0)):
        with pytest.raises(ValueError, match="undefined"):
            statistics.pass_at_k(samples, passed, k)


@given(st.integers(1, 500), st.data())
def test_wilson_is_scipys(total: int, data: st.DataObject) -> None:
    passed = data.draw(st.integers(0, total))
    theirs = scipy_stats.binomtest(passed, total).proportion_ci(0.95, method="wilson")
    low, high = statistics.wilson(passed, total)
    assert low == pytest.approx(theirs.low, abs=1e-9)
    assert high == pytest.approx(theirs.high, abs=1e-9)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    wanted = scipy_stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert statistics.mcnemar(first, second) == pytest.approx(wanted, abs=1e-9)


def test_bootstrap_covers_the_mean_and_repeats() -> None:
    draw = random.Random(3)
    hits = 0
    for trial in range(100):
        values = [draw.gauss(1.0, 2.0) for _ in range(60)]
        low, high = statistics.bootstrap(values, rounds=400, seed=trial)
        assert (low, high) == statistics.bootstrap(values, rounds=400, seed=trial)
        hits += low <= 1.0 <= high
    assert hits >= 86


def test_paired_counts_problems() -> None:
    first = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0, "only first": 1.0}
    second = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0, "only second": 1.0}
    found = statistics.paired(first, second)
    assert [found[k] for k in ("problems", "both", "only_first", "only_second", "neither")] == [4, 1, 1, 1, 1]
    assert found["difference"] == 0
    assert found["low"] <= 0 <= found["high"]
    assert found["p"] == 1.0


def test_area_under_a_line() -> None:
    assert statistics.area_under([(1, 50), (3, 30)]) == 40
    assert statistics.area_under([(2, 7)]) == 7
    assert math.isnan(statistics.area_under([]))


@given(
    st.text(alphabet="abc", max_size=6),
    st.text(alphabet="abc", max_size=6),
    st.text(alphabet="abc", max_size=6),
)
def test_levenshtein_is_a_distance(a: str, b: str, c: str) -> None:
    assert (levenshtein(a, b) == 0) == (a == b)
    assert levenshtein(a, b) == levenshtein(b, a)
    assert levenshtein(a, c) <= levenshtein(a, b) + levenshtein(b, c)
    assert abs(len(a) - len(b)) <= levenshtein(a, b) <= max(len(a), len(b))
    assert 0 <= edit_similarity(a, b) <= 1


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=40))
def test_restraint(answers: list[tuple[float, bool]]) -> None:
    points = quiet.curve(answers)
    assert points[0].shown == 1
    assert points[-1].shown == 0
    for point in points:
        right = [good for confidence, good in answers if good and confidence < point.bar]
        assert point.right_withheld == pytest.approx(len(right) / len(answers))
    pairs = [(a, b) for (a, good) in answers if good for (b, bad) in answers if not bad]
    if pairs:
        wanted = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
        assert quiet.separation(answers) == pytest.approx(wanted)
    else:
        assert math.isnan(quiet.separation(answers))


def test_an_interval_holds_its_share() -> None:
    for total in range(1, 200):
        for passed in (0, 1, total // 2, total):
            low, high = statistics.wilson(passed, total)
            assert 0 <= low <= passed / total <= high <= 1
