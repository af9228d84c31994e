"""From an old and a new text to what changed: hunks of small edits, and a unified diff.

A hunk is a run of changed lines that can be taken or left by itself: hunks never touch, so applying any
subset of them gives exactly the text with those changes and no others. Inside a hunk only the characters
that differ are replaced, which keeps cursors, marks and folds in place. The diff is the shortest one (a
longest common subsequence of lines, computed by rapidfuzz; difflib needs seconds on a few thousand equal
lines), then slid to where a reader expects it. Positions are character offsets into the old text; knows
nothing of files, terminals or the protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Indel

from diffcoder_lsp.gaps import line_range
from diffcoder_lsp.lines import content, line_end, newline_near, split_lines
from model.schema import DiffcoderError

MAX_INSTRUCTION = 4000
"""Characters that an edit's instruction may have."""
_MOST_CELLS = 1_000_000_000
"""Old lines times new lines that are compared (the bit matrix then takes 125 MB); beyond, one hunk."""


def check_instruction(text: str) -> None:
    """Refuse an instruction that says nothing, or is so long that the engine would blame the lines for its length."""
    if not text.strip():
        raise DiffcoderError("bad_request", "The instruction is empty: say what to change.")
    if len(text) > MAX_INSTRUCTION:
        raise DiffcoderError(
            "bad_request",
            f"The instruction has {len(text):,} characters: use at most {MAX_INSTRUCTION:,}.",
        )


@dataclass(frozen=True)
class Edit:
    """Replace `old[start:end]` (character offsets) by `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Hunk:
    """Old lines `old_start` up to `old_end` become new lines `new_start` up to `new_end`.

    Line indexes count from 0, ends are exclusive; `edits` are in order and do not touch.
    """

    old_start: int
    old_end: int
    new_start: int
    new_end: int
    edits: tuple[Edit, ...]


def hunks(old: str, new: str) -> list[Hunk]:
    """The changes from `old` to `new`, in order, at least one unchanged line between two of them."""
    old_lines, new_lines = split_lines(old), split_lines(new)
    starts = [0]
    for line in old_lines:
        starts.append(starts[-1] + len(line))
    return [
        Hunk(a, b, c, d, _edits_within(starts[a], old_lines[a:b], new_lines[c:d]))
        for a, b, c, d in _changes(old_lines, new_lines)
    ]


def edits(old: str, new: str) -> list[Edit]:
    """The smallest edits that turn `old` into `new`: those of all its hunks."""
    return [edit for hunk in hunks(old, new) for edit in hunk.edits]


def apply_edits(old: str, changes: Iterable[Edit]) -> str:
    """`old` with `changes` applied, given in any order; they must not overlap."""
    pieces, at = [], 0
    for edit in sorted(changes, key=lambda edit: (edit.start, edit.end)):
        assert at <= edit.start <= edit.end <= len(old), "edits overlap or lie outside the text"
        pieces += [old[at : edit.start], edit.text]
        at = edit.end
    return "".join([*pieces, old[at:]])


def keep_line_ends(old: str, new: str, newline: str | None = None) -> str:
    """`new` (with any line ends) in the line ends of `old`, the text that it replaces.

    A line that stayed keeps its end; a changed one takes that of the old line in its place; a further one
    that of the line above it or, without one, `newline`. The last line has an end where it has one in `new`.
    """
    old_lines, new_lines = split_lines(old), split_lines(new)
    found: list[str | None] = [None] * len(new_lines)
    changes = _changes([content(line) for line in old_lines], [content(line) for line in new_lines])
    at_old = at_new = 0
    for a, b, c, d in [*changes, (len(old_lines), len(old_lines), len(new_lines), len(new_lines))]:
        for offset in range(c - at_new):
            found[at_new + offset] = line_end(old_lines[at_old + offset])
        for offset in range(min(b - a, d - c)):
            found[c + offset] = line_end(old_lines[a + offset])
        at_old, at_new = b, d
    current = newline or newline_near("", old)
    result: list[str] = []
    for line, end in zip(new_lines, found, strict=True):
        current = end or current
        if current == "\n" and not content(line) and result and line_end(result[-1]) == "\r":
            current = "\r"  # behind a lone \r an empty line's \n would make one line end of two
        result.append(content(line) + (current if line_end(line) else ""))
    return "".join(result)


def replace_lines(old: str, start: int, end: int, replacement: str) -> str:
    """`old` with lines `start`..`end` (1-based, inclusive) rewritten as `replacement`, in the line ends that
    `old` has there. Nothing outside these lines changes, and the last of them ends as it did."""
    a, b = line_range(old, start, end)
    selected = old[a:b]
    if selected and replacement:
        replacement = content(replacement) + ("\n" if line_end(selected) else "")
    return old[:a] + keep_line_ends(selected, replacement, newline_near(old[:a], old[a:])) + old[b:]


def unified_diff(old: str, new: str, name: str, *, context: int = 3) -> str:
    """The change of file `name` as a unified diff that `patch` and `git apply` take; `""` for no change.

    Here a line ends at `\\n` alone, as those programs have it; other line ends stay in the lines.
    """
    old_lines, new_lines = _newline_lines(old), _newline_lines(new)
    groups: list[list[tuple[int, int, int, int]]] = []
    for change in _changes(old_lines, new_lines):
        if groups and change[0] - groups[-1][-1][1] <= 2 * context:
            groups[-1].append(change)
        else:
            groups.append([change])
    if not groups:
        return ""
    # The tab ends a name with blanks, as git writes it; without one `patch` reads up to the first blank.
    name = name.replace("\\", "/").lstrip("/") + ("\t" if " " in name else "")
    output = [f"--- a/{name}\n", f"+++ b/{name}\n"]
    for group in groups:
        before = min(context, group[0][0])
        first_old, first_new = group[0][0] - before, group[0][2] - before
        after = min(context, len(old_lines) - group[-1][1])
        last_old, last_new = group[-1][1] + after, group[-1][3] + after
        output.append(f"@@ -{_span(first_old, last_old)} +{_span(first_new, last_new)} @@\n")
        at = first_old
        for a, b, c, d in [*group, (last_old, last_old, last_new, last_new)]:
            output += [_diff_line(" ", line) for line in old_lines[at:a]]
            output += [_diff_line("-", line) for line in old_lines[a:b]]
            output += [_diff_line("+", line) for line in new_lines[c:d]]
            at = b
    return "".join(output)


def _changes(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Maximal runs (old start, old end, new start, new end) of lines outside a longest common subsequence."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    old_end, new_end = len(old) - tail, len(new) - tail
    if head == old_end and head == new_end:
        return []
    if (old_end - head) * (new_end - head) > _MOST_CELLS:
        return [(head, old_end, head, new_end)]
    numbers: dict[str, int] = {}
    old_ids = [numbers.setdefault(line, len(numbers)) for line in old[head:old_end]]
    new_ids = [numbers.setdefault(line, len(numbers)) for line in new[head:new_end]]
    runs: list[tuple[int, int, int, int]] = []
    for code in Indel.opcodes(old_ids, new_ids):
        if code.tag == "equal":
            continue
        run = (code.src_start + head, code.src_end + head, code.dest_start + head, code.dest_end + head)
        if runs and runs[-1][1] == run[0] and runs[-1][3] == run[2]:
            runs[-1] = (runs[-1][0], run[1], runs[-1][2], run[3])
        else:
            runs.append(run)
    return _slid(old, new, runs)


def _slid(
    old: Sequence[str], new: Sequence[str], runs: list[tuple[int, int, int, int]]
) -> list[tuple[int, int, int, int]]:
    """`runs` with each pure insertion or deletion moved to where it begins with the least indented line.

    An added function then reads from its `def` to the blank line below it, not from the middle of its
    neighbour: a run can move up by a line when the line above it equals its last one, and so on.
    """
    result: list[tuple[int, int, int, int]] = []
    for index, (a, b, c, d) in enumerate(runs):
        if a == b or c == d:
            lines, start, end = (new, c, d) if a == b else (old, a, b)
            lowest = max(result[-1][1] - a, result[-1][3] - c) + 1 if result else -min(a, c)
            highest = runs[index + 1][0] - b - 1 if index + 1 < len(runs) else min(len(old) - b, len(new) - d)
            up = 0
            while up > lowest and lines[start + up - 1] == lines[end + up - 1]:
                up -= 1
            down = 0
            while down < highest and lines[start + down] == lines[end + down]:
                down += 1
            shift = min(range(up, down + 1), key=lambda shift: (_indent(lines[start + shift]), -shift))
            a, b, c, d = a + shift, b + shift, c + shift, d + shift
        result.append((a, b, c, d))
    return result


def _indent(line: str) -> int:
    """Characters of white space before the text of a line; a blank line counts as deepest."""
    return len(line) - len(line.lstrip()) if line.strip() else 1_000_000


def _edits_within(start: int, old: list[str], new: list[str]) -> tuple[Edit, ...]:
    """The edits of one hunk, whose old lines begin at offset `start`: line by line where both sides have
    as many lines, as one piece otherwise, each cut down to the characters that differ."""
    if len(old) != len(new):
        old, new = ["".join(old)], ["".join(new)]
    result: list[Edit] = []
    for before, after in zip(old, new, strict=True):
        head, tail = common_ends(before, after)
        edit = Edit(start + head, start + len(before) - tail, after[head : len(after) - tail])
        if result and result[-1].end == edit.start:
            result[-1] = Edit(result[-1].start, edit.end, result[-1].text + edit.text)
        else:
            result.append(edit)
        start += len(before)
    return tuple(result)


def common_ends(old: str, new: str) -> tuple[int, int]:
    """How many characters at the start and at the end are the same; no `\r\n` is ever cut in two, since
    the place between the two has no position in an editor."""
    shorter = min(len(old), len(new))
    head = 0
    while head < shorter and old[head] == new[head]:
        head += 1
    if head and old[head - 1] == "\r" and "\n" in (old[head : head + 1], new[head : head + 1]):
        head -= 1
    tail = 0
    while tail < shorter - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    if tail and old[-tail] == "\n" and "\r" in (old[-tail - 1 : -tail], new[-tail - 1 : -tail]):
        tail -= 1
    return head, tail


def _newline_lines(text: str) -> list[str]:
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _span(start: int, end: int) -> str:
    """`start`..`end` (from 0, end exclusive) as a hunk header has it: an empty span names the line above."""
    length = end - start
    first = start + 1 if length else start
    return f"{first}" if length == 1 else f"{first},{length}"


def _diff_line(sign: str, line: str) -> str:
    return sign + line if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n"
