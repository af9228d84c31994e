"""A part of the selection that an answer never came to is kept; one that was meant to go is not."""

from __future__ import annotations

import pytest

from model.elision import completed, within

ONE = [
    "def one(count):",
    "    total = 0",
    "    for n in range(count):",
    "        total += n",
    "    return total",
]
TWO = ["def two(text):", "    words = text.split()", "    return len(words)"]
THREE = [
    "class Three:",
    "    def value(self):",
    "        return 3",
    "",
    "    def name(self):",
    "        return 'three'",
]
OLD = [*ONE, "", "", *TWO, "", "", *THREE]
NEW_TWO = ["def two(line):", "    words = line.split()", "    return len(words)"]
NEW_OLD = [*ONE, "", "", *NEW_TWO, "", "", *THREE]


@pytest.mark.parametrize(
    "answer",
    [
        NEW_OLD,
        [*ONE, "", "", *NEW_TWO],
        [*NEW_TWO, "", "", *THREE],
        [*ONE, "", "", *NEW_TWO, "", ""],
    ],
    ids=["whole", "no end", "no beginning", "blank lines last"],
)
def test_what_was_left_out_at_the_ends_comes_back(answer: list[str]) -> None:
    found = completed(OLD, answer, "Rename the variable text to line.")
    assert [line for line in found if line] == [line for line in NEW_OLD if line]
    assert found[: len(ONE)] == ONE
    assert found[-len(THREE) :] == THREE


@pytest.mark.parametrize(
    ("old", "answer", "wish"),
    [
        (OLD, [*ONE, "", "", *NEW_TWO], "Remove the class and rename text to line"),
        (OLD, [*TWO, "", "", *THREE], "delete the first function"),
        (OLD, TWO, "Keep two() alone"),
        (OLD, [*ONE, "", "", *TWO], "Fix this 'Three' is unused"),
        (OLD, ["def all_of_it():", "    return 1, 2, 3"], "Make it one function"),
        (OLD, [], "Nothing"),
        (OLD, ["", ""], "Nothing"),
        (ONE, ["def one(count):", "    return sum(range(count))"], "Use sum()."),
        (ONE, [*ONE[:2], "    return total"], "Return at once"),
    ],
)
def test_what_may_be_meant_stays(old: list[str], answer: list[str], wish: str) -> None:
    assert completed(old, answer, wish) == answer


def test_an_end_that_belongs_to_the_statement_before_it_is_no_unit() -> None:
    old = ["if ready:", "    go()", "    wait()", "else:", "    stop()", "    cry()", "    die()"]
    answer = ["if ready:", "    go()", "    wait()"]
    assert completed(old, answer, "Tidy up") == answer


def test_new_lines_behind_the_last_shared_one_are_no_loss() -> None:
    answer = [
        *ONE,
        "",
        "",
        "def two(text):",
        "    import re",
        "    found = re.findall('x', text)",
        "    return found",
    ]
    assert completed([*ONE, "", "", *TWO], answer, "Use a regular expression") == answer


ABOVE = ["import json", "import sys", ""]
LOAD = ["def load(path):", "    f = open(path)", "    return json.load(f)"]
BELOW = ["", "", *TWO]


@pytest.mark.parametrize(
    "answer",
    [
        ["import json", "import sys", "", "", "def load(path: str):"],
        ["import sys", "", "def load(path: str):"],
        ["def load(path: str):", "", "", *TWO],
        ["import sys", "def load(path: str):", *TWO[:1]],
    ],
    ids=["two above", "one above", "all below", "one on either side"],
)
def test_lines_around_the_selection_are_not_written_twice(answer: list[str]) -> None:
    found = within(ABOVE, LOAD, answer, BELOW)
    assert [line for line in found if line] == ["def load(path: str):"]


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        (ABOVE, LOAD, LOAD, BELOW),
        (["value = compute(1)"], ["value = compute(2)"], ["value = compute(1)"], []),
        ([], ["value = compute(2)"], ["value = compute(3)"], ["value = compute(3)"]),
        (["}"], ["x = 1"], ["}", "x = 1"], ["}"]),
        (ABOVE, LOAD, ["import json", "import sys"], BELOW),
        (["import sys"], ["import sys", "x = 1"], ["import sys", "x = 2"], []),
        ([], [], [], []),
    ],
    ids=["same", "made alike above", "made alike below", "brackets", "nothing else", "twice before", "empty"],
)
def test_lines_that_were_meant_stay(
    before: list[str], old: list[str], new: list[str], after: list[str]
) -> None:
    assert within(before, old, new, after) == new
