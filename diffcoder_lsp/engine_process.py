"""The engine as a process on this machine: find it, start it, wait for it, stop it, read its log.

One engine a model and user. Beside its socket the engine holds a lock for life and writes where it listens
(`schema.Endpoint`); the kernel drops the lock when it dies, however it dies. Starters take turns on a lock of
their own, so that of any number of them one starts the engine and the others find it.

It never knows what requests look like (`engine_client.py` does), and imports neither torch nor, until it
must, an HTTP library.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from model.schema import PROTOCOL_VERSION, DiffcoderError, Endpoint, Health

# Told what the starter waits for and the seconds it has waited.
Progress = Callable[[str, float], None]

BIND_SECONDS = 60.0
READY_SECONDS = 900.0
DRAIN_SECONDS = 15.0
POLL_SECONDS = 0.02
ERROR_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Files:
    """One engine's files, in a folder that only this user can enter. `stem` is the part their names share."""

    folder: Path
    stem: str

    def __getitem__(self, ending: str) -> Path:
        return self.folder / f"{self.stem}.{ending}"

    def record(self) -> Endpoint | None:
        """What the engine that was here last wrote about itself, dead or alive."""
        try:
            return msgspec.json.decode(self["json"].read_bytes(), type=Endpoint)
        except (OSError, msgspec.MsgspecError):
            return None

    def engine(self) -> Endpoint | None:
        """The live engine of these files. A wedged one lives too: it is found, and can be stopped."""
        record = self.record()
        if record is None or record.problem is not None:
            return None
        try:
            with _connected(record):
                # A dead engine's port may be another program's by now; its socket file cannot be.
                return record if record.address.startswith("unix:") or not self.gone() else None
        except OSError:
            return None

    def gone(self) -> bool:
        """Whether no engine holds the lock: the one sign of life that the kernel keeps true."""
        from filelock import FileLock, Timeout

        try:
            with FileLock(self["lock"], timeout=0):
                return True
        except Timeout:
            return False

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """The lock that starters and stoppers take turns on."""
        from filelock import FileLock

        return FileLock(self["starting"])


def engine_folder() -> Path:
    """The folder of sockets, locks and logs, made when missing, closed to other users."""
    from model.store import cache_folder

    folder = cache_folder().absolute() / "engine"
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
    """Where the engine of a model keeps what. `name` may be a path, as the registry allows."""
    full = full_name(name)
    # No registry name holds a capital, so none is a path's stem.
    if os.path.isabs(full):
        return Files(engine_folder(), f"Path-{hashlib.sha256(full.encode()).hexdigest()[:16]}")
    return Files(engine_folder(), full)


def full_name(name: str) -> str:
    """The registry's name of a model, the absolute path of one that is a path; DiffcoderError for neither."""
    from model import registry

    full = registry.find(name).name
    return os.path.normpath(full) if os.path.isabs(full) else full


def find(name: str = "default") -> Endpoint | None:
    """The live engine of this model, whatever its protocol, ready or not; None without one."""
    return files(name).engine()


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
    waited for. Raises DiffcoderError with the engine's own sentence when it cannot start, or with what the
    system refused.
    """
    began = time.monotonic()

    def report(what: str) -> None:
        if on_progress is not None:
            on_progress(what, time.monotonic() - began)

    paths = files(name)
    command = [sys.executable, "-P", "-m", "model.service", "--model", full_name(name)]
    command += ["--socket", str(paths["sock"])]
    for option, value in (("--threads", threads), ("--idle-seconds", idle_seconds), ("--tcp", tcp_port)):
        if value is not None:
            command += [option, str(value)]
    try:
        return _found_or_started(paths, command, environment(threads), report)
    except BrokenPipeError:
        raise  # whoever heard of the progress has gone
    except OSError as error:
        raise _refused("started", error) from error


def _found_or_started(
    paths: Files, command: list[str], env: dict[str, str], report: Callable[[str], None]
) -> Endpoint:
    """The ready engine of these files; where there is none, `command` starts it."""
    while True:
        endpoint = paths.engine()
        ours = False
        if endpoint is None or not _is_usable(endpoint):
            with paths.turn():
                endpoint = paths.engine()  # another starter may have been quicker
                if endpoint is not None and not _is_usable(endpoint):
                    report("waiting for the engine before this one to end")
                    _stop(paths, endpoint, DRAIN_SECONDS)
                    endpoint = None
                if endpoint is None and not paths.gone():
                    # One that closed its socket and has not ended, or that is about to listen: a new engine
                    # would find the lock taken and give up.
                    report("waiting for the engine before this one to end")
                    _wait(lambda: paths.gone() or paths.engine() is not None, DRAIN_SECONDS)
                    if paths.engine() is not None:
                        continue
                if endpoint is None:
                    endpoint = _spawn(paths, command, env, report)
                    ours = True
        if _wait_ready(paths, endpoint, report, ours):
            return endpoint


def stop(name: str = "default", drain_seconds: float = DRAIN_SECONDS) -> bool:
    """End the engine: it may finish what it accepted for `drain_seconds`. False without one."""
    paths = files(name)
    try:
        with paths.turn():
            endpoint = paths.engine()
            if endpoint is None:
                return False
            _stop(paths, endpoint, drain_seconds)
            return True
    except OSError as error:
        if paths.engine() is None:
            return False  # where nobody can take the turn nobody starts one either
        raise _refused("ended", error) from error


def status() -> list[Health]:
    """Every engine of this user that answers, by model name."""
    folder = engine_folder()
    found = []
    for record in sorted(folder.glob("*.json")):
        endpoint = Files(folder, record.name.removesuffix(".json")).engine()
        health = health_of(endpoint) if endpoint is not None else None
        if health is not None:
            found.append(health)
    return found


def logs(name: str = "default", lines: int = 100) -> str:
    """The last lines of the engine's log, then what it wrote outside its log (a crash, a failed start)."""
    paths = files(name)
    text = ""
    for path in (paths["log"], paths["err"]):
        with contextlib.suppress(OSError):
            text += path.read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def health_of(endpoint: Endpoint, timeout_s: float = 5.0) -> Health | None:
    """What the engine says of itself; None when it does not answer in time."""
    import http.client

    try:
        with contextlib.closing(http.client.HTTPConnection(host_of(endpoint))) as connection:
            connection.sock = _connected(endpoint, timeout_s)
            connection.request("GET", "/health", headers=headers_of(endpoint))
            return msgspec.json.decode(connection.getresponse().read(), type=Health)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError):
        return None


def socket_of(endpoint: Endpoint) -> str | None:
    """The path of the engine's Unix socket; None where it listens on a loopback port."""
    return endpoint.address.removeprefix("unix:") if endpoint.address.startswith("unix:") else None


def host_of(endpoint: Endpoint) -> str:
    """What a request's Host header says: the loopback port's name and number, or any word."""
    return "engine" if socket_of(endpoint) else endpoint.address.removeprefix("http://")


def headers_of(endpoint: Endpoint) -> dict[str, str]:
    """What every request to this engine carries."""
    return {} if endpoint.token is None else {"authorization": f"Bearer {endpoint.token}"}


def _connected(endpoint: Endpoint, timeout_s: float = 2.0) -> socket.socket:
    path = socket_of(endpoint)
    if path is None:
        host, port = host_of(endpoint).split(":")
        return socket.create_connection((host, int(port)), timeout_s)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _is_usable(endpoint: Endpoint) -> bool:
    """Whether requests may go to this engine: it speaks our protocol and is not on its way out."""
    if endpoint.protocol != PROTOCOL_VERSION:
        return False
    health = health_of(endpoint)
    return health is None or health.state != "stopping"  # one that is slow to say so is not ending


def _spawn(paths: Files, command: list[str], env: dict[str, str], report: Callable[[str], None]) -> Endpoint:
    """Start an engine and wait until it listens; the caller has the turn."""
    report("starting the engine")
    with open(paths["err"], "wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            cwd=paths.folder,
            env=env,
            **_detached(),
        )
    # Somebody must collect its exit status, or it would stay in the process table as long as this program
    # runs.
    threading.Thread(target=process.wait, name="engine-reaper", daemon=True).start()
    deadline = time.monotonic() + BIND_SECONDS
    while time.monotonic() < deadline:
        running = process.poll() is None
        endpoint = paths.engine()
        if endpoint is not None and (endpoint.pid == process.pid or not running):
            return endpoint  # not ours when an engine that was started by hand was quicker
        if not running:
            raise _failure(paths, process.pid)
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
    if "DIFFCODER_HOME" in env:  # it may be relative to where we are
        env["DIFFCODER_HOME"] = os.path.abspath(os.path.expanduser(env["DIFFCODER_HOME"]))
    return env | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def _is_installed(root: Path) -> bool:
    import site

    return str(root) in {*site.getsitepackages(), site.getusersitepackages()}


def _wait_ready(paths: Files, endpoint: Endpoint, report: Callable[[str], None], ours: bool) -> bool:
    """Whether this engine became ready; False when it was stopped meanwhile and another look is due.

    One that is not `ours` may have been killed just before: its socket takes connections until the kernel has
    freed its memory. That is no failed start.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        health = health_of(endpoint)
        if health is not None and health.state == "ready":
            return True
        if paths.engine() != endpoint:
            record = paths.record()
            if record is None or record.pid != endpoint.pid or not (ours or record.problem):
                return False
            # It is this engine's record still: it wrote why it failed, or had no time to clean up.
            raise _failure(paths, endpoint.pid)
        report("loading the model")
        time.sleep(POLL_SECONDS * 5)
    raise DiffcoderError(
        "engine_start",
        f"The engine was not ready within {READY_SECONDS:.0f} s; see `diffcoder engine logs`.",
        503,
    )


def _failure(paths: Files, pid: int) -> DiffcoderError:
    """Why process `pid` failed to start: its own problem, else, if it never listened, its last line."""
    record = paths.record()
    if record is not None and record.pid == pid:
        if record.problem is None:
            return died("while it started")
        return DiffcoderError(record.problem.code, record.problem.message, 503)
    with contextlib.suppress(OSError):
        tail = paths["err"].read_bytes()[-ERROR_TAIL_BYTES:].decode("utf-8", "replace")
        for line in reversed(tail.splitlines()):
            if line.strip():
                return DiffcoderError("engine_start", line.strip(), 503)
    return died("while it started")


def _refused(what: str, error: OSError) -> DiffcoderError:
    """The error for what the system refused while the engine was to be `what`, with the path that it was about."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:  # no place refused: no memory, no more processes, no permission
        return DiffcoderError("engine_start", f"The engine cannot be {what}: {reason}.", 503)
    return DiffcoderError(
        "engine_start",
        f"The engine cannot be {what}: {error.filename}: {reason}; make room there and check it, or set "
        "DIFFCODER_HOME to another folder.",
        503,
    )


def died(when: str) -> DiffcoderError:
    return DiffcoderError(
        "engine_died",
        f"The engine ended {when} (killed, or out of memory?); see `diffcoder engine logs`.",
        503,
    )


def _stop(paths: Files, endpoint: Endpoint, drain_seconds: float) -> None:
    """Ask, insist, kill; the caller has the turn. Raises DiffcoderError if it lives on."""
    pid = _pid(endpoint)
    health = health_of(endpoint)
    if health is not None and health.state == "stopping" and _wait(paths.gone, drain_seconds):
        return  # a second signal would have cut off what it is finishing
    kill = getattr(signal, "SIGKILL", signal.SIGTERM)
    for number, patience in ((signal.SIGTERM, drain_seconds), (signal.SIGTERM, 5.0), (kill, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if _wait(paths.gone, patience):
            return
    raise DiffcoderError("engine_stuck", f"The engine (process {pid}) does not end; end it by hand.", 503)


def _pid(endpoint: Endpoint) -> int:
    """The engine's process id, from the kernel where it tells: a record can outlive its process."""
    if endpoint.address.startswith("unix:") and hasattr(socket, "SO_PEERCRED"):
        with contextlib.suppress(OSError), _connected(endpoint) as connection:
            size = struct.calcsize("3i")
            return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
    return endpoint.pid


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
