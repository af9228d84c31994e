"""Programs judged by what they print for what they read: contest problems (LiveCodeBench, SAFIM).

The expected output never enters the room: the program's whole output leaves it and is compared outside,
line by line without trailing blanks, numbers as decimal values, as the contest harnesses do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from evaluation.languages import Language
from evaluation.sandbox import Limits, Sandbox
from evaluation.verdicts import Verdict, quote, why


def same_output(got: str, wanted: str) -> bool:
    """Equal line by line; a line whose tokens are all numbers may write them differently (1.0 and 1)."""
    ours = [line.strip() for line in got.strip().split("\n")]
    theirs = [line.strip() for line in wanted.strip().split("\n")]
    return len(ours) == len(theirs) and all(map(same_line, ours, theirs))


def same_line(ours: str, theirs: str) -> bool:
    if ours == theirs:
        return True
    first, second = numbers(ours), numbers(theirs)
    return first is not None and first == second


def numbers(line: str) -> list[Decimal] | None:
    try:
        return [Decimal(token) for token in line.split()]
    except InvalidOperation:
        return None


def judge_output(
    sandbox: Sandbox,
    language: Language,
    source: str,
    cases: Sequence[tuple[str, Sequence[str]]],
    limits: Limits,
) -> Verdict:
    """Build once a room, run each case (input, acceptable outputs) in a room of its own; stop at the first
    failure."""
    started = time.monotonic()
    *build, run = language.steps
    files = {language.source: source, **language.support()}
    for number, (given, accepted) in enumerate(cases, 1):
        lines = [" ".join(map(quote, step)) + " </dev/null >&2" for step in build]
        script = "\n".join(["set -e", *lines, "exec " + " ".join(map(quote, run)) + " <input.txt"])
        outcome = sandbox.run(["/bin/sh", "-c", script], {**files, "input.txt": given}, limits)
        if not outcome.ok:
            return Verdict(False, f"case {number}: {why(outcome)}", time.monotonic() - started)
        got = outcome.stdout.decode(errors="replace")
        if not any(same_output(got, wanted) for wanted in accepted):
            return Verdict(False, f"case {number}: wrong output", time.monotonic() - started)
    return Verdict(bool(cases), "passed" if cases else "has no tests", time.monotonic() - started)
