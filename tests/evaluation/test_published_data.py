"""A sample of the self-check on the published data, where it is: right answers pass, wrong ones fail.

The data lies where DIFFCODER_EVALS says, or in shared/evals beside the checkout. `diffcoder eval self-check` does all
of it; the counts are in docs/evaluation.md.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evaluation import selfcheck, tasks
from evaluation.sandbox import Sandbox
from evaluation.scoring import Answer, score_all
from model.schema import DiffcoderError

DATA = Path(os.environ.get("DIFFCODER_EVALS") or Path(__file__).resolve().parents[3] / "shared" / "evals")
if not DATA.is_dir():
    pytest.skip("no evaluation data here: DIFFCODER_EVALS names its folder", allow_module_level=True)
SLOW = ("java", "cpp", "-rs", "-length", "-cot", "mbpp-all", "canitedit-lazy")


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFCODER_EVALS", str(DATA))


def sampled() -> list[str]:
    return [t.name for t in tasks.TASKS.values() if not t.by_path and not any(s in t.name for s in SLOW)]


@pytest.mark.parametrize("name", sampled())
def test_self_check(name: str, sandbox: Sandbox) -> None:
    (task,) = tasks.find(name)
    if task.unavailable():
        pytest.skip(str(task.unavailable()))
    try:
        counts = selfcheck.check(task, sandbox, limit=2)
    except DiffcoderError as error:
        if error.code != "data_missing":
            raise
        pytest.skip(error.message)
    checked = [count for count in counts if count.kind != "skipped"]
    assert [count.surprises for count in checked] == [[]] * len(checked)
    assert checked


def test_counts_of_the_data() -> None:
    sizes = {
        "humaneval": 164,
        "humaneval-infilling-single": 1033,
        "humaneval-infilling-multi": 5815,
        "mbpp": 500,
    }
    sizes |= {"mbpp-sanitized": 257, "mbppplus": 378, "cruxeval-input": 800, "canitedit-lazy": 15}
    sizes |= {"bigcodebench": 1140, "bigcodebench-hard": 148, "humanevalfix-java": 164, "mbxp-python": 974}
    assert {name: len(tasks.TASKS[name].items()) for name in sizes} == sizes


def test_empty_infills_that_pass(sandbox: Sandbox) -> None:
    """Of every fifth single-line item six pass with nothing filled in: these, and not their neighbours."""
    (task,) = tasks.find("humaneval-infilling-single")
    items = {item.id: item for item in task.items()}
    passing = ["33/L0", "68/L0", "99/L3", "105/L7", "127/L3", "127/L8"]
    failing = ["0/L0", "53/L0"]
    names = [f"SingleLineInfilling/HumanEval/{name}" for name in passing + failing]
    answers = [Answer(name, 0, items[name], "") for name in names]
    passed = [
        answer.task_id.partition("HumanEval/")[2]
        for answer, v in score_all(task, answers, sandbox)
        if v.passed
    ]
    assert passed == passing
