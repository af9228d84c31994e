"""A run's files: replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from model.schema import DiffcoderError


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
