"""A part of the selection that an answer never came to is kept; one that was meant to go is not."""

from __future__ import annotations

import pytest

from model.elision import completed

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
