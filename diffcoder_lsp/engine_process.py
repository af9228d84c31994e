"""The engine as a process on this machine: find it, start it, wait for it, stop it, read its log.

One engine a model and user. Beside its socket the engine holds a lock for life and writes where it listens
(`schema.Endpoint`); the kernel drops the lock when it dies, however it dies. Starters take turns on a lock of
their own, so that of any number of them one starts the engine and the others find it.

It never knows what requests look like (`engine_client.py` does), and imports neither torch nor, until it
must, an HTTP library.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from model.schema import PROTOCOL_VERSION, DiffcoderError, Endpoint, Health

if TYPE_CHECKING:
    pass

# Told what the starter waits for and the seconds it has waited.
Progress = Callable[[str, float], None]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
BIND_SECONDS = 60.0
READY_SECONDS = 900.0
DRAIN_SECONDS = 15.0
POLL_SECONDS = 0.02
ERROR_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Files:
    """The files of one model's engine. Only this user can enter their folder."""

    socket: Path
    record: Path
    lock: Path
    log: Path
    errors: Path
    start_lock: Path


def engine_folder() -> Path:
    """The folder of sockets, locks and logs, made when missing, closed to other users."""
    from model.store import cache_folder

    folder = cache_folder() / "engine"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise DiffcoderError(
            "no_folder",
            f"{folder} cannot be made ({error.strerror}); set DIFFCODER_HOME to a folder you own.",
        ) from None
    return folder


def files(name: str) -> Files:
    """Where the engine of model `name` keeps what. DiffcoderError for what cannot be a model's name."""
    if not NAME.fullmatch(name):
        raise DiffcoderError(
            "no_model", f"{name!r} is not a model name; `diffcoder model list` shows them.", 404
        )
    folder = engine_folder()
    # Not with_suffix: a model name may hold a dot.
    return Files(*(folder / f"{name}.{end}" for end in ("sock", "json", "lock", "log", "err", "starting")))


def read_record(name: str) -> Endpoint | None:
    try:
        return msgspec.json.decode(files(name).record.read_bytes(), type=Endpoint)
    except (OSError, msgspec.MsgspecError):
        return None


def find(name: str = "default") -> Endpoint | None:
    """The live engine of this model, whatever its protocol, ready or not; None without one."""
    record = read_record(name)
    return record if record is not None and record.problem is None and _listens(record) else None


def ensure(
    name: str = "default",
    *,
    threads: int | None = None,
    idle_seconds: float | None = None,
    tcp_port: int | None = None,
    on_progress: Progress | None = None,
) -> Endpoint:
    """A ready engine for this model: the one that runs, else a new one. The options are for a new one.

    An engine of another protocol version (left over from an upgrade) is replaced; one that is stopping is
    waited for. Raises DiffcoderError with the engine's own sentence when it cannot start.
    """
    from filelock import FileLock

    began = time.monotonic()

    def report(what: str) -> None:
        if on_progress is not None:
            on_progress(what, time.monotonic() - began)

    paths = files(name)
    while True:
        endpoint = find(name)
        if endpoint is None or endpoint.protocol != PROTOCOL_VERSION or _state(endpoint) == "stopping":
            with FileLock(paths.start_lock):
                endpoint = find(name)  # another starter may have been quicker
                if endpoint is not None and endpoint.protocol != PROTOCOL_VERSION:
                    report(f"replacing an engine of protocol {endpoint.protocol}")
                    _stop(name, endpoint, DRAIN_SECONDS)
                    endpoint = None
                elif endpoint is not None and _state(endpoint) == "stopping":
                    report("waiting for the engine that is stopping")
                    if not _wait(lambda: _gone(name), DRAIN_SECONDS):
                        _stop(name, endpoint, DRAIN_SECONDS)
                    endpoint = None
                if endpoint is None:
                    endpoint = _spawn(name, paths, threads, idle_seconds, tcp_port, report)
        if _wait_ready(name, endpoint, report):
            return endpoint


def stop(name: str = "default", drain_seconds: float = DRAIN_SECONDS) -> bool:
    """End the engine: it may finish what it accepted for `drain_seconds`. False without one."""
    from filelock import FileLock

    with FileLock(files(name).start_lock):
        endpoint = find(name)
        if endpoint is None:
            return False
        _stop(name, endpoint, drain_seconds)
        return True


def status() -> list[Health]:
    """Every engine of this user that answers, by model name."""
    found = []
    for record in sorted(engine_folder().glob("*.json")):
        endpoint = find(record.name.removesuffix(".json"))
        health = health_of(endpoint) if endpoint is not None else None
        if health is not None:
            found.append(health)
    return found


def logs(name: str = "default", lines: int = 100) -> str:
    """The last lines of the engine's log, then what it wrote outside its log (a crash, a failed start)."""
    paths = files(name)
    text = ""
    for path in (paths.log, paths.errors):
        with contextlib.suppress(OSError):
            text += path.read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def health_of(endpoint: Endpoint, timeout_s: float = 5.0) -> Health | None:
    """What the engine says of itself; None when it does not answer in time."""
    import httpx

    try:
        with httpx.Client(**http_options(endpoint, httpx.HTTPTransport), timeout=timeout_s) as client:
            return msgspec.json.decode(client.get("/health").content, type=Health)
    except (httpx.HTTPError, msgspec.MsgspecError):
        return None


def http_options(endpoint: Endpoint, transport: Callable[..., Any]) -> dict[str, Any]:
    """Arguments that make an httpx client speak to this engine and to nothing else.

    A transport of its own takes no proxy from the environment; `verify` only spares it reading certificates.
    """
    import httpx

    common = {"verify": False, "limits": httpx.Limits(max_connections=None, keepalive_expiry=30)}
    headers = {"authorization": f"Bearer {endpoint.token}"} if endpoint.token is not None else {}
    if endpoint.address.startswith("unix:"):
        uds = endpoint.address.removeprefix("unix:")
        return {"base_url": "http://engine", "transport": transport(uds=uds, **common), "headers": headers}
    return {"base_url": endpoint.address, "transport": transport(**common), "headers": headers}


def _listens(endpoint: Endpoint) -> bool:
    """Whether somebody accepts connections there. A wedged engine does: it is found, and can be stopped."""
    with contextlib.suppress(OSError):
        with _connected(endpoint):
            # A dead engine's port may be another program's by now; its socket file cannot be.
            return endpoint.address.startswith("unix:") or not _gone(endpoint.model)
    return False


def _connected(endpoint: Endpoint) -> socket.socket:
    if not endpoint.address.startswith("unix:"):
        host, port = endpoint.address.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=2)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(2)
        connection.connect(endpoint.address.removeprefix("unix:"))
    except OSError:
        connection.close()
        raise
    return connection


def _state(endpoint: Endpoint) -> str | None:
    health = health_of(endpoint)
    return None if health is None else health.state


def _spawn(
    name: str,
    paths: Files,
    threads: int | None,
    idle_seconds: float | None,
    tcp_port: int | None,
    report: Callable[[str], None],
) -> Endpoint:
    """Start an engine and wait until it listens; the caller holds the start lock."""
    command = [sys.executable, "-P", "-m", "model.service", "--model", name, "--socket", str(paths.socket)]
    for option, value in (("--threads", threads), ("--idle-seconds", idle_seconds), ("--tcp", tcp_port)):
        if value is not None:
            command += [option, str(value)]
    report("starting the engine")
    with open(paths.errors, "wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            cwd=paths.socket.parent,
            env=environment(threads),
            **_detached(),
        )
    # Somebody must collect its exit status, or it would stay in the process table as long as this program
    # runs.
    threading.Thread(target=process.wait, name="engine-reaper", daemon=True).start()
    deadline = time.monotonic() + BIND_SECONDS
    while time.monotonic() < deadline:
        record = read_record(name)
        if record is not None and record.pid == process.pid:
            if record.problem is not None:
                raise _failure(name, record)
            if _listens(record):
                return record
        if process.poll() is not None:
            # It may have lost to an engine that was started by hand.
            endpoint = find(name)
            if endpoint is not None and endpoint.protocol == PROTOCOL_VERSION:
                return endpoint
            raise _failure(name, record if record is not None and record.pid == process.pid else None)
        report("starting the engine")
        time.sleep(POLL_SECONDS)
    process.kill()
    raise DiffcoderError(
        "engine_start",
        f"The engine did not listen within {BIND_SECONDS:.0f} s; see `diffcoder engine logs`.",
        503,
    )


def _detached() -> dict[str, Any]:
    """What keeps the engine alive when its starter's terminal or editor ends."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def environment(threads: int | None = None) -> dict[str, str]:
    """The starter's environment, less what could put other code in the place of ours."""
    root = Path(__file__).resolve().parents[1]
    kept = [str(root)] if not _is_installed(root) else []
    for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        # A workspace on the path (many set `PYTHONPATH=.`) must not bring its own `model` package.
        folder = Path(entry)
        shadows = (folder / "model.py").exists() or (folder / "model" / "__init__.py").exists()
        if folder.is_absolute() and folder != root and not shadows:
            kept.append(entry)
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSTARTUP")}
    if kept:
        env["PYTHONPATH"] = os.pathsep.join(kept)
    if threads is not None:
        env["OMP_NUM_THREADS"] = str(threads)
    return env | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def _is_installed(root: Path) -> bool:
    import site

    return str(root) in {*site.getsitepackages(), site.getusersitepackages()}


def _wait_ready(name: str, endpoint: Endpoint, report: Callable[[str], None]) -> bool:
    """Whether this engine became ready; False when it was stopped meanwhile and another look is due."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        state = _state(endpoint)
        if state == "ready":
            return True
        record = read_record(name)
        if record is not None and record.problem is not None and record.pid == endpoint.pid:
            raise _failure(name, record)
        if state == "stopping" or (state is None and not _listens(endpoint)):
            if _wait(lambda: _gone(name), DRAIN_SECONDS):
                record = read_record(name)
                if (
                    record is not None and record.pid == endpoint.pid
                ):  # it did not clean up: it failed or crashed
                    raise _failure(name, record)
            return False
        report(f"loading {name}")
        time.sleep(POLL_SECONDS * 5)
    raise DiffcoderError(
        "engine_start",
        f"The engine was not ready within {READY_SECONDS:.0f} s; see `diffcoder engine logs`.",
        503,
    )


def _failure(name: str, record: Endpoint | None) -> DiffcoderError:
    """Why a start failed: the engine's own problem, else, if it never listened, its last line."""
    if record is not None and record.problem is not None:
        return DiffcoderError(record.problem.code, record.problem.message, 503)
    last = ""
    with contextlib.suppress(OSError):
        tail = files(name).errors.read_bytes()[-ERROR_TAIL_BYTES:].decode("utf-8", "replace")
        last = next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")
    if record is None and last:
        return DiffcoderError("engine_start", last, 503)
    return died("while it started")


def died(when: str) -> DiffcoderError:
    return DiffcoderError(
        "engine_died",
        f"The engine ended {when} (killed, or out of memory?); see `diffcoder engine logs`.",
        503,
    )


def _stop(name: str, endpoint: Endpoint, drain_seconds: float) -> None:
    """Ask, insist, kill; the caller holds the start lock. Raises DiffcoderError if it lives on."""
    pid = _pid(endpoint)
    for number, patience in ((signal.SIGTERM, drain_seconds), (signal.SIGTERM, 5.0), (_KILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if _wait(lambda: _gone(name), patience):
            return
    raise DiffcoderError("engine_stuck", f"The engine (process {pid}) does not end; end it by hand.", 503)


_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def _pid(endpoint: Endpoint) -> int:
    """The engine's process id, from the kernel where it tells: a record can outlive its process."""
    if endpoint.address.startswith("unix:") and hasattr(socket, "SO_PEERCRED"):
        with contextlib.suppress(OSError), _connected(endpoint) as connection:
            size = struct.calcsize("3i")
            return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
    return endpoint.pid


def _gone(name: str) -> bool:
    """Whether no engine holds the lock: the one sign of life that the kernel keeps true."""
    with _engine_lock(name) as free:
        return free


@contextlib.contextmanager
def _engine_lock(name: str) -> Iterator[bool]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(files(name).lock, timeout=0):
            yield True
    except Timeout:
        yield False


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
