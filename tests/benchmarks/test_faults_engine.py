"""`make faults` in small: the engine killed and abandoned on purpose, with the real default model."""

import pytest

from benchmarks import faults_engine


@pytest.mark.model
def test_kills_and_cancellations_cost_no_answer(default_model: str) -> None:
    figures = faults_engine.run(scale=0.04)
    # How long the engine takes to come back depends on what else runs; what must be none does not.
    assert [figure.line() for figure in figures if figure.bar == "0" and not figure.met] == []
    assert len(figures) == 7
