"""Positions, ranges and markers become gaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcoder_lsp.gaps import (
    MARKER,
    gap_at,
    gap_between,
    language_of,
    line_range,
    offset_of,
    pieces_at_markers,
    position_of,
)
from diffcoder_lsp.lines import split_lines
from model.schema import DiffcoderError, Limits

texts = st.text(alphabet="ab_1 \t\r\n\fé😀", max_size=40)


@given(texts, st.data())
def test_every_position_of_a_text_names_one_offset_and_back(text, data):
    inside = [i for i in range(len(text) + 1) if text[i - 1 : i + 1] != "\r\n" or i == 0]
    offset = data.draw(st.sampled_from(inside))
    line, column = position_of(text, offset)
    assert offset_of(text, line, column) == offset
    gap = gap_at(text, line, column)
    assert gap.prefix + gap.suffix == text
    assert gap.filled("") == text


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a\nb", 0, 1, "line from 1 to 2"),
        ("a\nb", 3, 1, "line from 1 to 2"),
        ("a\nb\n", 4, 1, "line from 1 to 3"),
        ("a\nb", 1, 3, "column from 1 to 2"),
        ("a\r\nb", 1, 3, "column from 1 to 2"),
        ("a\nb", 1, 0, "column from 1 to 2"),
        ("", 1, 2, "column from 1 to 1"),
        ("", 2, 1, "line from 1 to 1"),
        ("a", 10**30, 1, "line from 1 to 1"),
    ],
)
def test_a_position_outside_the_text_says_which_ones_there_are(text, line, column, says):
    with pytest.raises(DiffcoderError) as caught:
        gap_at(text, line, column)
    assert caught.value.code == "bad_position"
    assert says in caught.value.message


def test_gap_at_the_very_start_and_end_and_in_an_empty_text():
    assert (gap_at("abc\n", 1, 1).prefix, gap_at("abc\n", 1, 1).suffix) == ("", "abc\n")
    assert (gap_at("abc\n", 2, 1).prefix, gap_at("abc\n", 2, 1).suffix) == ("abc\n", "")
    assert (gap_at("abc", 1, 4).prefix, gap_at("abc", 1, 4).suffix) == ("abc", "")
    empty = gap_at("", 1, 1, "python")
    assert (empty.prefix, empty.suffix, empty.indent, empty.newline) == ("", "", "", "\n")


def test_a_column_counts_characters_whatever_their_width():
    gap = gap_at("\té😀x = 1\n", 1, 4)
    assert (gap.prefix, gap.suffix) == ("\té😀", "x = 1\n")


@pytest.mark.parametrize(
    ("before", "word"),
    [
        ("    return na", "na"),
        ("self.", ""),
        ("self._priv", "_priv"),
        ("x = 12", ""),
        ("x = a12", "a12"),
        ("größe", "größe"),
        ("foo\n", ""),
        ("", ""),
    ],
)
def test_partial_identifier(before, word):
    assert gap_between(before + " tail", len(before), len(before)).partial_identifier == word


@pytest.mark.parametrize(
    ("before", "indent"),
    [("def f():\n    ", "    "), ("\t\tx = ", "\t\t"), ("a\n", ""), (" \t y\r\n \t", " \t"), ("x", "")],
)
def test_indent_is_the_white_space_up_to_the_gap(before, indent):
    assert gap_between(before + "\nz", len(before), len(before)).indent == indent


def test_a_filling_takes_the_line_end_of_its_neighbour():
    mixed = "a\nb\r\nc\n"
    assert gap_at(mixed, 2, 2).filled("1\n2") == "a\nb1\r\n2\r\nc\n"
    assert gap_at(mixed, 1, 2).filled("1\r\n2") == "a1\n2\nb\r\nc\n"


def test_a_range_becomes_a_gap_that_replaces_it():
    text = "def f():\n    pass\n"
    gap = gap_between(text, 13, 17, "python")
    assert (gap.prefix, gap.suffix, gap.indent, gap.language) == ("def f():\n    ", "\n", "    ", "python")


def test_markers_cut_a_text_into_pieces():
    assert pieces_at_markers(f"def f(x):\n    {MARKER}\nprint({MARKER})") == [
        "def f(x):\n    ",
        "\nprint(",
        ")",
    ]
    with pytest.raises(DiffcoderError, match="FILE:LINE:COL"):
        pieces_at_markers("nothing here")


def test_the_engine_reads_newlines_only():
    request = gap_at("a\r\nb\rc\n", 2, 1, "python").request(Limits(max_tokens=4), path="x.py")
    assert (request.prefix, request.suffix) == ("a\n", "b\nc\n")
    assert (request.language, request.path, request.limits.max_tokens) == ("python", "x.py", 4)


@given(texts, st.data())
def test_a_line_range_holds_whole_lines(text, data):
    lines = split_lines(text) or [""]
    start = data.draw(st.integers(1, len(lines)))
    end = data.draw(st.integers(start, len(lines)))
    a, b = line_range(text, start, end)
    assert text[a:b] == "".join(lines[start - 1 : end])


@pytest.mark.parametrize(("start", "end"), [(0, 1), (2, 1), (1, 3), (3, 3)])
def test_a_line_range_outside_the_text_says_which_ones_there_are(start, end):
    with pytest.raises(DiffcoderError, match="START ≤ END ≤ 2"):
        line_range("a\nb\n", start, end)


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a/b.py", "python"),
        ("X.TSX", "typescriptreact"),
        ("Makefile", "makefile"),
        ("CMakeLists.txt", "cmake"),
        ("a.b.rs", "rust"),
        ("notes", None),
        ("x.unknown", None),
        ("py", None),
    ],
)
def test_language_of(path, language):
    assert language_of(path) == language
