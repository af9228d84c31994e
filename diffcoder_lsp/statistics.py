"""What became of suggestions and edits: shown, accepted, still there after a minute. Counts, never text, on this machine.

A session counts and writes its counts, a line a kind and day, to a file that all sessions append to. Whether ghost text
was accepted is seen in the document's own changes, so that it is known in every client; of hunks the client tells.
Knows no protocol.
"""

from __future__ import annotations

import asyncio
import datetime
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from model import store
from model.schema import DiffcoderError

Kind = Literal["inline", "edit", "gap"]
Event = Literal["shown", "accepted", "rejected", "kept", "gone"]
KEPT_SECONDS = 60.0
WRITE_SECONDS = 30.0


class Tally(msgspec.Struct, frozen=True):
    """Counts of one kind. `kept` and `gone` are the accepted ones that a minute later still stood there, or did not."""

    kind: Kind
    shown: int = 0
    accepted: int = 0
    rejected: int = 0
    kept: int = 0
    gone: int = 0


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    day: str
    kind: Kind
    counts: dict[Event, int]


def path() -> Path:
    """Where the counts are."""
    return store.cache_folder() / "statistics.jsonl"


def tallies(days: int | None = None) -> list[Tally]:
    """The counts of the last `days`, today included, or of all time; DiffcoderError where they cannot be read."""
    first = "" if days is None else (datetime.date.today() - datetime.timedelta(days - 1)).isoformat()
    totals: dict[str, Counter[str]] = {kind: Counter() for kind in ("inline", "edit", "gap")}
    try:
        lines = path().read_bytes().splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise DiffcoderError(
            "cannot_read",
            f"{path()} cannot be read ({error.strerror}): move away what is in its place, or set DIFFCODER_HOME to "
            "another folder.",
        ) from None
    for raw in lines:
        try:
            line = msgspec.json.decode(raw, type=_Line)
        except msgspec.MsgspecError:
            continue  # a line that a full disk cut short
        if line.day >= first:
            totals[line.kind].update(line.counts)
    return [msgspec.convert({"kind": kind, **counts}, Tally) for kind, counts in totals.items()]


@dataclass
class _Shown:
    """Ghost text on a client's screen; `taken` once a part of it was accepted."""

    rest: str
    taken: bool = False


@dataclass
class Statistics:
    """The counts of one session. `text_of` gives a document's text as it is now, None once it is closed."""

    text_of: Callable[[str], str | None]
    _counts: Counter[tuple[str, Kind, Event]] = field(default_factory=Counter)
    _ghosts: dict[str, _Shown] = field(default_factory=dict)
    _writing: asyncio.TimerHandle | None = None

    def count(self, kind: Kind, event: Event, number: int = 1) -> None:
        if number:
            self._counts[datetime.date.today().isoformat(), kind, event] += number
            if self._writing is None:
                self._writing = asyncio.get_running_loop().call_later(WRITE_SECONDS, self.write)

    def ghost(self, uri: str, text: str) -> None:
        """Ghost text is shown. What is left of one that the user types along with is no new one."""
        last = self._ghosts.get(uri)
        if last is not None and last.rest == text:
            return
        self.count("inline", "shown")
        self._ghosts[uri] = _Shown(text)

    def inserted(self, uri: str, text: str) -> None:
        """The document got `text`: is it ghost text, or a part of it? A single character counts as typed."""
        ghost = self._ghosts.get(uri)
        if ghost is None or not text:
            return
        if not ghost.rest.startswith(text):
            del self._ghosts[uri]
            return
        whole = text == ghost.rest
        ghost.rest = ghost.rest[len(text) :]
        if not ghost.taken and len(text) > 1:
            ghost.taken = True
            self.accepted("inline", uri, [text])
        if whole:
            del self._ghosts[uri]

    def accepted(self, kind: Kind, uri: str, texts: Iterable[str]) -> None:
        """Count what was accepted, and after a minute what of it still stands."""
        for text in texts:
            self.count(kind, "accepted")
            wanted = text.strip()
            now = self.text_of(uri)
            if wanted and now is not None:
                times = max(1, now.count(wanted))
                asyncio.get_running_loop().call_later(KEPT_SECONDS, self._look, kind, uri, wanted, times)

    def write(self) -> None:
        """Append the counts. A disk that takes none loses them; that is no reason to bother anybody."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        days: dict[tuple[str, Kind], dict[Event, int]] = {}
        for (day, kind, event), number in self._counts.items():
            days.setdefault((day, kind), {})[event] = number
        self._counts.clear()
        data = b"".join(
            msgspec.json.encode(_Line(day, kind, counts)) + b"\n" for (day, kind), counts in days.items()
        )
        if not data:
            return
        try:
            path().parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)
        except OSError:
            pass

    def _look(self, kind: Kind, uri: str, text: str, times: int) -> None:
        now = self.text_of(uri)
        if now is not None:  # of a document that was closed nothing is known
            self.count(kind, "kept" if now.count(text) >= times else "gone")
