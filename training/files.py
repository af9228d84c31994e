"""A run's files: replaced whole or not at all, and damaged ones named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from model.schema import DiffcoderError

T = TypeVar("T")


def read_json(path: Path, kind: type[T], way: str) -> T:
    """What the file holds. `way`: what to do where it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except ValueError as error:
        raise DiffcoderError("damaged_run", f"{path} is damaged ({error}): {way}.") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, or leave it: a full disk or a kill never costs the last good file."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if part.is_file():
            part.unlink()
        raise DiffcoderError(
            "disk", f"{path} could not be written ({error.strerror}); the last good one is kept."
        ) from error
