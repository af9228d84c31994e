"""Edits turn the old text into the new one, hunks can be taken one by one, diffs apply with real tools."""

import itertools
import shutil
import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcoder_lsp.edits import Edit, apply_edits, edits, hunks, keep_line_ends, unified_diff
from diffcoder_lsp.lines import content, line_end, split_lines

lines = st.sampled_from(
    ["a\n", "a\r\n", "b\n", "\n", "\r\n", "c\r", "    a\n", "a b c\n", "a x c\n", "é😀\n"]
)
texts = st.builds(
    lambda body, last: "".join(body) + last, st.lists(lines, max_size=12), st.sampled_from(["", "a", "b"])
)
anything = st.text(alphabet="ab \r\n", max_size=20)


@given(st.one_of(st.tuples(texts, texts), st.tuples(anything, anything)))
def test_edits_give_the_new_text_and_are_sorted_apart_and_never_inside_a_line_end(pair):
    old, new = pair
    changes = edits(old, new)
    assert apply_edits(old, changes) == new
    for before, after in itertools.pairwise(changes):
        assert before.end < after.start
    for edit in changes:
        assert old[edit.start : edit.end] != edit.text
        for at in (edit.start, edit.end):
            assert at == 0 or old[at - 1 : at + 1] != "\r\n"


@given(st.one_of(st.tuples(texts, texts), st.tuples(anything, anything)), st.data())
def test_any_subset_of_hunks_applies_by_itself(pair, data):
    old, new = pair
    all_hunks = hunks(old, new)
    chosen = [hunk for hunk in all_hunks if data.draw(st.booleans())]
    old_lines, new_lines = split_lines(old), split_lines(new)
    expected, at = [], 0
    for hunk in chosen:
        expected += old_lines[at : hunk.old_start] + new_lines[hunk.new_start : hunk.new_end]
        at = hunk.old_end
    expected += old_lines[at:]
    assert apply_edits(old, [edit for hunk in chosen for edit in hunk.edits]) == "".join(expected)
    for before, after in itertools.pairwise(all_hunks):
        assert before.old_end < after.old_start
        assert before.new_end < after.new_start


def longest_common(old: list[str], new: list[str]) -> int:
    """The textbook table: the oracle for the length of the diff."""
    table = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i, j in itertools.product(range(len(old)), range(len(new))):
        same = old[i] == new[j]
        table[i + 1][j + 1] = table[i][j] + 1 if same else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(texts, texts)
def test_no_diff_changes_fewer_lines(old, new):
    common = longest_common(split_lines(old), split_lines(new))
    assert sum(hunk.old_end - hunk.old_start for hunk in hunks(old, new)) == len(split_lines(old)) - common


def test_only_the_characters_that_differ_are_replaced():
    old = "def f(a, b):\n    return a + b\n"
    assert edits(old, old.replace("a + b", "a - b")) == [Edit(26, 27, "-")]
    assert edits("a\nb\nc\n", "a\nx\nb\nc\n") == [Edit(2, 2, "x\n")]
    assert edits("same", "same") == []
    assert edits("a\n", "a\r\n") == [Edit(1, 2, "\r\n")]


def test_an_added_function_reads_from_its_first_line():
    function = "def {0}():\n    return 1\n\n\n"
    old = function.format("a") + function.format("c")
    new = function.format("a") + function.format("b") + function.format("c")
    (hunk,) = hunks(old, new)
    assert (hunk.old_start, hunk.old_end, hunk.new_start, hunk.new_end) == (4, 4, 4, 8)
    (back,) = hunks(new, old)
    assert (back.old_start, back.old_end) == (4, 8)


def test_thousands_of_equal_lines_take_no_time():
    old = "\n" * 3000 + "x\n" * 3000
    new = "x\n".join(["\n" * 100] * 30) + "x\n" * 3000
    started = time.perf_counter()
    assert apply_edits(old, edits(old, new)) == new
    assert time.perf_counter() - started < 2


def test_a_comparison_that_would_not_fit_in_memory_is_one_hunk():
    old = "".join(f"{i}\n" for i in range(40_000))
    new = "".join(f"{i} \n" for i in range(40_000))
    assert len(hunks(old, new)) == 1
    assert apply_edits(old, edits(old, new)) == new


@given(st.one_of(st.tuples(texts, texts), st.tuples(anything, anything)))
def test_keep_line_ends_changes_ends_alone(pair):
    old, new = pair
    kept = split_lines(keep_line_ends(old, new))
    assert [content(line) for line in kept] == [content(line) for line in split_lines(new)]
    assert [bool(line_end(line)) for line in kept] == [bool(line_end(line)) for line in split_lines(new)]
    assert keep_line_ends(old, old.replace("\r\n", "\n").replace("\r", "\n")) == old


def test_mixed_line_ends_survive_an_edit():
    assert keep_line_ends("a\nb\r\nc\r\nd\n", "a\nB\nc\nnew\nd\n") == "a\nB\r\nc\r\nnew\r\nd\n"
    assert keep_line_ends("", "x\ny\n", newline="\r\n") == "x\r\ny\r\n"
    assert keep_line_ends("c\ra\n", "b\n\n") == "b\r\r"  # b\r\n would be one line


@pytest.mark.parametrize("tool", ["git", "patch"])
@settings(max_examples=40)
@given(pair=st.one_of(st.tuples(texts, texts), st.tuples(anything, anything)))
def test_the_unified_diff_applies_with_real_tools(tmp_path_factory, tool, pair):
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} here")
    old, new = pair
    if not old or not new:  # creating and removing files is another matter to both tools
        return
    folder = tmp_path_factory.mktemp("diff")
    (folder / "a file.py").write_bytes(old.encode())
    diff = unified_diff(old, new, "a file.py").encode()
    if old == new:
        assert diff == b""
        return
    command = ["git", "apply", "-p1"] if tool == "git" else ["patch", "--binary", "-s", "-p1"]
    done = subprocess.run(command, cwd=folder, input=diff, capture_output=True, check=False)
    assert done.returncode == 0, (done.stderr, diff)
    assert (folder / "a file.py").read_bytes() == new.encode()


def test_the_unified_diff_reads_as_usual():
    old = "".join(f"{i}\n" for i in range(1, 13))
    new = old.replace("\n2\n", "\ntwo\n").removesuffix("\n")
    assert unified_diff(old, new, "/n.txt").splitlines() == [
        "--- a/n.txt",
        "+++ b/n.txt",
        "@@ -1,5 +1,5 @@",
        " 1",
        "-2",
        "+two",
        " 3",
        " 4",
        " 5",
        "@@ -9,4 +9,4 @@",
        " 9",
        " 10",
        " 11",
        "-12",
        "+12",
        "\\ No newline at end of file",
    ]
