"""A run's files: replaced whole or not at all, and read so that a damaged one is named."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from safetensors import SafetensorError

from model.schema import DiffcoderError

T = TypeVar("T")


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


def save_array(path: Path, array: np.ndarray) -> None:
    """`write_atomically` for an array."""
    data = io.BytesIO()
    np.save(data, array)
    write_atomically(path, data.getvalue())


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Say in a sentence, with `remedy`, that a file holds no array, tensors or JSON (of a copy that broke off)."""
    try:
        yield
    except (SafetensorError, EOFError, ValueError) as error:
        raise DiffcoderError("damaged_file", f"{path} cannot be read ({error}): {remedy}.") from error


def read_json(path: Path, kind: type[T], remedy: str) -> T:
    """What a JSON file holds."""
    with reading(path, remedy):
        return msgspec.json.decode(path.read_bytes(), type=kind)
