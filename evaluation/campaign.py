"""A list of runs as data: made one after the other in this process, so that a model is loaded once for many.

Every run is resumable and so is the list: what is done is passed over. Knows no task and no model.
"""

from __future__ import annotations

import shlex
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from model.schema import DiffcoderError

OURS = Path(__file__).with_name("campaign.toml")
ENDING = ("disk", "sandbox_missing", "model_missing")  # what would end every other run too


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run: what stands behind `diffcoder eval`, and about how many minutes of one core it takes."""

    command: str
    minutes: float


class Campaign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` go to every run."""

    run: list[Entry]
    options: str = ""

    def commands(self, further: Sequence[str] = ()) -> list[list[str]]:
        """The words behind `diffcoder eval` of every run; of an option given twice the last one counts."""
        common = [*shlex.split(self.options), *further]
        return [[*shlex.split(entry.command), *common] for entry in self.run]


def read(path: Path) -> Campaign:
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Campaign)
    except OSError as error:
        raise DiffcoderError("no_campaign", f"{path} cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise DiffcoderError("bad_campaign", f"{path} is no list of runs: {error}.") from error


def execute(campaign: Campaign, run: Callable[[list[str]], int], further: Sequence[str] = ()) -> int:
    """Run after run; the exit status: 130 where the user interrupted, 1 where a run could not be made."""
    status = 0
    for number, words in enumerate(campaign.commands(further), 1):
        print(
            f"[{number}/{len(campaign.run)}] diffcoder eval {shlex.join(words)}", file=sys.stderr, flush=True
        )
        started = time.monotonic()
        try:
            ended = run(words)
        except DiffcoderError as error:
            if error.code in ENDING:
                raise
            print(f"skipped: {error.message}", file=sys.stderr, flush=True)
            status = 1
            continue
        if ended == 130:
            return ended
        status = max(status, ended)
        print(f"took {(time.monotonic() - started) / 60:.1f} min", file=sys.stderr, flush=True)
    return status
