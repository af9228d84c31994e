"""The rules that judge fillings, on fillings whose judgement is plain, and on the truth of real gaps."""

from __future__ import annotations

import pytest

from benchmarks.fit import balanced, indentation_right, repeats_suffix


@pytest.mark.parametrize(
    ("filling", "cut", "suffix", "repeats"),
    [
        ("a, b", "a, b", ")\n", False),
        ("a, b)", "a, b", ")\n", True),
        ("f(a)", "f(a)", ")\n", False),
        ("f(a)", "a", ")\n", False),
        ("f(a))", "a", ")\n", True),
        ("x + y", "x", " + y\n", True),
        ("x = 1\n    return x", "x = 1", "\n    return x\n", True),
        ("x = 1\n    y = 2", "x = 1", "\n    return x\n", False),
        ("x\nend", "x\nend\ny", "\nend\n", False),
        ("x = 1", "x = 1", "\n\n\n", False),
        ("", "x", ")\n", False),
    ],
)
def test_what_repeats_the_suffix(filling, cut, suffix, repeats):
    assert repeats_suffix(filling, cut, suffix) is repeats


@pytest.mark.parametrize(
    ("prefix", "filling", "right"),
    [
        ("def f():\n    ", "x = 1\n    return x", True),
        ("def f():\n    ", "x = 1\n        return x", False),
        ("def f():\n    ", "x = 1\n  return x", False),
        ("def f():\n    ", "if x:\n        return 1\n    return 2", True),
        ("def f():\n    ", "if x:\n    return 1", False),
        ("def f():\n    ", "    x = 1", False),
        ("def f():\n    x = ", "{\n 'a':\n  1,\n}\n    return x", True),
        ("def f():\n    x = ", "[\n  1,", True),
        ("def f():\n    if x", ":\n        y = 1\n\ndef g():\n    pass", True),
        ("x = ", "1", True),
    ],
)
def test_indentation(prefix, filling, right):
    assert indentation_right(prefix, filling) is right


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("f(a[1], {2: 3})\n", True),
        ("f(a\n", False),
        ("f(a))\n", False),
        ("x = '('  # )\n", True),
        ('"""(\n"""', True),
        ("x = 'a\n", False),
    ],
)
def test_brackets(text, good):
    assert balanced(text) is good
