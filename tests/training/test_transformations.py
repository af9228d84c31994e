"""Code that is nested deeper than Python walks ends nothing: its function is passed over, or its file."""

from __future__ import annotations

import pytest

from training import transformations


def function(name: str, body: str) -> str:
    """With a variable to rename, and names for those of the others."""
    return f"def {name}(first, second):\n    {name}_sum = {body}\n    other = {name}_sum\n    return other + first\n\n\n"


@pytest.mark.parametrize(
    "deep",
    [
        "(" + "\n        + ".join([" + ".join(["first"] * 30)] * 35) + ")",  # as long as a table of terms
        "not " * 50000 + "first",
        "first" + ".second" * 5000,
    ],
    ids=["sum", "not", "attributes"],
)
def test_an_expression_deeper_than_python_walks_ends_nothing(deep: str) -> None:
    others = "".join(function(f"plain_{n}", "first + second") for n in range(9))
    for seed in range(6):  # now a renaming of it is tried, now a bug
        found = list(transformations.edits("a.py", others + function("deep", deep), seed))
        assert bool(found) is deep.startswith("(")  # of the other two, Python reads nothing of the file
