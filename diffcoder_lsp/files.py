"""A source file on disk: read as text, written back in the encoding, byte order mark and mode it had.

Reading refuses what cannot be edited as text (binary, UTF-16, larger than `MAX_BYTES`); writing is atomic
and refuses when the file changed since it was read, or when a character does not fit the file's encoding.
Knows nothing of gaps or edits.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from model.schema import DiffcoderError

MAX_BYTES = 4_000_000
"""Larger files are generated or data: refused, as the engine does."""

_DECLARED = re.compile(rb"coding[:=][ \t]*([-\w.]+)")
"""PEP 263, and what Emacs and Vim write in other languages."""

_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")
"""Bytes that no text in a one-byte encoding holds (bell, tab, line and page ends, escape may occur)."""


@dataclass(frozen=True)
class SourceFile:
    """`text` is what `data` (the bytes that were read) says in `encoding`, without a byte order mark."""

    path: Path
    data: bytes
    text: str
    encoding: str


def read_file(path: str | os.PathLike[str]) -> SourceFile:
    """Read a text file; anything that cannot be edited as text is a `DiffcoderError`."""
    path = Path(path)
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DiffcoderError("not_a_file", f"{path} is not a regular file: name a source file.")
            data = file.read(MAX_BYTES + 1)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise DiffcoderError("no_such_file", f"{path} does not exist: check the path.") from None
    except IsADirectoryError:
        raise DiffcoderError("not_a_file", f"{path} is a folder: name a file in it.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DiffcoderError("cannot_read", f"{path} cannot be read ({reason}): check it.") from None
    if len(data) > MAX_BYTES:
        raise DiffcoderError(
            "file_too_large",
            f"{path} has {size / 1e6:.1f} MB and diffcoder reads files of up to {MAX_BYTES / 1e6:.0f} MB: "
            "split it or name a smaller one.",
        )
    encoding = _encoding_of(path, data)
    return SourceFile(path=path, data=data, text=data.decode(encoding), encoding=encoding)


def write_file(source: SourceFile, text: str) -> None:
    """Replace the file's text: all of it or, on any error, nothing.

    The new bytes go to a temporary file in the same folder, are synced, given the file's mode and owner
    and renamed over it; a symbolic link stays and the file that it names is replaced.
    """
    data = encode(source, text)
    target = source.path.resolve()
    temporary: Path | None = None
    try:
        before = target.stat()
        if not os.access(target, os.W_OK):
            raise DiffcoderError("read_only", f"{source.path} is read-only: make it writable first.")
        descriptor, name = tempfile.mkstemp(prefix=".diffcoder.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if hasattr(os, "fchown"):
                with suppress(PermissionError):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
            os.chmod(temporary, stat.S_IMODE(before.st_mode))
            os.fsync(descriptor)
        if target.read_bytes() != source.data:
            raise DiffcoderError(
                "file_changed",
                f"{source.path} changed on disk meanwhile, so nothing was written: run the command again.",
            )
        os.replace(temporary, target)
        temporary = None
        _sync_folder(target.parent)
    except OSError as error:
        raise DiffcoderError(
            "cannot_write", f"{source.path} was left as it was, because writing failed ({error.strerror})."
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def encode(source: SourceFile, text: str) -> bytes:
    """`text` as bytes in the file's encoding; a character that does not fit is a `DiffcoderError`."""
    try:
        return text.encode(source.encoding)
    except UnicodeEncodeError as error:
        character = text[error.start]
        raise DiffcoderError(
            "does_not_fit",
            f"The new text has the character {character!r} (U+{ord(character):04X}), which "
            f"{source.path} cannot hold in {source.encoding}, so nothing was written: "
            "save the file as UTF-8 first.",
        ) from None


def _open_without_waiting(path: str, flags: int) -> int:
    """A named pipe must be refused, not waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _encoding_of(path: Path, data: bytes) -> str:
    """The encoding whose decoding and encoding gives `data` back, byte for byte."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DiffcoderError("not_text", f"{path} is UTF-16: save it as UTF-8 first.")
    if b"\0" in data:
        raise DiffcoderError("not_text", f"{path} is a binary file: name a source file.")
    candidates = ["utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "utf-8"]
    if declared := _DECLARED.search(b"".join(data[:1000].splitlines(keepends=True)[:2])):
        candidates.append(declared.group(1).decode("ascii"))
    # Bytes 0x80 to 0x9f are letters and quotes in cp1252 and control characters in latin-1. A file without
    # them is the same in both; latin-1 then is the one that refuses to invent such a byte.
    if any(0x80 <= byte <= 0x9F for byte in set(data)):
        candidates.append("cp1252")
    candidates.append("latin-1")
    for encoding in candidates:
        if encoding in ("cp1252", "latin-1") and _CONTROL.search(data):
            break
        with suppress(UnicodeError, LookupError):
            if data.decode(encoding).encode(encoding) == data:
                return encoding
    raise DiffcoderError("not_text", f"{path} is a binary file: name a source file.")


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
