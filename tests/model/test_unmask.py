"""The unmask rules against their definitions, written out the long way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.schema import DiffcoderError
from model.unmask import UnmaskRule

# A few coarse values besides the fine ones, so that ties happen.
PROBABILITIES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), st.floats(0, 1))
ENTROPIES = st.one_of(st.sampled_from([0.0, 0.05, 0.1, 0.15]), st.floats(0, 12))
PLACES = st.lists(st.tuples(PROBABILITIES, ENTROPIES), min_size=1, max_size=16)
RULES = st.one_of(
    st.just(UnmaskRule.of("sequential", None)),
    st.floats(0, 1).map(lambda value: UnmaskRule.of("confidence", value)),
    st.floats(0, 5).map(lambda value: UnmaskRule.of("entropy_bound", value)),
    st.integers(1, 20).map(lambda value: UnmaskRule.of("top_k", value)),
)


def chosen(rule: UnmaskRule, places: list[tuple[float, float]]) -> list[int]:
    return rule.choose([p for p, _ in places], [h for _, h in places])


@given(RULES, PLACES)
def test_every_rule_commits_at_least_one_place_and_none_twice(
    rule: UnmaskRule, places: list[tuple[float, float]]
) -> None:
    found = chosen(rule, places)
    assert found
    assert found == sorted(set(found))
    assert set(found) <= set(range(len(places)))


@given(PLACES)
def test_sequential_takes_the_leftmost(places: list[tuple[float, float]]) -> None:
    assert chosen(UnmaskRule.of("sequential", None), places) == [0]


@given(st.floats(0, 1), PLACES)
def test_confidence_takes_all_that_reach_the_threshold_or_else_the_surest(
    threshold: float, places: list[tuple[float, float]]
) -> None:
    found = chosen(UnmaskRule.of("confidence", threshold), places)
    reaching = [i for i, (p, _) in enumerate(places) if p >= threshold]
    if reaching:
        assert found == reaching
    else:
        assert len(found) == 1
        assert places[found[0]][0] == max(p for p, _ in places)


@given(st.floats(0, 5), PLACES)
def test_entropy_bound_takes_the_largest_set_of_lowest_entropies_within_gamma(
    gamma: float, places: list[tuple[float, float]]
) -> None:
    """arXiv 2505.24857: places sorted by entropy; the largest beginning U with sum(U) - max(U) <= gamma."""
    found = chosen(UnmaskRule.of("entropy_bound", gamma), places)
    ascending = sorted(h for _, h in places)
    size = max(k for k in range(1, len(places) + 1) if k == 1 or sum(ascending[: k - 1]) <= gamma)
    assert sorted(places[i][1] for i in found) == ascending[:size]


@given(st.integers(1, 20), PLACES)
def test_top_k_takes_the_surest_places(k: int, places: list[tuple[float, float]]) -> None:
    found = chosen(UnmaskRule.of("top_k", k), places)
    assert len(found) == min(k, len(places))
    left = [p for i, (p, _) in enumerate(places) if i not in found]
    assert min(places[i][0] for i in found) >= max(left, default=0.0)


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("confidence", 1.1),
        ("confidence", -0.1),
        ("confidence", float("nan")),
        ("entropy_bound", -1.0),
        ("entropy_bound", float("inf")),
        ("top_k", 0.5),
        ("top_k", float("nan")),
    ],
)
def test_a_threshold_that_means_nothing_is_refused(name: str, threshold: float) -> None:
    with pytest.raises(DiffcoderError, match="leave it out") as error:
        UnmaskRule.of(name, threshold)  # type: ignore[arg-type]
    assert error.value.code == "bad_request"
