"""Faults of the engine, injected on purpose: kills under a waiting client, crowds of cancelled requests.

`python -P -m benchmarks.faults_engine` prints one line for each figure and ends with status 1 if one misses
its bar. It runs the real default model in engines of a home of its own, so that it meets no engine of the
user's, and compares every answer with that of an undisturbed run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults_models import Figure
from diffcoder_lsp import engine_process
from diffcoder_lsp.engine_client import AsyncEngineClient, EngineClient
from model import store
from model.schema import Draft, FillRequest, FillResponse, Limits

SEED = 20_261_124
MODEL = "default"
# Until an answer that a dying engine owed is there: a new process, its imports, the weights, the request
# itself.
BACK_SECONDS = 60.0
# A cancelled request runs on to the end of its forward, a long prefill's at most.
QUIET_SECONDS = 1.0

GAPS = (
    ("def mean(values):\n    return ", "\n\n\nprint(mean([1, 2, 3]))\n"),
    ("import os\n\n\ndef home():\n    ", "\n    return path\n"),
    (
        "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
        "\n",
    ),
    ("def read_lines(path):\n    with open(path) as file:\n        ", "\n    return lines\n"),
    ("for number in range(10):\n    if number % 2 == 0:\n        ", "\n    else:\n        print('odd')\n"),
    ("def clamp(value, low, high):\n    ", "\n\n\nassert clamp(5, 1, 3) == 3\n"),
    (
        "def count_words(text):\n    counts = {}\n    for word in text.split():\n        ",
        "\n    return counts\n",
    ),
    ("try:\n    value = int(text)\nexcept ", ":\n    value = 0\n"),
)
REQUESTS = tuple(
    FillRequest(prefix=prefix, suffix=suffix, language="python", limits=Limits(max_tokens=32))
    for prefix, suffix in GAPS
)

Answer = tuple[str, str]


def answer_of(response: FillResponse) -> Answer:
    return response.text, response.stop_reason


@contextlib.contextmanager
def home() -> Iterator[None]:
    """A `DIFFCODER_HOME` of our own, with the user's models; its engine is stopped at the end."""
    models = store.cache_folder().absolute() / "models"
    before = os.environ.get("DIFFCODER_HOME")
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    (folder / "models").symlink_to(models, target_is_directory=True)
    os.environ["DIFFCODER_HOME"] = str(folder)
    try:
        yield
    finally:
        engine_process.stop(MODEL, drain_seconds=1)
        if before is None:
            del os.environ["DIFFCODER_HOME"]
        else:
            os.environ["DIFFCODER_HOME"] = before
        (folder / "models").unlink()
        shutil.rmtree(folder, ignore_errors=True)


def undisturbed() -> tuple[list[Answer], list[int]]:
    """Every request's answer when nothing goes wrong, and the drafts that come before it."""
    answers, drafts = [], []
    with EngineClient(MODEL) as client:
        for request in REQUESTS:
            heard: list[Draft] = []
            answers.append(answer_of(client.fill(request, heard.append)))
            drafts.append(len(heard))
    return answers, drafts


@dataclass
class _Killer:
    """Kills the engine once, at a step that is drawn: idle, loading, anywhere in time, or at a draft."""

    step: str
    draft: int = 0
    killed_at: float = 0.0
    _drafts: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def kill(self) -> None:
        with self._lock:
            endpoint = engine_process.find(MODEL)
            if self.killed_at or endpoint is None:
                return
            self.killed_at = time.monotonic()
            os.kill(endpoint.pid, signal.SIGKILL)

    def on_progress(self, what: str, seconds: float) -> None:
        if self.step == "loading" and what == "loading the model":
            self.kill()

    def on_draft(self, draft: Draft) -> None:
        self._drafts += 1
        if self.step == "draft" and self._drafts >= self.draft:
            self.kill()


def kills(count: int, answers: list[Answer], drafts: list[int]) -> list[Figure]:
    """Kill the engine `count` times at random steps of a request whose client waits for its answer."""
    rng = random.Random(SEED)
    wrong = 0
    unanswered: list[str] = []
    seconds: list[float] = []
    steps: dict[str, int] = {}
    while len(seconds) + len(unanswered) < count:
        which = rng.randrange(len(REQUESTS))
        killer = _Killer(rng.choices(("idle", "loading", "time", "draft"), (1, 2, 3, 6))[0])
        killer.draft = rng.randint(1, max(1, drafts[which]))
        if killer.step == "idle":
            engine_process.ensure(MODEL)
            killer.kill()
        elif killer.step == "loading":
            engine_process.stop(MODEL)
        else:
            engine_process.ensure(MODEL)
        timer = threading.Timer(rng.uniform(0, 0.5), killer.kill)
        if killer.step == "time":
            timer.start()
        try:
            with EngineClient(MODEL, on_progress=killer.on_progress) as client:
                answer = answer_of(client.fill(REQUESTS[which], killer.on_draft))
        except Exception as error:
            unanswered.append(f"{killer.step}: {error}")
            continue
        finally:
            timer.cancel()
        wrong += answer != answers[which]
        if killer.killed_at:  # otherwise the answer was quicker than the kill
            seconds.append(time.monotonic() - killer.killed_at)
            steps[killer.step] = steps.get(killer.step, 0) + 1
    where = ", ".join(f"{number} at {step}" for step, number in sorted(steps.items()))
    slowest = max(seconds, default=0.0)
    note = f"median {statistics.median(seconds):.1f} s, engine's start included" if seconds else ""
    return [
        Figure(f"requests unanswered of {count} kills", len(unanswered), "0", not unanswered, where),
        Figure(f"wrong answers after {count} kills", wrong, "0", wrong == 0),
        Figure(
            "seconds from a kill to the answer, slowest",
            round(slowest, 1),
            f"<= {BACK_SECONDS:g}",
            slowest <= BACK_SECONDS,
            note + "".join(f"; {reason}" for reason in unanswered[:3]),
        ),
    ]


async def cancels(count: int, at_once: int, answers: list[Answer]) -> list[Figure]:
    """Cancel `count` requests, `at_once` under way at any time; for every 20 one is let through."""
    rng = random.Random(SEED)
    places = asyncio.Semaphore(at_once)
    differing = survivors = cancelled = running = 0

    async with AsyncEngineClient(MODEL) as client:
        await client.fill(REQUESTS[0])

        async def survive(which: int) -> None:
            nonlocal differing, survivors
            async with places:
                differing += answer_of(await client.fill(REQUESTS[which])) != answers[which]
                survivors += 1

        async def give_up(which: int, seconds: float, draft: int) -> None:
            """After so long, or at that draft if there is one: while it runs, not only while it waits."""
            nonlocal cancelled, running
            heard = 0
            reached = asyncio.Event()

            def on_draft(_: Draft) -> None:
                nonlocal heard
                heard += 1
                if heard == draft:
                    reached.set()

            async with places:
                task = asyncio.create_task(client.fill(REQUESTS[which], on_draft))
                waits = [task, asyncio.create_task(reached.wait() if draft else asyncio.sleep(seconds))]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                in_time = task.cancel()
                cancelled += in_time
                running += in_time and heard > 0
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)

        before = await client.health()
        while cancelled < count:  # some are answered before their time to be cancelled comes
            jobs: list[Coroutine[None, None, None]] = []
            for number in range(count - cancelled):
                if number % 20 == 0:
                    jobs.append(survive(rng.randrange(len(REQUESTS))))
                draft = rng.choice((0, 0, 0, rng.randint(1, 6)))
                jobs.append(give_up(rng.randrange(len(REQUESTS)), rng.expovariate(1 / 0.2), draft))
            await asyncio.gather(*jobs)
        ended = time.monotonic()
        while (health := await client.health()).running + health.waiting:
            if time.monotonic() - ended > QUIET_SECONDS:
                break
            await asyncio.sleep(0.005)
        quiet = time.monotonic() - ended
    left = health.running + health.waiting
    note = f"{running} of them while they ran, {health.forwards - before.forwards} forwards in all"
    return [
        Figure(f"requests left of {count} cancelled, {at_once} at once", left, "0", left == 0, note),
        Figure("seconds until nothing ran", round(quiet, 3), f"<= {QUIET_SECONDS:g}", quiet <= QUIET_SECONDS),
        Figure(f"survivors of {survivors} with other tokens", differing, "0", differing == 0),
    ]


def internet_sockets() -> list[Figure]:
    """Sockets of the internet families in client and engine, looked at in mid-answer and after it."""
    import psutil

    found: set[str] = set()
    looks = 0

    def look(draft: Draft | None = None) -> None:
        nonlocal looks
        looks += 1
        endpoint = engine_process.find(MODEL)
        pids = {os.getpid()} | ({endpoint.pid} if endpoint is not None else set())
        for pid in pids:
            process = psutil.Process(pid)
            for member in (process, *process.children(recursive=True)):
                for connection in member.net_connections(kind="inet"):
                    found.add(f"{member.name()} {connection.laddr}")

    with EngineClient(MODEL) as client:
        client.fill(REQUESTS[0], look)
        client.models()
        look()
    note = f"{looks} looks" + "".join(f"; {one}" for one in sorted(found)[:3])
    return [Figure("internet sockets open in a default session", len(found), "0", not found, note)]


def run(scale: float = 1.0) -> list[Figure]:
    """All figures; `scale` 1.0 is 50 kills and 1,000 cancelled requests, 50 at once."""
    with home():
        answers, drafts = undisturbed()
        figures = internet_sockets()
        figures += asyncio.run(cancels(max(20, round(1000 * scale)), 50, answers))
        figures += kills(max(2, round(50 * scale)), answers, drafts)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill engines and cancel requests on purpose.")
    parser.add_argument("--scale", type=float, default=1.0, help="1.0 is the full size (minutes)")
    figures = run(parser.parse_args().scale)
    for figure in figures:
        print(figure.line(), flush=True)
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
