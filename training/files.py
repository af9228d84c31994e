"""A run's files: replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

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


def averages(run: Path, base_sha256: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The averaged weights of a run's last checkpoint by name, and the step and rows it stands at.

    `base_sha256`: of the base that they must belong to, empty where every weight was trained.
    """
    path = run / "checkpoint.safetensors"
    if not path.is_file():
        raise DiffcoderError("no_checkpoint", f"{run} holds no checkpoint: train first.")
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        if facts.get("base_sha256", base_sha256) != base_sha256:
            raise DiffcoderError("other_run", f"{run} was trained on another base: name it with --base.")
        names = [name for name in file.keys() if name.startswith("average.")]  # noqa: SIM118
        weights = {name.removeprefix("average."): file.get_tensor(name) for name in names}
    return weights, {key: int(facts[key]) for key in ("step", "rows")}
