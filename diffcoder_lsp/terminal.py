"""What the commands print for people: code with a filling marked, denoising as it happens, coloured diffs.

On a terminal through rich, in the sixteen colours that every theme defines (light or dark) and with
NO_COLOR honoured; elsewhere as plain text. Text from files and models never reaches a terminal with its
control characters. Knows nothing of files, requests or engines; rich is imported only where it is used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from diffcoder_lsp.edits import common_ends
from diffcoder_lsp.lines import content, split_lines
from diffcoder_lsp.statistics import Tally
from model.schema import Draft, EditResponse, FillResponse, Health

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.status import Status
    from rich.text import Text

Kind = Literal["old", "new", "open", "mask"]
Piece = tuple[Kind, str]
"""Text and what it is: there before, filled in, revealed in the block that is in work, still masked."""

CONTEXT = 6
"""Lines shown above and below a filling."""

_STYLES: dict[Kind, str] = {"old": "", "new": "bold green", "open": "green", "mask": "dim"}
# What must not reach a screen as it is: control characters; separators that no editor ends a line at but a
# terminal might; characters that reorder what stands around them, and so let code read otherwise than it is.
_PICTURES = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421, 0x2028: 0x2424, 0x2029: 0x2424}
_PICTURES |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


@dataclass(frozen=True)
class Row:
    """One line of code to show: its 1-based number, its pieces, and whether the filling touches it."""

    number: int
    pieces: tuple[Piece, ...]
    touched: bool


@dataclass(frozen=True)
class Excerpt:
    """The code around a gap: `above` begins at line `number` and ends at the gap, `below` begins there."""

    number: int
    above: str
    below: str

    @classmethod
    def around(cls, before: str, after: str, context: int = CONTEXT) -> Excerpt:
        """The gap's line and `context` lines on each side, from a whole text."""
        above, below = split_lines(before), split_lines(after)
        if not above or content(above[-1]) != above[-1]:
            above.append("")
        kept = below[: context + 1]
        if kept:
            kept[-1] = content(kept[-1])
        return cls(max(1, len(above) - context), "".join(above[-context - 1 :]), "".join(kept))

    def rows(self, filling: Sequence[Piece]) -> list[Row]:
        """The lines with `filling` in the gap."""
        result: list[Row] = []
        line: list[Piece] = []
        for kind, text in [("old", self.above), *filling, ("old", self.below)]:
            for part in split_lines(text):
                line.append((kind, content(part)))
                if content(part) != part:
                    result.append(self._row(len(result), line))
                    line = []
        return [*result, self._row(len(result), line)]

    def _row(self, index: int, line: list[Piece]) -> Row:
        return Row(self.number + index, tuple(line), any(kind != "old" for kind, _ in line))


def shown(text: str) -> str:
    """One line as it is safe and even to show: tabs as four blanks, control characters as pictures."""
    return text.replace("\t", "    ").translate(_PICTURES)


def pieces_of(draft: Draft) -> list[Piece]:
    """A draft as pieces; a masked token is drawn three places wide, about what a token of code has."""
    block: list[Piece] = [("mask", "▒▒▒") if token is None else ("open", token) for token in draft.block]
    return [("new", draft.text), *block]


def status(response: FillResponse | EditResponse) -> str:
    """What an answer cost, on one line of at most 80 columns."""
    usage = response.usage
    rate = usage.tokens / usage.forwards if usage.forwards else 0.0
    return " · ".join(
        [
            _count(usage.tokens, "token"),
            _count(usage.forwards, "forward"),
            f"{rate:.1f} a forward",
            f"{usage.ms:,.0f} ms" if usage.ms < 10_000 else f"{usage.ms / 1000:.1f} s",
            f"{response.confidence:.0%} sure",
            response.stop_reason.replace("_", " "),
        ]
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    )


class Screen:
    """Where people read: a terminal through rich, or a plain stream."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._waiting_for = "reading"
        self._status: Status | None = None
        self.unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")

    def progress(self, what: str, seconds: float) -> None:
        """Hear what a starting engine is doing: a live picture says so until the first draft."""
        self._waiting_for = what
        if self._status is not None:
            self._status.update(f"{what} · {seconds:.1f} s")

    def _is_lively(self) -> bool:
        """Whether a picture can be drawn over the one before."""
        return self.is_terminal and not self.console.is_dumb_terminal

    @cached_property
    def console(self) -> Console:
        from rich.console import Console

        return Console(highlight=False, markup=False, emoji=False)

    def filling(self, title: str, excerpt: Excerpt, text: str) -> None:
        """Code with `text` filled in: coloured on a terminal, in brackets elsewhere."""
        if self.is_terminal:
            self.console.print(_code(title, excerpt.rows([("new", text)])))
            return
        opening, closing, edge = ("‹", "›", "│") if self.unicode else ("<<", ">>", "|")
        rows = excerpt.rows([("new", f"{opening}{text}{closing}")])
        width = len(str(rows[-1].number))
        print(title)
        for row in rows:
            code = "".join(part for _, part in row.pieces)
            print(f"{'>' if row.touched else ' '} {row.number:{width}} {edge} {code}".rstrip())

    def title(self, text: str) -> None:
        """What comes next."""
        if self.is_terminal:
            self.console.print(text, style="bold underline")
        else:
            print(text)

    def note(self, text: str) -> None:
        """A line about what was done."""
        if self.is_terminal:
            self.console.print(text, style="dim")
        else:
            print(text)

    def diff(self, unified: str, encoding: str) -> None:
        """A unified diff: coloured on a terminal; elsewhere in the file's own encoding, for `patch`."""
        if self.is_terminal:
            self.console.print(_diff(unified), end="")
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(unified.encode(encoding, errors="replace"))

    def check(self, state: str, name: str, detail: str, advice: str) -> None:
        """One line of a report, and below it what to do."""
        mark, plain, style = {
            "ok": ("✓", "ok", "green"),
            "warning": ("!", "! ", "yellow"),
            "problem": ("✗", "x ", "bold red"),
        }[state]
        if self.is_terminal:
            from rich.padding import Padding
            from rich.table import Table
            from rich.text import Text

            grid = Table.grid(padding=(0, 1, 0, 0))
            grid.add_column(width=1)
            grid.add_column(width=10)
            grid.add_column(overflow="fold")
            grid.add_row(Text(mark, style), Text(name, "bold"), detail)
            self.console.print(grid)
            if advice:
                self.console.print(Padding(Text(advice, "yellow"), (0, 0, 0, 13)))
            return
        print(f"{mark if self.unicode else plain} {name:10} {detail}")
        if advice:
            print(f"  {'':10} {advice}")

    @contextmanager
    def transfer(self, what: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """While the body runs, show how far it has got: a bar on a terminal, a line each fifth elsewhere."""
        if not self._is_lively():
            print(f"{what} ({total / 1e6:,.0f} MB)", flush=True)
            fifth = 0

            def tell(done: int, total: int) -> None:
                nonlocal fifth
                if total and done * 5 // total > fifth:
                    fifth = done * 5 // total
                    print(f"{what}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", flush=True)

            yield tell
            return
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = ("{task.description}", BarColumn(None), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=total or None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)

    def engines(self, engines: Sequence[Health]) -> None:
        """One line an engine, or that there is none."""
        if not engines:
            self.note("no engine is running; the next fill or edit starts one")
        for engine in engines:
            forward = engine.ms_per_forward.get("1")
            print(
                " · ".join(
                    [
                        f"{engine.model} is {engine.state}",
                        f"process {engine.pid}",
                        f"up {_duration(engine.uptime_s)}",
                        f"{engine.rss_bytes / 1e9:.2f} GB",
                        f"{engine.running} running, {engine.waiting} waiting",
                        *([f"{forward:.0f} ms a token"] if forward else []),
                    ]
                )
            )

    def statistics(self, rows: Sequence[Tally]) -> None:
        """A line a kind: how many were shown, and what became of them."""
        names = {"inline": "ghost text", "edit": "changes of edits", "gap": "gaps filled"}
        if not any(row.shown for row in rows):
            self.note("nothing was shown in an editor yet")
            return
        print(f"{'':17}{'shown':>8}{'accepted':>16}{'rejected':>10}{'kept a minute':>18}")
        for row in rows:
            shares = (
                f"{row.accepted} ({row.accepted / row.shown:.0%})" if row.shown else "0",
                str(row.rejected),
                f"{row.kept} of {row.kept + row.gone}",
            )
            print(f"{names[row.kind]:17}{row.shown:>8}{shares[0]:>16}{shares[1]:>10}{shares[2]:>18}")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the body runs, say on a terminal what `progress` was told."""
        if not self._is_lively():
            yield
            return
        with self.console.status("starting", spinner_style="dim") as self._status:
            yield

    @contextmanager
    def denoising(self, title: str, excerpt: Excerpt) -> Iterator[Callable[[Draft], None] | None]:
        """While the body runs, show the drafts given to the yielded function; None where nobody looks."""
        if not self._is_lively():
            yield None
            return
        from rich.live import Live

        view = _Denoising(title, excerpt, lambda: self._waiting_for)
        with Live(view, console=self.console, refresh_per_second=10, transient=True):
            yield view.take


@dataclass
class _Denoising:
    """A live picture of a filling at work; rich draws it ten times a second from the latest draft."""

    title: str
    excerpt: Excerpt
    waiting_for: Callable[[], str]
    draft: Draft | None = None
    started: float = field(default_factory=time.perf_counter)

    def take(self, draft: Draft) -> None:
        self.draft = draft

    def __rich_console__(self, console: Console, options: object) -> Iterator[RenderableType]:
        from rich.spinner import SPINNERS
        from rich.text import Text

        seconds = time.perf_counter() - self.started
        draft = self.draft
        rows = self.excerpt.rows(pieces_of(draft) if draft else [("mask", "▒▒▒")])
        # The title, the line below and the prompt stay on the screen; a long filling shows its end.
        room = max(3, console.height - 4)
        last = max((index for index, row in enumerate(rows) if row.touched), default=0)
        start = max(0, min(last + 3, len(rows)) - room)
        yield _code(self.title, rows[start : start + room], crop=True)
        frames = str(SPINNERS["dots"]["frames"])
        doing = _count(draft.forwards, "forward") if draft else self.waiting_for()
        yield Text(f"{frames[int(seconds * 10) % len(frames)]} {doing} · {seconds:.1f} s", style="dim")


def _code(title: str, rows: Sequence[Row], crop: bool = False) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=crop, overflow="ellipsis" if crop else "fold")
    for row in rows:
        code = Text()
        for kind, text in row.pieces:
            code.append(shown(text), style=_STYLES[kind])
        edge = Text("┃", style="green") if row.touched else Text("│", style="dim")
        grid.add_row(Text(str(row.number), style="" if row.touched else "dim"), edge, code)
    return Group(Text(title, style="bold"), grid)


def _diff(unified: str) -> Text:
    """A coloured diff; where as many lines came as went, what differs inside them is bold."""
    from rich.text import Text

    result = Text()
    lines = unified.removesuffix("\n").split("\n")
    header = True
    at = 0
    while at < len(lines):
        line = lines[at]
        header = header and not line.startswith("@@")
        gone = _run(lines, at, "-") if not header else []
        came = _run(lines, at + len(gone), "+") if gone else []
        if gone and len(gone) == len(came):
            changes = [common_ends(old[1:], new[1:]) for old, new in zip(gone, came, strict=True)]
            for style, group in (("red", gone), ("green", came)):
                for (head, tail), text in zip(changes, group, strict=True):
                    end = len(text) - tail
                    result.append(shown(text[: head + 1]), style)
                    result.append(shown(text[head + 1 : end]), f"bold {style}")
                    result.append(shown(text[end:].removesuffix("\r")) + "\n", style)
            at += 2 * len(gone)
            continue
        style = "bold" if header else {"+": "green", "-": "red", "@": "cyan", "\\": "dim"}.get(line[:1], "")
        result.append(shown(line.removesuffix("\r")) + "\n", style)
        at += 1
    return result


def _run(lines: Sequence[str], start: int, sign: str) -> Sequence[str]:
    end = start
    while end < len(lines) and lines[end].startswith(sign):
        end += 1
    return lines[start:end]
