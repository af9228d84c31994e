"""Five minutes of somebody at the keyboard, as data: where the cursor went, what was typed, after which pause.

    python -P -m benchmarks.typing_session

writes `typing_session.json` anew. No person was recorded: a seeded model of typing writes methods that a real file
has back into it, after they were cut out. Its pauses are long-tailed, as those of people are: a fifth of a second
between keys, longer after words and before symbols, seconds before a line that needs thought and on the way to the
next place; some keys are wrong and taken back. Lines are indented as editors do it. Knows no server.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

FILE = Path(__file__).with_name("typing_session.json")
MODULES = ("rich/console.py", "rich/progress.py")
"""Pinned in constraints.txt, so their text is the same everywhere; joined, and cut after LINES lines."""
LINES = 3000
SECONDS = 300
SEED, METHODS = 6, 14
_ROWS = ["qwertyuiop", "asdfghjkl", "zxcvbnm"]


class Event(msgspec.Struct, frozen=True, array_like=True):
    """After `pause_ms`, `deleted` characters before `line`, `column` (from 0) give way to `inserted`, and the cursor
    stands behind that; without either it only moves there. All text is ASCII."""

    pause_ms: int
    line: int
    column: int
    deleted: int
    inserted: str

    @property
    def cursor(self) -> tuple[int, int]:
        """Line and column where the cursor stands afterwards. What is deleted never holds a line end."""
        tail = self.inserted.rpartition("\n")[2]
        down = self.inserted.count("\n")
        return self.line + down, (self.column - self.deleted if not down else 0) + len(tail)


class Recording(msgspec.Struct, frozen=True):
    """`sha256` is that of the file before the first event."""

    sha256: str
    events: tuple[Event, ...]

    @property
    def seconds(self) -> float:
        return sum(event.pause_ms for event in self.events) / 1000


def recording() -> tuple[str, Recording]:
    """The file as it is before the first key, and what is typed into it; ValueError where they do not fit."""
    found = msgspec.json.decode(FILE.read_bytes(), type=Recording)
    text, _ = _file()
    if hashlib.sha256(text.encode()).hexdigest() != found.sha256:
        raise ValueError("typing_session.json is for another rich: install the one that constraints.txt pins")
    return text, found


def written() -> Recording:
    """The recording as the model of typing writes it, the same on every run."""
    text, pieces = _file()
    draw = random.Random(SEED)
    events: list[Event] = []
    spent = 0.0
    added = 0
    for line, piece in pieces:
        began = len(events)
        for event in _typed(draw, line + added, piece):
            if spent >= SECONDS * 1000:
                break
            events.append(event)
            spent += event.pause_ms
        added += sum(event.inserted.count("\n") for event in events[began:])
    assert spent >= SECONDS * 1000, "there is too little to type"
    return Recording(hashlib.sha256(text.encode()).hexdigest(), tuple(events))


def _place(name: str) -> Path:
    found = importlib.util.find_spec("rich")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parents[1] / name


def _file() -> tuple[str, list[tuple[int, str]]]:
    """The file without some of its methods, and those: the line where each stood, as the shortened file counts, and
    its text."""
    texts = [_place(name).read_text("utf-8") for name in MODULES]
    lines = "".join(texts).splitlines(keepends=True)
    methods = [
        (node.lineno - 1, node.end_lineno or 0)
        for node in ast.walk(ast.parse(texts[0]))
        if isinstance(node, ast.FunctionDef) and node.col_offset == 4 and not node.decorator_list
    ]
    worth = [(a, b) for a, b in methods if 5 <= b - a <= 24 and "".join(lines[a:b]).isascii()]
    chosen = sorted(random.Random(SEED).sample(sorted(worth), METHODS))
    gone = {number for a, b in chosen for number in range(a, b)}
    kept = [line for number, line in enumerate(lines) if number not in gone]
    pieces = [(a - sum(number < a for number in gone), "".join(lines[a:b])) for a, b in chosen]
    return "".join(kept[:LINES]), pieces


def _typed(draw: random.Random, line: int, text: str) -> Iterator[Event]:
    """The keys that write the lines `text` between two lines, `line` being the lower one."""

    def pause(median_ms: float, spread: float = 0.45) -> int:
        return round(min(20_000.0, median_ms * draw.lognormvariate(0, spread)))

    at = (line, 0)

    def key(pause_ms: int, inserted: str, deleted: int = 0) -> Event:
        nonlocal at
        event = Event(pause_ms, *at, deleted, inserted)
        at = event.cursor
        return event

    yield Event(pause(4500, 0.4), *at, 0, "")
    indent, above = 0, "first"
    for content in text.splitlines():
        wanted = len(content) - len(content.lstrip(" "))
        if above == "first":  # a line is opened above the cursor's
            yield key(pause(500), " " * wanted + "\n")
            at = (line, wanted)
        else:  # an editor takes the indentation of a line that stayed empty away
            yield key(pause(420), "\n" + " " * indent, 0 if above else at[1])
        above = content
        if not content:
            continue
        while at[1] > wanted:
            yield key(pause(250), "", min(4, at[1] - wanted))
        if at[1] < wanted:
            yield key(pause(250), " " * (wanted - at[1]))
        thinking, before = draw.random() < 0.3, " "
        for char in content[wanted:]:
            median = (
                150.0
                if char.isalnum() and before.isalnum()
                else 220.0
                if char.isalnum() or char == " "
                else 280.0
            )
            if thinking:
                median, thinking = 2600.0, False
            if draw.random() < 0.012 and (wrong := _beside(draw, char)):
                yield key(pause(median), wrong)
                yield key(pause(320), "", 1)
                median = 200.0
            yield key(pause(median), char)
            before = char
        indent = wanted + (4 if content.endswith((":", "(", "[", "{")) else 0)


def _beside(draw: random.Random, char: str) -> str:
    """A key next to that of a letter; nothing for other characters."""
    row = next((row for row in _ROWS if char in row), "")
    at = row.find(char)
    return draw.choice([row[n] for n in (at - 1, at + 1) if 0 <= n < len(row)]) if row else ""


def main() -> int:
    made = written()
    lines = ",\n".join(msgspec.json.encode(event).decode() for event in made.events)
    FILE.write_text(f'{{"sha256": "{made.sha256}",\n"events": [\n{lines}\n]}}\n', "utf-8")
    print(f"{len(made.events)} events in {made.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
