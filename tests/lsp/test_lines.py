"""Lines are the protocol's: `\\n`, `\\r\\n` and a lone `\\r` end them, form feeds and U+2028 do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcoder_lsp.lines import content, line_end, newline_near, split_lines, with_line_ends

texts = st.text(alphabet="ab\t\r\n\f\u2028é😀", max_size=40)


@given(texts)
def test_lines_join_to_the_text_and_only_line_ends_end_them(text):
    lines = split_lines(text)
    assert "".join(lines) == text
    assert all(line_end(line) for line in lines[:-1])
    assert not any(set(content(line)) & {"\r", "\n"} for line in lines)
    assert "\f" not in "".join(line_end(line) for line in lines)


def test_a_carriage_return_before_a_newline_is_one_end():
    assert split_lines("a\r\nb\rc\n\n\fd") == ["a\r\n", "b\r", "c\n", "\n", "\fd"]


@given(texts, st.sampled_from(["\n", "\r\n", "\r"]))
def test_with_line_ends_changes_the_ends_alone(text, newline):
    changed = split_lines(with_line_ends(text, newline))
    assert [content(line) for line in changed] == [content(line) for line in split_lines(text)]
    assert {line_end(line) for line in changed} <= {newline, ""}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a\nb\r\nc", "d\r\ne\n", "\r\n"),
        ("a\r\nb", "", "\r\n"),
        ("a\rb", "c", "\r"),
        ("a\r\nb\n", "", "\n"),
        ("", "", "\n"),
    ],
)
def test_a_new_line_ends_like_its_neighbour(before, after, expected):
    assert newline_near(before, after) == expected
