"""Where a filling ends: rules on its text, looked at after every committed token. Knows no tokens and no model.

Left alone, a model that was given a gap writes on: the rest of the file, an example of use, a code fence. Each rule names
a place in the text where the filling was over; the earliest cut wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from model.schema import StopReason

_CLOSERS = ")]}"
_RUN = range(12, 100)  # characters that a model may go round and round in, within a line


def indent_of(line: str) -> int:
    """Columns of leading white space, tabs to the next multiple of 8."""
    return len(line.expandtabs(8)) - len(line.expandtabs(8).lstrip(" "))


def last_line(text: str) -> str:
    return text[text.rfind("\n") + 1 :]


def first_filled_line(text: str) -> str | None:
    """The first line that is not blank, without its end."""
    return next((line for line in text.splitlines() if line.strip()), None)


def suffix_head(suffix: str) -> str:
    """The suffix up to the end of its first filled line, line end included where it has one: what a filling must not
    write again. Empty where the suffix is blank."""
    match = re.match(r"\s*[^\s][^\n]*\n?", suffix)
    return match.group(0) if match else ""


@dataclass
class Stops:
    """The rules for one gap. `look` returns a reason once the text is over; `cut` is then where it ends.

    stop_string: the first of `stop`. line: the end of the first filled line (`single_line`). suffix: the text goes
    on as the suffix does, through the suffix's first filled line. dedent: a line that stands further left than both
    the gap and what follows it. repetition: the same filled line, or a run with letters, a fourth time in a row.
    """

    prefix: str
    suffix: str
    stop: tuple[str, ...] = ()
    single_line: bool = False
    cut: int = 0
    head: str = field(init=False)
    whole_lines: bool = field(init=False)
    _floor: int = field(init=False)

    def __post_init__(self) -> None:
        self.head = suffix_head(self.suffix)
        before = last_line(self.prefix)
        self.whole_lines = not before and bool(self.suffix) and not self.suffix.startswith(("\n", "\r"))
        if not before.strip():
            # The gap begins a line: it belongs to the block of that line, or of the last filled one when at column 0.
            before = before if before else self._last_filled()
        after = first_filled_line(self.suffix.partition("\n")[2])
        # From within a block the text never comes back to column 0, whatever stands there next: that is another one.
        block = indent_of(before)
        self._floor = min(block, max(indent_of(after), min(block, 1)) if after is not None else block)

    def may_end_before(self, rest: str) -> bool:
        """Whether the text may stop where it went on with `rest`: within a line only if the suffix goes on in one."""
        return not rest or not self.head.startswith("\n") or rest.startswith("\n")

    def _last_filled(self) -> str:
        return next((line for line in reversed(self.prefix.splitlines()) if line.strip()), "")

    def look(self, text: str) -> StopReason | None:
        """The reason to stop at `text`, the whole filling so far, if there is one; sets `cut`."""
        found: list[tuple[int, StopReason]] = []
        for stop in self.stop:
            if stop and (start := text.find(stop)) >= 0:
                found.append((start, "stop_string"))
        if (at := self._line_end(text)) is not None:
            found.append((at, "line"))
        if (at := self._suffix_start(text)) is not None:
            found.append((at, "suffix"))
        if (at := self._dedent(text)) is not None:
            found.append((at, "dedent"))
        if (at := self._repetition(text)) is not None:
            found.append((at, "repetition"))
        if not found:
            self.cut = len(text)
            return None
        self.cut, reason = min(found)
        return reason

    def _line_end(self, text: str) -> int | None:
        if not self.single_line:
            return None
        at = text.find("\n", len(text) - len(text.lstrip()))
        # Before a line that is already there, a new line needs its end.
        return at + self.whole_lines if at >= 0 else None

    def _suffix_start(self, text: str) -> int | None:
        if not self.head:
            return None
        # A suffix that ends within its first line is only recognised by a line's end: `)` alone may close anything.
        # Where the gap holds whole lines, the suffix's begin where lines do: a `}` within a line is not it.
        begin = "(?m:^)" if self.whole_lines else ""
        end = "\n" if self.head.startswith("\n") else "[ \t]*\n"
        if found := re.search(begin + re.escape(self.head.removesuffix("\n")) + end, text):
            return found.start()
        if self.head.startswith("\n"):
            # The suffix begins at a line's end: its first filled line, whatever blank lines stand before it.
            line = re.escape(self.head.rstrip("\n").rpartition("\n")[2])
            found = re.search(rf"[ \t]*\n(?:[ \t]*\n)*{line}[ \t]*\n", text)
        elif not self.prefix or self.prefix.endswith("\n"):
            # The gap holds whole lines: a line that equals the suffix's first but for white space at its ends.
            wanted = self.head.strip()
            found = re.search(rf"^[ \t]*{re.escape(wanted)}[ \t]*\n", text, re.M) if len(wanted) > 3 else None
        else:
            return None
        return found.start() if found else None

    def _dedent(self, text: str) -> int | None:
        place = text.find("\n") + 1
        while 0 < place < len(text):
            end = text.find("\n", place)
            line = text[place : end if end >= 0 else len(text)]
            body = line.lstrip()
            if body and indent_of(line) < self._floor and body[0] not in _CLOSERS:
                # A suffix that begins with a line end brings its own blank lines.
                return len(text[:place].rstrip()) if self.suffix.startswith("\n") else place - 1
            place = end + 1 if end >= 0 else 0
        return None

    def _repetition(self, text: str) -> int | None:
        lines = text.split("\n")[:-1]
        tail = lines[-4:]
        if len(tail) == 4 and tail[0].strip() and len(set(tail)) == 1:
            return len("\n".join(lines[:-3]))
        for size in _RUN:
            run = text[-size:]
            if len(text) >= 4 * size and text.endswith(run * 4) and any(map(str.isalpha, run)):
                start = len(text) - 4 * size
                while start and text[start - 1] == text[start - 1 + size]:
                    start -= 1
                return start + size
        return None
