"""Where models live on this disk. (pull, verify and remove follow.)"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The folder all of diffcoder's data lives in: `DIFFCODER_HOME`, or the platform's cache folder."""
    override = os.environ.get("DIFFCODER_HOME")
    return Path(override).expanduser() if override else platformdirs.user_cache_path("diffcoder")


def write_atomically(path: Path, writer: Callable[[Path], object]) -> None:
    """Let `writer` write a temporary file in the same folder, then sync it and move it to `path`.

    A reader sees the old file or the whole new one; a failure leaves the old one and no temporary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        writer(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def write_sealed(path: Path, writer: Callable[[Path], object]) -> None:
    """`write_atomically`, and beside it the file's SHA-256, so that a reader can tell a damaged file."""
    seal = _seal_of(path)
    seal.unlink(missing_ok=True)
    write_atomically(path, writer)
    digest = sha256(path)
    write_atomically(seal, lambda file: file.write_text(digest, encoding="ascii"))


def is_sealed(path: Path) -> bool:
    """Whether `path` is, byte for byte, what `write_sealed` put there. Reads the whole file."""
    try:
        return _seal_of(path).read_text(encoding="ascii") == sha256(path)
    except (OSError, ValueError):
        return False
