"""The language server while somebody types: five minutes in a file of 3,000 lines, replayed with their pauses.

    python -P -m benchmarks.bench_lsp [--model NAME] [--seconds S] [--speed F]

What is typed is in typing_session.json. The client does what editors do: with every key it sends the change, cancels
what it still waits for and asks for ghost text. Nothing is accepted, so the keys are the same on every run. Each figure
is printed with its bar; the exit status is 1 when one is missed. A replay faster than life says nothing of times, so
those are left out then.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.lsp_client import Client
from benchmarks.machine import describe
from benchmarks.tap import Tap
from benchmarks.typing_session import Event, recording
from diffcoder_lsp import engine_process
from model import store

URI = "file:///w/console.py"
IDLE_SHARE = 0.02
"""A process that uses less of a processor is idle."""
WINDOW_SECONDS = 0.2
WORK_MS, IDLE_SECONDS = 5.0, 1.0


@dataclass(frozen=True)
class Figures:
    """`work_ms`: the server's processor time from each key to the next. `shown_ms`: from a key to its suggestion.
    `stale`: suggestions for a text that the server knew was gone; `crossed`: those that met the next key on their way.
    Idle times count from the last key."""

    keys: int
    work_ms: list[float]
    shown_ms: list[float]
    stale: int
    crossed: int
    not_once: int
    suggestions: int
    reused: int
    server_idle_s: float
    engine_idle_s: float
    last_answer_s: float
    rss_mb: float


class Replay:
    """Types `events` into a document that holds `text`."""

    def __init__(self, client: Client, text: str, events: Sequence[Event], speed: float = 1.0):
        self._client, self._text, self._events, self._speed = client, text, events, speed
        self._asked: dict[int, tuple[float, int]] = {}  # when, and for which version
        self._left: dict[int, float] = {}  # when each version was changed
        self._replies: list[tuple[float, int, bool]] = []  # when, to what, and whether it shows anything
        self._work_ms: list[float] = []
        client.on_reply = self._replied

    def run(self, engine: int | None) -> Figures:
        """`engine` is the engine's process, to see when it rests."""
        self._client.open(URI, self._text)
        self._type()
        last_key = time.monotonic()
        server_idle, engine_idle = _idle_after(self._client.process.pid, engine)
        answers = {id: (at, shows) for at, id, shows in self._replies if id in self._asked}
        shown, stale, crossed = [], 0, 0
        for id, (at, shows) in answers.items():
            asked, version = self._asked[id]
            if not shows:
                continue
            if at <= self._left.get(version, at):
                shown.append((at - asked) * 1000)
            elif any(answers[later][0] < at for later in answers if later > id):
                stale += 1  # something later was answered before
            else:
                crossed += 1
        status = self._client.request("diffcoder/status", None)
        return Figures(
            keys=len(self._events),
            work_ms=self._work_ms,
            shown_ms=shown,
            stale=stale,
            crossed=crossed,
            not_once=sum(self._client.replies.get(id, 0) != 1 for id in self._asked),
            suggestions=status["suggestions"],
            reused=status["reused"],
            server_idle_s=server_idle,
            engine_idle_s=engine_idle,
            last_answer_s=max([0.0, *(at - last_key for at, _ in answers.values())]),
            rss_mb=psutil.Process(self._client.process.pid).memory_info().rss / 1e6,
        )

    def _type(self) -> None:
        client, version, waiting = self._client, 1, -1
        due = time.monotonic()
        spent = cpu_seconds(client.process.pid)
        for number, event in enumerate(self._events):
            due += event.pause_ms / 1000 / self._speed
            time.sleep(max(0.0, due - time.monotonic()))
            before, spent = spent, cpu_seconds(client.process.pid)
            if number:
                self._work_ms.append((spent - before) * 1000)
            if event.deleted or event.inserted:
                self._left[version] = time.monotonic()
                version += 1
                start = {"line": event.line, "character": event.column - event.deleted}
                end = {"line": event.line, "character": event.column}
                client.change(URI, version, {"range": {"start": start, "end": end}, "text": event.inserted})
            if waiting in self._asked and waiting not in client.replies:
                client.cancel(waiting)
            asked = time.monotonic()
            waiting = client.inline(URI, *event.cursor)
            self._asked[waiting] = (asked, version)

    def _replied(self, message: dict[str, Any]) -> None:
        answer = message.get("result")
        shows = isinstance(answer, dict) and bool(answer.get("items"))
        self._replies.append((time.monotonic(), message["id"], shows))


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far. Linux tells it in nanoseconds, of the threads that live; the others roughly."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        texts = [Path(f"/proc/{pid}/task/{task}/schedstat").read_text("ascii") for task in tasks]
        return sum(int(text.split()[0]) for text in texts) / 1e9
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system


def _idle_after(server: int, engine: int | None, most_seconds: float = 20.0) -> tuple[float, float]:
    """Seconds until each of two processes rests, and until both have rested for two."""
    began = time.monotonic()
    busy = {pid: 0.0 for pid in (server, engine) if pid is not None}
    spent = {pid: cpu_seconds(pid) for pid in busy}
    while (now := time.monotonic() - began) < most_seconds and now - max(busy.values()) < 2.0:
        time.sleep(WINDOW_SECONDS)
        for pid, before in spent.items():
            spent[pid] = cpu_seconds(pid)
            if spent[pid] - before > IDLE_SHARE * WINDOW_SECONDS:
                busy[pid] = time.monotonic() - began
    return busy[server], busy.get(engine, 0.0) if engine is not None else 0.0


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` of all are not above; 0 without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def report(figures: Figures, tap: Tap, speed: float) -> int:
    """Print the figures with their bars: how many bars were missed."""
    missed = 0

    def line(what: str, text: str, good: bool | None = None) -> None:
        nonlocal missed
        missed += good is False
        print(f"{'   ' if good is None else 'ok ' if good else 'BAD'} {what:26} {text}", flush=True)

    work = figures.work_ms
    within = sum(ms <= WORK_MS for ms in work) / max(1, len(work))
    line(
        "keys",
        f"{figures.keys:,}, {figures.not_once} requests not answered once (bar 0)",
        not figures.not_once,
    )
    line("the server's own work",
         f"{within:.1%} of keys within {WORK_MS:g} ms of processor time (bar 99 %); median "
         f"{percentile(work, 0.5):.1f}, 99 % {percentile(work, 0.99):.1f}, most {max(work, default=0):.1f} ms",
         within >= 0.99)  # fmt: skip
    line("answers for a left version",
         f"{figures.stale} (bar 0); {figures.crossed} met the next key on their way", not figures.stale)  # fmt: skip
    line(
        "engine requests alive",
        f"at most {tap.most_alive} at once (bar 1), {tap.calls} in all",
        tap.most_alive <= 1,
    )
    shown = figures.shown_ms
    share = figures.reused / max(1, figures.suggestions)
    line(
        "suggestions", f"{len(shown)} shown, {share:.0%} of {figures.suggestions} served without a model call"
    )
    line("memory", f"{figures.rss_mb:.0f} MB (bar 80)", figures.rss_mb <= 80)
    if speed == 1:
        line(
            "key to suggestion",
            f"median {percentile(shown, 0.5):.0f} ms, 95 % {percentile(shown, 0.95):.0f} ms",
        )
        line("idle after the last key", f"server {figures.server_idle_s:.1f} s (bar {IDLE_SECONDS:g})",
             figures.server_idle_s <= IDLE_SECONDS)  # fmt: skip
        after = max(0.0, figures.engine_idle_s - figures.last_answer_s)
        line("idle after the last answer",
             f"engine {after:.1f} s (bar {IDLE_SECONDS:g}); that answer came {figures.last_answer_s:.1f} s after the key",
             after <= IDLE_SECONDS)  # fmt: skip
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--seconds", type=float, default=1e9, help="only so much of the session")
    parser.add_argument("--speed", type=float, default=1.0, help="so many times as fast as life")
    options = parser.parse_args()
    text, session = recording()
    ends = itertools.accumulate(event.pause_ms / 1000 for event in session.events)
    events = [event for event, end in zip(session.events, ends, strict=True) if end <= options.seconds]
    machine = describe(os.cpu_count() or 1)
    print(
        f"{machine.processor}, {machine.cores} cores, other programs use {machine.busy:.0%}; {options.model}"
    )
    with tempfile.TemporaryDirectory(prefix="dc-") as folder:
        engine = engine_process.ensure(options.model)
        with (
            Tap(Path(folder), options.model, engine) as tap,
            Client("--model", options.model, DIFFCODER_HOME=folder) as client,
        ):
            Path(folder, "models").symlink_to(store.cache_folder() / "models")
            client.initialize()
            ready(client)
            figures = Replay(client, text, events, options.speed).run(engine.pid)
            return int(report(figures, tap, options.speed) > 0)


def ready(client: Client) -> None:
    """Let the server find its engine: the first automatic suggestion only looks for it."""
    client.open("file:///w/first.py", "x = ")
    client.result(client.inline("file:///w/first.py", 0, 4))
    client.wait_for(lambda: client.notes("diffcoder/status")[-1]["state"] == "ready", 300)
    client.notify("textDocument/didClose", {"textDocument": {"uri": "file:///w/first.py"}})


if __name__ == "__main__":
    sys.exit(main())
