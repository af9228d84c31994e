"""A filling held in step with what stands around it: its brackets and, in Python, its indentation.

It is cut short where it leaves its place, and closed where it only lacks brackets. Plain text in, plain text out;
rules of thumb on characters, as in scan.py, and like them quick enough for every answer.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from diffcoder_lsp.gaps import Gap
from diffcoder_lsp.lines import with_line_ends
from diffcoder_lsp.scan import blanked, open_at, unmatched

_NAMES = """
    c cpp csharp dart go java javascript javascriptreact julia kotlin lua php python r rust scala swift typescript
    typescriptreact zig
"""
_LANGUAGES = frozenset(_NAMES.split())
"""Those in which brackets outside strings and comments come in pairs."""
_OPENER = {")": "(", "]": "[", "}": "{"}
_CLOSER = {opener: closer for closer, opener in _OPENER.items()}
_TOP = re.compile(r"^[A-Za-z_@]", re.MULTILINE)
_DEFINITION = re.compile(r"^(?:[A-Za-z_@]|[ \t]+(?:async[ \t]+)?(?:def|class)\b)", re.MULTILINE)
"""Python's own: no bracket is open there either, and what stands above it is long."""
_JUMP = re.compile(r"[ \t]*(return|raise|continue|break)\b")


@dataclass(frozen=True)
class _Seam:
    """`head` is the text before a filling from a line that is no part of a bracket or string on; `code` is `head`
    and the filling, `tail` what follows up to such a line: both without strings and comments. `levels` are the
    indentations of the blocks in which `head` begins."""

    head: str
    code: str
    tail: str
    levels: tuple[str, ...]

    @classmethod
    def of(cls, text: str, gap: Gap) -> _Seam:
        opened, head, tail, levels = _around(gap)
        return cls(head, blanked(opened + head + text, gap.language)[len(opened) :], tail, levels)

    @property
    def filling(self) -> str:
        return self.code[len(self.head) :]


@functools.lru_cache(4)  # every question about a filling begins here, and files are long
def _around(gap: Gap) -> tuple[str, str, str, tuple[str, ...]]:
    """The head, the tail and the levels of a gap's seams, and first what opened the string or comment in which the head
    begins."""
    before = gap.opened + with_line_ends(gap.prefix, "\n")
    begin = start = len(gap.opened)
    code = blanked(before, gap.language)
    for match in (_DEFINITION if gap.language == "python" else _TOP).finditer(code, begin):
        begin = match.start()
    suffix = blanked(with_line_ends(gap.suffix, "\n"), gap.language)
    line = suffix.find("\n") + 1
    found = _TOP.search(suffix, line) if line else None
    tail = suffix[: found.start()] if found else suffix
    return "" if begin > start else gap.opened, before[begin:], tail, _levels(code, begin)


def _levels(code: str, begin: int) -> tuple[str, ...]:
    """The indentations further left than the line at `begin`, outermost first, of the blocks that hold it."""
    line = code[begin:].partition("\n")[0]
    width, levels = len(line) - len(line.lstrip(" \t")), []
    for above in reversed(code[:begin].split("\n")):
        content = above.lstrip(" \t")
        if not width:
            break
        if len(above) - len(content) < width and content.strip("\0"):
            width = len(above) - len(content)
            levels.append(above[:width])
    return ("", *(level for level in reversed(levels) if level))


def kept_in_step(text: str, gap: Gap) -> str:
    """As much of `text` as can stand in `gap`, with the closing brackets that it lacks. Not for gaps in literals; lines
    end in a newline."""
    if not text or gap.language not in _LANGUAGES:
        return text
    if gap.language == "python":
        text = _indented(text, gap)
    return _bracketed(text, gap)


def breaks_off(text: str, gap: Gap) -> bool:
    """Whether a line ends within brackets that it opened, so that its statement goes on below."""
    if "\n" in text or gap.suffix.partition("\n")[0].strip() or gap.language not in _LANGUAGES:
        return False
    return bool(unmatched(_Seam.of(text, gap).filling)[1])


def first_statement(text: str, gap: Gap) -> str:
    """`text` up to the first line end outside its own brackets."""
    depth = 0
    for at, char in enumerate(_Seam.of(text, gap).filling):
        depth += (char in "([{") - (char in ")]}")
        if char == "\n" and depth <= 0:
            return text[:at]
    return text


def _bracketed(text: str, gap: Gap) -> str:
    seam = _Seam.of(text, gap)
    behind = open_at(seam.head + text, gap.language)
    # Where a string begins that has no end; a comment needs none.
    unfinished = None if behind is None or (seam.head + text)[behind] in "#/-" else behind - len(seam.head)
    outer, below = unmatched(seam.code[: len(seam.head)])[1], unmatched(seam.tail)[0]
    # The suffix closes the outermost of what is open: the filling may close the rest, or open what the suffix lacks.
    owed, lent = max(0, len(outer) - len(below)), max(0, len(below) - len(outer))
    stack, whole = "", 0
    for at, char in enumerate(seam.filling):
        if char in "([{":
            stack += char
        elif char in _OPENER:
            if stack.endswith(_OPENER[char]):
                stack = stack[:-1]
            elif not stack and owed and outer.endswith(_OPENER[char]):
                outer, owed = outer[:-1], owed - 1
            else:
                return text[:at].rstrip()
        elif char == "\n" and not stack and (unfinished is None or at < unfinished):
            whole = at
    if len(stack) <= lent and unfinished is None:
        return text
    if "\n" in text or not gap.suffix.partition("\n")[0].strip():
        return text[:whole]
    # On a line that goes on, the model takes a bracket that stands there for its own: that one is written too.
    text = text if unfinished is None else text[:unfinished].rstrip(" ,")
    return text.rstrip() + "".join(_CLOSER[char] for char in reversed(stack[lent:]))


def _indented(text: str, gap: Gap) -> str:
    """Without the first line that is neither in an open block nor begins one behind a colon, and all below it; nor that
    can never run, because the statement before it in its own block leaves the block: a small model goes on to write
    the stub that it has just replaced. A lone `yield` may stand there: it makes a generator of the function."""
    seam = _Seam.of(text, gap)
    head, code = seam.head, seam.code
    whole = head + text
    cursor, column = head.count("\n"), len(head.rpartition("\n")[2])
    levels, header, depth, at, joined = list(seam.levels), False, 0, 0, False
    # the indentation of a statement that leaves its block, and where the statement is over
    left, over = "", 0
    for number, line in enumerate(whole.split("\n")):
        shown, begins = code[at : at + len(line)], at
        at += len(line) + 1
        # Within a bracket, a string of several lines, or behind a backslash.
        inside = depth > 0 or shown.startswith("\0") or joined
        joined = shown.endswith("\\")
        depth = max(0, depth + sum(map(shown.count, "([{")) - sum(map(shown.count, ")]}")))
        content = line.lstrip(" \t")
        if inside:
            over = at
        if content and not inside and not content.startswith("#"):
            indent = line[: len(line) - len(content)]
            if number == cursor and len(indent) > column and not (header and column <= len(levels[-1])):
                return _indented(
                    text.lstrip(" \t"), gap
                )  # the cursor stands at the line's indentation already
            if header and len(indent) > len(levels[-1]) and indent.startswith(levels[-1]):
                levels.append(indent)
            elif not header and indent in levels:
                del levels[levels.index(indent) + 1 :]
            elif number > cursor:
                return whole[len(head) : begins].rstrip()
            else:  # the user's own, whatever it is
                levels = [*(level for level in levels if len(level) < len(indent)), indent]
            if left and indent == left and number > cursor and not content.startswith("yield"):
                return whole[len(head) : over].rstrip()
            left, over = (indent if number >= cursor and _JUMP.match(shown) else ""), at
            header = False
        if shown.strip(" \t\0"):
            header = depth == 0 and shown.rstrip(" \t\0").endswith(":")
    return text
