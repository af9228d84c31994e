"""Where a filling ends: each rule on small texts, and what holds of all of them together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.schema import StopReason
from model.stops import Stops, indent_of, suffix_head

TEXT = st.lists(
    st.sampled_from(["a = 1", "return a", "    ", "  ", "\n", "\t", ")", "é", "if a:", "\n\n"]), max_size=20
).map("".join)


def cut(stops: Stops, text: str) -> tuple[str, StopReason | None]:
    reason = stops.look(text)
    return text[: stops.cut], reason


def stream(stops: Stops, text: str) -> tuple[str, StopReason | None]:
    """As the engine does it: look after every character, stop at the first reason."""
    for end in range(len(text) + 1):
        if (reason := stops.look(text[:end])) is not None:
            return text[: stops.cut], reason
    return text, None


@given(TEXT, TEXT, TEXT, st.lists(st.text("a=\n )", max_size=3), max_size=3), st.booleans())
def test_what_is_kept_is_always_a_beginning_of_the_text(
    prefix: str, suffix: str, text: str, stop: list[str], single: bool
) -> None:
    stops = Stops(prefix, suffix, tuple(stop), single)
    reason = stops.look(text)
    assert 0 <= stops.cut <= len(text)
    assert reason is not None or stops.cut == len(text)


@given(TEXT, TEXT, TEXT, st.lists(st.text("a=\n )", min_size=1, max_size=3), max_size=3))
def test_the_earliest_cut_wins(prefix: str, suffix: str, text: str, stop: list[str]) -> None:
    """The rules together cut where the strictest of them cuts alone."""
    together, lines = Stops(prefix, suffix, tuple(stop), True), Stops(prefix, suffix, (), True)
    free = Stops(prefix, suffix)
    together.look(text), lines.look(text), free.look(text)
    found = [text.find(one) for one in stop if one in text]
    assert together.cut == min([lines.cut, *found])
    assert lines.cut <= free.cut


@given(TEXT, TEXT, TEXT)
def test_the_suffixs_first_line_is_never_written_again(prefix: str, suffix: str, text: str) -> None:
    kept, _ = cut(Stops(prefix, suffix), text)
    head = suffix_head(suffix).removesuffix("\n") + "\n"
    whole_lines = (not prefix or prefix.endswith("\n")) and not suffix.startswith("\n")
    assert head == "\n" or (f"\n{head}" not in f"\n{kept}" if whole_lines else head not in kept)


@pytest.mark.parametrize(
    ("suffix", "head"),
    [
        ("", ""),
        ("\n  \n", ""),
        ("x", "x"),
        (")\n    y\n", ")\n"),
        ("\n    y = 1\nz", "\n    y = 1\n"),
        ("\n\n\t y\n", "\n\n\t y\n"),
    ],
)
def test_suffix_head_runs_to_the_end_of_the_first_filled_line(suffix: str, head: str) -> None:
    assert suffix_head(suffix) == head


@pytest.mark.parametrize(("line", "columns"), [("", 0), ("  a", 2), ("\ta", 8), ("   \ta", 8), ("\t b", 9)])
def test_indent_counts_tabs_to_the_next_eighth_column(line: str, columns: int) -> None:
    assert indent_of(line) == columns


# --- stop strings


def test_the_first_of_several_stop_strings_cuts() -> None:
    assert cut(Stops("", "", ("###", "b")), "a b ###") == ("a ", "stop_string")


def test_an_empty_stop_string_stops_nothing() -> None:
    assert cut(Stops("", "", ("",)), "a b") == ("a b", None)


# --- single lines


@pytest.mark.parametrize(
    ("prefix", "suffix", "text", "kept"),
    [
        ("x = ", "\ny\n", "1\nz = 2\n", "1"),  # the rest of a line: the suffix brings the line's end
        ("x = ", "", "1\n", "1"),
        (
            "def f():\n",
            "    return 1\n",
            "\n    a = 1\n    b",
            "\n    a = 1\n",
        ),  # a whole line, before another
        (
            "def f():\n",
            "\n    return 1\n",
            "    a = 1\n    b",
            "    a = 1",
        ),  # an empty line that is to be filled
    ],
)
def test_a_single_line_ends_with_the_first_filled_one(prefix: str, suffix: str, text: str, kept: str) -> None:
    assert stream(Stops(prefix, suffix, single_line=True), text) == (kept, "line")


# --- the suffix comes back


@pytest.mark.parametrize(
    ("prefix", "suffix", "text", "kept"),
    [
        ("f(", ")\ny\n", "a, b)\ny\n", "a, b"),
        ("f(", ")", "g(a), b)\ny\n", "g(a), b"),
        ("f() {\n", "}\n", "    if (a) { b() }\n}\n", "    if (a) { b() }\n"),
        ("SELECT a, ", " FROM t;", "b FROM t; \n\nSELECT c", "b"),  # white space behind it
        ("x = ", "\n    return x\n", "1\n    return x\n", "1"),
        ("x = ", "\n\n\n    return x\n", "1\n    return x\n", "1"),  # fewer blank lines than in the file
        ("x = ", "\n    return x\n", "1\n\n \n    return x  \n", "1"),  # more of them
        ("def f():\n", "    return x\n", "    x = 1\n    return x\n", "    x = 1\n"),
        ("def f():\n", "    return x\n", "    x = 1\n  return x \n", "    x = 1\n"),  # white space aside
    ],
)
def test_text_that_goes_on_as_the_suffix_does_is_cut_before_it(
    prefix: str, suffix: str, text: str, kept: str
) -> None:
    assert stream(Stops(prefix, suffix), text) == (kept, "suffix")


@pytest.mark.parametrize(
    ("prefix", "suffix", "text"),
    [
        ("f(", ")\ny\n", "(a), (b)"),  # the suffix's first characters, but not its line
        ("f(", ")", "(a), (b)"),
        ("f() {\n", "}\n", "    if (a) { b() }\n    c()\n"),  # whole lines: the suffix's begin where lines do
        ("x = ", "\n    return x\n", "1\n    return x + 1\n"),
    ],
)
def test_text_that_only_resembles_the_suffix_goes_on(prefix: str, suffix: str, text: str) -> None:
    assert stream(Stops(prefix, suffix), text) == (text, None)


# --- dedent


@pytest.mark.parametrize(
    ("prefix", "suffix", "text", "kept"),
    [
        ("def f():\n    x = ", "", "1\n    return x\n\ndef g", "1\n    return x\n"),
        ("def f():\n    x = ", "\n    return x\n", "1\nprint", "1"),
        (
            "def f():\n    return ",
            "\n\n\ndef h():\n",
            "1\n\n\ndef g",
            "1",
        ),  # the blank lines are the suffix's
        ("class A:\n    def f(self):\n        x = ", "\n    def g(self):\n", "1\n    def h", "1\n    def h"),
        ("\tif a:\n\t\tb\n", "", "\t\tc\nd", "\t\tc"),
        ("f(\n    a,\n    ", "", "b,\n)\n", "b,\n)\n"),  # a closing bracket belongs to what it closes
    ],
)
def test_a_line_left_of_the_gap_and_of_what_follows_ends_the_text(
    prefix: str, suffix: str, text: str, kept: str
) -> None:
    found, reason = stream(Stops(prefix, suffix), text)
    assert found == kept
    assert reason == ("dedent" if found != text else None)


def test_at_the_left_margin_nothing_dedents() -> None:
    text = "a = 1\n\nb = 2\n\ndef f():\n    pass\n\nc = 3\n"
    assert stream(Stops("import os\n", ""), text) == (text, None)


# --- repetition


def test_the_fourth_equal_line_in_a_row_leaves_one() -> None:
    assert stream(Stops("", ""), "x\na = 1\na = 1\na = 1\na = 1\nb\n") == ("x\na = 1", "repetition")


@pytest.mark.parametrize("more", ["", '"An', '"Ann", "Bob", "Cle'])
def test_a_run_that_goes_round_and_round_leaves_one(more: str) -> None:
    text = "names = [" + '"Ann", "Bob", "Cleo", ' * 4 + more
    assert cut(Stops("", ""), text) == ('names = ["Ann", "Bob", "Cleo", ', "repetition")


@pytest.mark.parametrize("text", ["x = [" + "0.0, " * 40, "# " + "-" * 90, '"Ann", "Bob", "Cleo", ' * 3])
def test_numbers_and_rules_may_repeat(text: str) -> None:
    assert stream(Stops("", ""), text) == (text, None)


@pytest.mark.parametrize("text", ["a\na\na\nb\na\n", "\n\n\n\n\n\nb", "a\nb\na\nb\na\nb\na\nb\n"])
def test_other_repetition_goes_on(text: str) -> None:
    assert stream(Stops("", ""), text) == (text, None)
