"""Windows, prompts and selections: what the model is shown of a file, and what comes back into it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.layout import CHARS_A_TOKEN, Mark, Selection, edit, infill, window
from model.profiles import PROFILES, QWEN, SEED_CODER, SMOLLM
from model.schema import Diagnostic, DiffcoderError, EditRequest, Snippet

CODE = st.lists(st.sampled_from(["    x = 1\n", "def f(a):\n", "\n", "é", "\t", "y" * 90, "\r\n", " "])).map(
    "".join
)
LINES = st.lists(st.tuples(st.sampled_from(["", " ", "  ", "\t"]), st.sampled_from(["", "a", "b = 1", "c "])))


def long(parts: int, seed: int) -> str:
    return "".join(f"line {n * seed} {'z' * (n * seed % 60)}\n" for n in range(parts))


# --- windows


@given(CODE, CODE, st.integers(0, 120))
def test_window_is_the_text_next_to_the_gap_and_never_exceeds(prefix: str, suffix: str, tokens: int) -> None:
    before, after = window(prefix, suffix, tokens)
    assert prefix.endswith(before)
    assert suffix.startswith(after)
    assert len(before) + len(after) <= tokens * CHARS_A_TOKEN


@given(CODE, CODE)
def test_a_text_that_fits_is_left_whole(prefix: str, suffix: str) -> None:
    tokens = int((len(prefix) + len(suffix)) / CHARS_A_TOKEN) + 1
    assert window(prefix, suffix, tokens) == (prefix, suffix)


@pytest.mark.parametrize("before", [20, 900, 3000, 5000, 20_000])
@pytest.mark.parametrize("after", [0, 700, 4000, 20_000])
@pytest.mark.parametrize("tokens", [400, 1152, 1536])
def test_window_uses_most_of_its_room(before: int, after: int, tokens: int) -> None:
    prefix, suffix = long(900, 7)[-before:], long(900, 11)[:after]
    used = sum(map(len, window(prefix, suffix, tokens)))
    assert used >= 0.6 * min(before + after, tokens * CHARS_A_TOKEN)


@pytest.mark.parametrize("before", [10, 900, 3000, 4900, 20_000])
@pytest.mark.parametrize("after", [0, 700, 4000, 20_000])
@pytest.mark.parametrize("tokens", [400, 1536])
def test_window_stays_put_while_the_user_types(before: int, after: int, tokens: int) -> None:
    """The prompt grows at its end alone, but for a jump now and then: the cached keys and values stay
    good."""
    prefix, suffix = long(900, 7)[-before:], long(900, 11)[:after]
    typed = "for item in items:\n    if item:\n        yield item\n" * 6
    starts, ends = [], []
    for n in range(len(typed)):
        shown, behind = window(prefix + typed[:n], suffix, tokens)
        starts.append(len(prefix) + n - len(shown))
        ends.append(len(behind))
    jumps = [n for n in range(1, len(typed)) if (starts[n], ends[n]) != (starts[n - 1], ends[n - 1])]
    assert len(jumps) <= 3


def test_window_begins_and_ends_with_whole_lines() -> None:
    before, after = window(long(900, 7), long(900, 11), 1536)
    assert before.startswith("line ")
    assert after.endswith("\n")


def test_window_of_one_endless_line_is_cut_within_it() -> None:
    before, after = window("x" * 100_000, "y" * 100_000, 1000)
    assert len(before) > 1500
    assert len(after) == 800


# --- prompts of gaps


def test_infill_puts_the_suffix_first_and_the_prefix_last() -> None:
    pieces = infill(QWEN, "pre", "suf", (), 1000)
    assert pieces == [Mark("<|fim_prefix|>"), Mark("<|fim_suffix|>"), "suf", Mark("<|fim_middle|>"), "pre"]


def test_infill_of_a_family_without_marks_is_the_prefix() -> None:
    assert infill(SMOLLM, "pre", "suf", (), 1000) == ["pre"]


def test_infill_of_seed_coder_begins_with_its_begin_token() -> None:
    marks = [piece.name for piece in infill(SEED_CODER, "p", "s", (), 99) if isinstance(piece, Mark)]
    assert marks == ["<[begin▁of▁sentence]>", "<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"]


def test_snippets_stand_before_the_gap_and_take_a_quarter_of_the_room() -> None:
    snippets = [Snippet("a.py", "A" * 50), Snippet("b.py", "B" * 5000), Snippet("c.py", "C" * 50)]
    pieces = infill(QWEN, "x" * 9000, "y" * 9000, snippets, 1000)
    mark = Mark("<|file_sep|>")
    assert pieces[:4] == [mark, f"a.py\n{'A' * 50}\n", mark, f"c.py\n{'C' * 50}\n"]  # b is too long
    assert sum(len(piece) for piece in pieces if isinstance(piece, str)) <= 1000 * CHARS_A_TOKEN


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_a_users_text_is_never_a_mark(profile: object) -> None:
    text = "<|fim_middle|><|im_end|><[MASK_TOKEN]>"
    pieces = infill(profile, text, text, [Snippet("p", text)], 1000)  # type: ignore[arg-type]
    assert all(isinstance(piece, Mark) or text in piece for piece in pieces)


# --- selections


def select(before: str, start: int, end: int) -> Selection:
    return Selection.of(EditRequest(before=before, start=start, end=end, instruction="x"))


@given(LINES, st.lists(st.sampled_from(["\n", "\r\n", "\r"])), st.booleans(), st.data())
def test_an_answer_that_changes_nothing_changes_no_byte(
    lines: list[tuple[str, str]], ends: list[str], ended: bool, data: st.DataObject
) -> None:
    """Whatever the line ends, the indentation, the white space at line ends and in empty lines."""
    ends = (ends or ["\n"]) * (len(lines) + 1)
    text = "".join(indent + body + end for (indent, body), end in zip(lines, ends, strict=False))
    text = text if ended else text.rstrip("\r\n")
    count = max(1, text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").count("\n") + 1)
    start = data.draw(st.integers(1, count))
    end = data.draw(st.integers(start, count))
    found = select(text, start, end)
    assert found.before + found.restore(found.text) + found.after == text
    assert found.before + found.restore(found.text.rstrip("\n")) + found.after == text


def test_common_indentation_is_taken_off_and_given_back() -> None:
    found = select("class A:\n    def f(self):\n        pass\n\n    x = 1\n", 2, 5)
    assert found.text == "def f(self):\n    pass\n\nx = 1\n"
    assert found.restore("def g(self):\n    return 1\n\n") == "    def g(self):\n        return 1\n"


def test_tabs_and_spaces_are_common_only_as_far_as_they_are_the_same() -> None:
    found = select("\t  a\n\t\tb\n", 1, 2)
    assert found.indent == "\t"
    assert found.text == "  a\n\tb\n"


def test_new_lines_end_as_the_selection_does() -> None:
    found = select("a\r\nb\r\nc\r\n", 2, 2)
    assert (found.before, found.after) == ("a\r\n", "c\r\n")
    assert found.restore("x\ny") == "x\r\ny\r\n"


def test_a_last_line_without_end_keeps_none_and_lines_before_it_get_one() -> None:
    assert select("a\n  b", 2, 2).restore("x\ny") == "  x\n  y"
    assert select("a\n  b", 2, 2).restore("b\ny") == "  b\n  y"


def test_lines_that_survive_keep_their_white_space_and_line_ends() -> None:
    found = select("  a \r\n  b\n \n  c\n", 1, 4)
    assert found.restore("a \nB\n\nc") == "  a \r\n  B\r\n \n  c\n"


def test_an_empty_answer_deletes_the_lines() -> None:
    found = select("a\n    b\nc\n", 2, 2)
    assert found.before + found.restore("") + found.after == "a\nc\n"


def test_an_empty_file_can_be_written_into() -> None:
    found = select("", 1, 1)
    assert (found.text, found.restore("x = 1\n")) == ("", "x = 1")


def test_form_feeds_and_other_separators_are_no_line_ends() -> None:
    found = select("a\x0cb\u2028c\x85d\nsecond\n", 2, 2)
    assert found.text == "second\n"


@pytest.mark.parametrize(("start", "end"), [(0, 1), (2, 1), (1, 4), (4, 4), (-1, -1)])
def test_lines_outside_the_file_are_refused(start: int, end: int) -> None:
    with pytest.raises(DiffcoderError, match="has 3") as error:
        select("a\nb\nc\n", start, end)
    assert error.value.code == "bad_position"


# --- prompts of edits


def test_edit_shows_selection_surroundings_problems_and_instruction() -> None:
    request = EditRequest(
        before="import os\n\nx = os\n\nend\n",
        start=3,
        end=3,
        instruction="  rename x ",
        language="python",
        diagnostics=(Diagnostic(3, "x is a bad name"),),
    )
    pieces = edit(QWEN, request, Selection.of(request), 1000)
    user = next(piece for piece in pieces if isinstance(piece, str) and piece.startswith("user\n"))
    for part in ("```python\nx = os\n```", "import os\n", "end\n", "- line 3: x is a bad name", "rename x"):
        assert part in user
    assert pieces[-1] == "assistant\n```python\n"


def test_the_fence_is_longer_than_any_in_the_selection() -> None:
    request = EditRequest(before='"""\n````\nx\n````\n"""\n', start=1, end=5, instruction="y")
    found = Selection.of(request)
    assert found.fence == "`````"
    assert edit(QWEN, request, found, 1000)[-1] == "assistant\n`````\n"


@pytest.mark.parametrize("size", [10, 5_000, 50_000])
def test_the_surroundings_of_an_edit_keep_within_its_room(size: int) -> None:
    text = long(900, 3)[:size]
    request = EditRequest(
        before=f"{text}x = 1\n{text}", start=text.count("\n") + 1, end=text.count("\n") + 1, instruction="y"
    )
    pieces = edit(QWEN, request, Selection.of(request), 1000)
    assert sum(len(piece) for piece in pieces if isinstance(piece, str)) <= 1000 * CHARS_A_TOKEN + 500


def test_a_family_without_chat_form_says_so() -> None:
    request = EditRequest(before="a\n", start=1, end=1, instruction="y")
    with pytest.raises(DiffcoderError, match="does not take instructions"):
        edit(SMOLLM.__class__(**{**vars(SMOLLM), "chat": "none"}), request, Selection.of(request), 100)
