"""A chat model's answer is its function and what that needs; its own trials stay out."""

from __future__ import annotations

import pytest

from evaluation.definitions import needed_by

ANSWER = '''\
import math
from functools import cache

LIMIT: int = 3
unused = LIMIT
table, other = [1], 2


@cache
def helper(x):
    return Box(x).value + table[0]


class Box:
    def __init__(self, value):
        self.value = value


def wanted(x):
    """helper"""
    return helper(math.floor(x)) if x < LIMIT else wanted(x - 1)


def test_wanted():
    assert wanted(1) == 0, "a wrong expectation"


LIMIT += 1
print(wanted(2))
test_wanted()
if __name__ == "__main__":
    wanted(9)
'''


def test_what_a_function_needs_is_kept_in_order_and_nothing_else() -> None:
    kept = needed_by("wanted", ANSWER)
    scope: dict[str, object] = {}
    exec(kept, scope)
    assert scope["wanted"](2.5) == 3
    assert {"helper", "Box", "LIMIT", "table", "other", "math", "cache"} <= set(scope)
    assert not {"unused", "test_wanted"} & set(scope)
    assert "print" not in kept
    assert kept.index("LIMIT: int") < kept.index("@cache\ndef helper") < kept.index("LIMIT += 1")


@pytest.mark.parametrize("source", ["def f(:\n", "def g():\n    return 1\n", "    return 1\n", ""])
def test_what_cannot_be_understood_stays_as_it_is(source: str) -> None:
    assert needed_by("f", source) == source


def test_a_name_that_only_a_local_shares_does_no_harm() -> None:
    assert needed_by("f", "def g():\n    pass\n\ndef f(g):\n    return g\n") == (
        "def g():\n    pass\ndef f(g):\n    return g\n"
    )
