"""What people see: code with its filling, safe to print, on terminals and elsewhere."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from diffcoder_lsp import terminal
from diffcoder_lsp.edits import unified_diff
from diffcoder_lsp.lines import content, split_lines
from diffcoder_lsp.terminal import Excerpt, Screen, pieces_of, shown, status
from model.schema import Draft, FillResponse, Usage

texts = st.text(alphabet="ab \t\n", max_size=60)


def response(**usage: int) -> FillResponse:
    counts = {"tokens": 7, "forwards": 2, "prefill_tokens": 0, "cached_tokens": 0} | usage
    return FillResponse(
        text="",
        confidence=1.0,
        stop_reason="repetition",
        usage=Usage(**counts, ms=123_456.7, prefill_ms=0),
        model="default",
    )


@given(texts, texts, texts, st.integers(0, 5))
def test_an_excerpt_shows_the_lines_around_the_gap_with_their_numbers(before, filling, after, context):
    whole = [content(line) for line in split_lines(before + filling + after)] + [""]
    rows = Excerpt.around(before, after, context).rows([("new", filling)])
    for row in rows:
        assert "".join(text for _, text in row.pieces) == whole[row.number - 1]
    gap_line = before.count("\n") + 1
    assert rows[0].number == max(1, gap_line - context)
    assert [row.number for row in rows] == list(range(rows[0].number, rows[0].number + len(rows)))
    touched = [row.number for row in rows if row.touched]
    assert touched == ([] if not filling else list(range(gap_line, gap_line + len(split_lines(filling)))))


def test_no_control_character_reaches_the_screen():
    nasty = "a\x1b[2Jb\x9bc\u202ed\tx\x7f\x00"
    assert shown(nasty) == "a␛[2Jb\ufffdc\ufffdd    x␡␀"
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80)
    console.print(terminal._code("t", Excerpt.around(nasty, nasty).rows([("new", nasty)])))
    console.print(terminal._diff(unified_diff("a\n", nasty + "\n", "f")))
    printed = console.file.getvalue()
    assert "[2J" in printed
    assert "\x1b[2J" not in printed
    assert not set(printed) & {"\x9b", "\u202e", "\x00"}


@pytest.mark.parametrize("tokens", [0, 1, 128, 1024])
@pytest.mark.parametrize("forwards", [0, 1, 512])
def test_the_status_fits_80_columns(tokens, forwards):
    line = status(response(tokens=tokens, forwards=forwards))
    assert len(line) <= 80
    assert ("1 token ·" in line) == (tokens == 1)


def test_a_draft_shows_what_is_committed_revealed_and_masked():
    draft = Draft(text="return ", block=("a", None, None, ")"), forwards=2)
    assert pieces_of(draft) == [
        ("new", "return "),
        ("open", "a"),
        ("mask", "▒▒▒"),
        ("mask", "▒▒▒"),
        ("open", ")"),
    ]


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("utf-8", "é.py:1:5\n> 1 │ x = ‹1\n> 2 │ 2›\n  3 │\n  4 │ y = 3\na · b\n"),
        ("ascii", "?.py:1:5\n> 1 | x = <<1\n> 2 | 2>>\n  3 |\n  4 | y = 3\na ? b\n"),
    ],
)
def test_elsewhere_than_on_a_terminal_the_filling_stands_in_brackets(monkeypatch, encoding, printed):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    monkeypatch.setattr(sys, "stdout", output)
    screen = Screen()
    screen.filling("é.py:1:5", Excerpt.around("x = ", "\n\ny = 3\n"), "1\n2")
    screen.note("a · b")
    output.flush()
    assert output.buffer.getvalue().decode(encoding) == printed


def test_nothing_is_coloured_where_colour_is_not_wanted(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    console.print(terminal._diff(unified_diff("a = 1\nb\n", "a = 2\nb\n", "f")))
    printed = console.file.getvalue()
    assert "\x1b[3" not in printed  # bold and dim may stay, colours may not
    assert "-a = " in printed


def test_a_long_filling_shows_its_end_on_a_small_screen():
    excerpt = Excerpt.around("def f():\n" * 20, "\ndef g():\n" * 20)
    view = terminal._Denoising("t", excerpt, lambda: "")
    view.take(Draft(text="\n".join(f"line{n}" for n in range(100)), block=(None,), forwards=3))
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=12)
    console.print(view)
    printed = console.file.getvalue()
    assert printed.count("\n") <= 12
    assert "line99" in printed
    assert "3 forwards" in printed
