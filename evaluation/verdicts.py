"""Program and tests to a verdict, in the sandbox. Knows how a verdict is reached, not what a benchmark is.

`judge_python` keeps tests and program in two rooms (the program cannot reach the verdict at all).
`judge_command` is for tests that share a process with the program, as other languages' and `unittest` ones
do: it passes when the command succeeds and its last line is a random word that the test file prints at its
very end. That stops early exits and printed claims; a program that reads its own test file could still forge
it (docs/evaluation.md).
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from evaluation.sandbox import Limits, Outcome, Sandbox, wait
from model.schema import DiffcoderError

JUDGE = Path(__file__).with_name("judge.py")
USUAL = Limits()


class Verdict(msgspec.Struct, frozen=True):
    """`reason` is half a sentence: "passed", or what went wrong first. `seconds` is wall time."""

    passed: bool
    reason: str
    seconds: float


def judge_python(
    sandbox: Sandbox,
    program: str,
    tests: str,
    *,
    setup: str = "",
    names: Sequence[str] | None = None,
    objects: bool = False,
    limits: Limits = USUAL,
    files: Mapping[str, str] | None = None,
) -> Verdict:
    """Whether `tests` run through against `program`.

    `setup` is trusted code that runs on the tests' side first. `names` are bound to the program's objects of
    that name, over whatever `setup` defined; None binds what the tests use and nobody else defines,
    `[judge.EVERYTHING]` all that the program defines. `objects` lets the tests hold objects of the program (test
    set-ups that build its classes); without it every answer must be plain data.

    Raises DiffcoderError where the tests' side itself fails: that says nothing of the program.
    """
    started = time.monotonic()
    chosen = None if names is None else list(names)
    job = json.dumps({"setup": setup, "tests": tests, "names": chosen, "objects": objects})
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        with ours, theirs:
            program_files = {"program.py": program, **(files or {})}
            tested = sandbox.start_python(JUDGE, "serve", program_files, limits, theirs.fileno())
            stack.callback(tested.close)
            # the tests are trusted; they get room for the expected values and for what the program sends
            roomy = replace(limits, memory_mb=max(limits.memory_mb, 2048))
            judging = sandbox.start_python(JUDGE, "judge", {"job.json": job}, roomy, ours.fileno())
            stack.callback(judging.close)
        # the judge ends when the program's room does (its channel closes), so the judge's end is the end
        wait([judging, tested], limits.wall_s, until_first_of=judging)
    judged, ran = judging.outcome(), tested.outcome()
    seconds = time.monotonic() - started
    try:
        answer = json.loads(judged.stdout)
        passed, reason = answer["passed"] is True, str(answer["reason"])
    except (ValueError, KeyError, TypeError):
        if judged.exit > 0 and not judged.killed:  # the judge itself: what is wrong is ours or the data's
            said = judged.stderr.decode(errors="replace").strip()[-200:]
            raise DiffcoderError(
                "judge_failed", f"The tests could not be run ({said or judged.describe()})."
            ) from None
        passed, reason = False, judged.describe()
    if not passed and ran.killed in ("memory", "time"):
        reason = ran.describe()
    return Verdict(passed, reason, seconds)


def judge_command(
    sandbox: Sandbox,
    steps: Sequence[Sequence[str]],
    files: Mapping[str, str],
    limits: Limits,
    word: str,
) -> tuple[Verdict, Outcome]:
    """Run `steps` (compile, then run) one after another in one room; `word` must be the last line printed."""
    started = time.monotonic()
    script = "set -e\n" + "\n".join(" ".join(map(quote, step)) + " </dev/null" for step in steps)
    outcome = sandbox.run(["/bin/sh", "-c", script], files, limits)
    lines = outcome.stdout.decode(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line), "")
    seconds = time.monotonic() - started
    if outcome.ok and last == word:
        return Verdict(True, "passed", seconds), outcome
    return Verdict(False, why(outcome), seconds), outcome


_THROWN = re.compile(r"[\w.]*(Error|Exception)\b")


def why(outcome: Outcome) -> str:
    if outcome.killed:
        return outcome.describe()
    if outcome.exit == 0:
        return "ended before its tests did"
    errors = [line.strip() for line in outcome.stderr.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in errors if "rror" in line or "xception" in line or "ssert" in line]
    thrown = [line for line in telling if _THROWN.match(line)]  # what a library warns of may stand before it
    return f"{outcome.describe()}: {(thrown or telling or errors or [''])[0][:200]}".rstrip(": ")


def quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def random_word() -> str:
    """What a test file prints last; new for every run."""
    return f"done-{secrets.token_hex(12)}"
