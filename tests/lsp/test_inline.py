"""Ghost text's rules on plain values: reuse, fit, one line or several."""

from __future__ import annotations

import pytest

from diffcoder_lsp.features.inline import Suggestion, fitted, is_single_line
from diffcoder_lsp.session import PREFIX_CHARS, PREFIX_STEP, around


def gap(before: str, after: str = ""):
    return around(before + after, len(before), len(before), "python")


def test_a_suggestion_serves_those_who_type_along_with_it():
    known = Suggestion("return ", "a + b", "\n")
    assert known.rest("return ", "\n") == "a + b"
    assert known.rest("return a +", "\n") == " b"
    assert known.rest("return a -", "\n") is None
    assert known.rest("return a + b", "\n") is None  # all of it is there
    assert known.rest("return a", "\n\n") is None
    assert known.rest("retur", "\n") is None


@pytest.mark.parametrize(
    ("before", "text", "after", "result"),
    [
        ("print(", "a, b)", ")\n", "a, b"),
        ("print(f(", "a))", ")\n", "a)"),
        ("x = [", "1, 2]", "]\n", "1, 2"),
        ("x = ", "1\ny = 2\nz = 3", "\ny = 2\n", "1"),
        ("x = ", "1\n\n", "\n", "1"),
        ("x = ", "   ", "\n", ""),
        ("x = ", "a\u202eb", "\n", "ab"),
        ("x\r\ny = ", "[\n1]", "\r\n", "[\r\n1]"),
        ("a = ", "one + two + three", " + three\n", "one + two"),
    ],
)
def test_what_follows_is_never_written_twice(before, text, after, result):
    assert fitted(text, gap(before, after)) == result


@pytest.mark.parametrize(
    ("before", "after", "single"),
    [
        ("x = ", "\n", True),
        ("def f():", "\n", False),
        ("    ", "\n", False),
        ("f(", ")\n", False),
        ("f(", ", b)\n", True),
        ("if (x) {", "}\n", False),
    ],
)
def test_one_line_or_several(before, after, single):
    assert is_single_line(gap(before, after), "auto") is single
    assert is_single_line(gap(before, after), "never") is True
    assert is_single_line(gap(before, ""), "always") is False


def test_the_start_of_what_is_sent_stays_put_while_the_user_types():
    text = "".join(f"line_{n} = {n}\n" for n in range(20000))
    offset = len(text) // 2
    offset += -offset % PREFIX_STEP + 10
    one = around(text, offset, offset, None)
    two = around(text[:offset] + "typed" + text[offset:], offset + 5, offset + 5, None)
    assert two.prefix == one.prefix + "typed"
    assert PREFIX_CHARS <= len(one.prefix) < PREFIX_CHARS + PREFIX_STEP
    assert one.prefix.startswith("line_")
