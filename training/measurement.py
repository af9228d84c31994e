"""Outcomes of gaps on disk, a line each as they come: a stop costs the gap in work and no more.

The first line is the number of gaps that were asked for, each further one the seconds of a gap and its outcome. A last
line that was torn by a kill or a full disk is measured again. Knows no models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from model.schema import DiffcoderError
from training.files import write_atomically
from training.yardstick import Gap, Outcome

Row = tuple[float, Outcome]


class Measurement:
    """One file of outcomes. `gaps`: how many to ask for, where it is not begun yet."""

    def __init__(self, path: Path, gaps: int):
        self.path, self.gaps = path, gaps
        self._rows: list[Row] = []
        whole = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        try:
            if whole:
                self.gaps = msgspec.json.decode(whole[0], type=int)
                self._rows = [msgspec.json.decode(line, type=Row) for line in whole[1:]]
        except ValueError as error:
            raise self._damaged() from error

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for _, outcome in self._rows]

    @property
    def seconds(self) -> float:
        """What the gaps took, stops left out."""
        return sum(seconds for seconds, _ in self._rows)

    def left(self, asked: Sequence[Gap]) -> Sequence[Gap]:
        """Those of the gaps that are not measured yet."""
        if [outcome.name for outcome in self.outcomes] != [gap.name for gap in asked[: len(self._rows)]]:
            raise self._damaged()
        return asked[len(self._rows) :]

    def keep(self, rows: Iterable[Row]) -> Iterator[int]:
        """Keep the rows as they come; yields how many there are."""
        lines = [msgspec.json.encode(self.gaps), *map(msgspec.json.encode, self._rows)]
        write_atomically(self.path, b"".join(line + b"\n" for line in lines))
        with self.path.open("ab") as file:
            for row in rows:
                file.write(msgspec.json.encode(row) + b"\n")
                file.flush()
                self._rows.append(row)
                yield len(self._rows)

    def _damaged(self) -> DiffcoderError:
        return DiffcoderError(
            "damaged_run",
            f"{self.path} cannot be read or is of other gaps: delete it, and --resume measures again.",
        )
