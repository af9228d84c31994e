"""How diffcoder's files reach the disk: whole or not at all, and told apart from damaged ones afterwards.

The pattern for every file: a temporary one in the same folder, written, synced, moved to its name, the
folder synced. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from model.schema import DiffcoderError

_STALE_S = 600.0


def cache_folder() -> Path:
    """The folder all of diffcoder's data lives in: `DIFFCODER_HOME`, or the platform's cache folder."""
    override = os.environ.get("DIFFCODER_HOME")
    return Path(override).expanduser() if override else platformdirs.user_cache_path("diffcoder")


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the system's complaints about `folder` into DiffcoderError("no_space" or "disk_error")."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(folder) from None
        reason = error.strerror or type(error).__name__
        raise DiffcoderError(
            "disk_error",
            f"{folder} cannot be written ({reason}): check its permissions, "
            "or set DIFFCODER_HOME to another folder.",
            status=500,
        ) from None


def no_space(folder: Path, needed: int | None = None, free: int | None = None) -> DiffcoderError:
    """The error for a full disk; `needed` and `free` are bytes."""
    amount = f": {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free" if needed and free else ""
    return DiffcoderError(
        "no_space",
        f"There is no space left for {folder}{amount}; "
        "free some, or set DIFFCODER_HOME to a folder on another disk.",
        status=507,
    )


def write_atomically(path: Path, writer: Callable[[Path], object]) -> None:
    """Let `writer` write a temporary file in the same folder, then sync it and move it to `path`.

    A reader sees the old file or the whole new one; a failure leaves the old one and no temporary file. A
    writer that was killed leaves its temporary file, which the next call removes.
    """
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            writer(temporary)
            move_into_place(temporary, path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if "No space left on device" in str(error):  # libraries wrap the system's error in their own
                raise no_space(path.parent) from None
            raise


def move_into_place(temporary: Path, path: Path) -> None:
    """Sync a finished file, rename it within its folder, sync the folder."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_stale(path: Path) -> None:
    """Remove what killed writers of `path` left: their process is gone and the file no longer grows."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        pid = left.name.removeprefix(f".{path.name}.").split(".")[0]
        with contextlib.suppress(OSError):
            # The age guards the writer of another machine that shares this folder: its pid means nothing
            # here.
            if pid.isdigit() and not _alive(int(pid)) and time.time() - left.stat().st_mtime > _STALE_S:
                left.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def write_sealed(path: Path, writer: Callable[[Path], object]) -> None:
    """`write_atomically`, and beside it the file's SHA-256, so that a reader can tell a damaged file."""

    def write_and_note(temporary: Path) -> None:
        writer(temporary)
        digests.append(sha256(temporary))

    digests: list[str] = []
    with disk_errors(path.parent):
        _seal_of(path).unlink(missing_ok=True)
    write_atomically(path, write_and_note)
    write_atomically(_seal_of(path), lambda file: file.write_text(digests[0], encoding="ascii"))


def is_sealed(path: Path) -> bool:
    """Whether `path` is, byte for byte, what `write_sealed` put there. Reads the whole file."""
    try:
        seal = _seal_of(path).read_text(encoding="ascii")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # In one go, which lets other threads run: who loads a model has more to do meanwhile.
            return hashlib.sha256(content).hexdigest() == seal
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False
