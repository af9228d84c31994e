"""The engine process: `model.routes` on a socket that is its user's alone, in front of `model.engine`.

    python -P -m model.service --model NAME --socket PATH

`-P` keeps the current folder off the import path, so that a workspace with a `model/` of its own changes
nothing. Beside PATH lie the files of the same stem: `.lock` (held for life: one engine a model), `.json`
(where it listens, a `schema.Endpoint`), `.log` (bounded). What it answers is `model.routes`'; it never knows which
model families exist, or who its clients are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import logging
import logging.handlers
import os
import secrets
import signal
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from model.engine import Engine, Generator
from model.routes import Guard, Service, openapi
from model.schema import PROTOCOL_VERSION, DiffcoderError, Endpoint, ModelInfo

log = logging.getLogger("diffcoder.service")

MAX_CONNECTIONS = 512
MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 107 on Linux, 103 on macOS
IDLE_SECONDS = 1800.0

EXIT_CANNOT_START = 1
EXIT_ALREADY_RUNNING = 3


class OwnerOnly(H11Protocol):
    """HTTP for connections of this process's own user; the kernel names the peer. Others are cut off unheard.

    Where the kernel's answer cannot be had (no SO_PEERCRED), the folder's and the socket's modes stand alone.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = peer_of(transport.get_extra_info("socket"))
        if (peer is not None and peer[1] != os.getuid()) or len(self.connections) >= MAX_CONNECTIONS:
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)


def peer_of(sock: socket.socket) -> tuple[int, int] | None:
    """(pid, uid) of the process at the other end of a Unix socket; None where the kernel does not say."""
    if sock.family != getattr(socket, "AF_UNIX", None) or not hasattr(socket, "SO_PEERCRED"):
        return None
    pid, uid, _ = struct.unpack(
        "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return pid, uid


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: a signal here begins a drain, and the exit code stays 0."""

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()


def serve(
    model: str,
    socket_path: Path,
    load: Callable[[], Generator],
    models: Callable[[], list[ModelInfo]],
    *,
    idle_s: float = IDLE_SECONDS,
    tcp_port: int | None = None,
) -> int:
    """Run the engine until it is told to stop or has been idle for `idle_s`; returns the exit code.

    Raises DiffcoderError when another engine serves this model or the socket's folder is open to others.
    `tcp_port` (0: any free one) takes loopback TCP in place of the Unix socket.
    """
    from filelock import FileLock, Timeout

    os.umask(0o077)
    socket_path = socket_path.absolute()
    _own_folder(socket_path.parent)
    lock = FileLock(socket_path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=1)  # somebody may be trying it just now, to see whether an engine lives
    except Timeout:
        raise DiffcoderError(
            "already_running",
            f"An engine for {model!r} is running already; `diffcoder engine stop` ends it.",
            409,
        ) from None
    _log_to(socket_path.with_suffix(".log"))
    token, hosts = None, None
    if tcp_port is None and hasattr(socket, "AF_UNIX"):
        place = _short(socket_path)
        listener = _listen_unix(place)
        address = f"unix:{place}"
    else:
        place = None
        listener = socket.create_server(("127.0.0.1", tcp_port or 0))
        # Inherited by every connection; without it the second packet of an answer waits 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = listener.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        token = secrets.token_urlsafe(32)
        hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
    endpoint = Endpoint(pid=os.getpid(), model=model, protocol=PROTOCOL_VERSION, address=address, token=token)
    presence = _Presence(endpoint, socket_path.with_suffix(".json"), place)
    log.info("serving %s at %s", model, address)
    engine = Engine(load)
    app = Service(engine, model, models).app(lambda app: Guard(app, token, hosts))
    try:
        asyncio.run(_run(engine, app, listener, presence, idle_s))
    finally:
        presence.withdraw()
        log.info("ended")
        lock.release()
    if engine.problem is not None:
        raise engine.problem
    return 0


class _Presence:
    """What clients find an engine by: the record of where it listens, and the socket file if it has one."""

    def __init__(self, endpoint: Endpoint, record: Path, place: Path | None):
        self._endpoint, self._record, self._place = endpoint, record, place
        self._failed = False
        self._write(endpoint)

    def fail(self, problem: DiffcoderError) -> None:
        """Leave a record that says why no engine came of it."""
        self._failed = True
        self._write(msgspec.structs.replace(self._endpoint, problem=problem.problem()))

    def stands(self) -> bool:
        """Whether clients still find it: its files may have been deleted, or replaced by another engine's."""
        return self._files == self._identities()

    def withdraw(self) -> None:
        """Delete what is still its own; a record of failure stays."""
        for path, identity in self._files.items():
            if identity == _identity(path) and not (self._failed and path == self._record):
                path.unlink(missing_ok=True)

    def _write(self, endpoint: Endpoint) -> None:
        """Whole or not at all for a reader. Not synced: it says nothing that outlives the process."""
        temporary = self._record.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(endpoint))
        temporary.replace(self._record)
        self._files = self._identities()

    def _identities(self) -> dict[Path, tuple[int, int] | None]:
        return {path: _identity(path) for path in (self._record, self._place) if path is not None}


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


async def _run(
    engine: Engine, app: ASGIApp, listener: socket.socket, presence: _Presence, idle_s: float
) -> None:
    """Serve until the engine has ended. The first signal drains, a second one cancels what still runs."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if engine.stats().state == "stopping":
            engine.abort()
        else:
            engine.drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, on_signal)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
    server = _Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http=OwnerOnly,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=256,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=5,
        )
    )
    engine.start()
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    while not engine.finished and not serving.done():
        await asyncio.sleep(0.1)
        stats = engine.stats()
        if stats.state != "stopping" and (stats.idle_s > idle_s or not presence.stands()):
            log.info("nobody has asked for %.0f s, or can find this engine any more", stats.idle_s)
            engine.drain()
    if engine.problem is not None:
        presence.fail(engine.problem)
    server.should_exit = True
    await serving


def _own_folder(folder: Path) -> None:
    """Make sure that `folder` exists and only this user can enter it; DiffcoderError when others can."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise DiffcoderError(
            "no_folder", f"The engine needs the folder {folder} for its socket: {error.strerror}."
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        raise DiffcoderError(
            "no_folder", f"{folder} is not a folder of its own; choose another place for the socket."
        )
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o077):
        raise DiffcoderError(
            "open_folder",
            f"Other users can enter {folder}; give the socket a folder of mode 0700 that you own.",
        )


def _short(path: Path) -> Path:
    """`path`, or a stand-in in the temporary folder when it is longer than the kernel takes for a socket."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    for base in (tempfile.gettempdir(), "/tmp"):
        folder = Path(base) / f"diffcoder-{os.getuid()}"
        place = folder / f"{digest}.sock"
        if len(os.fsencode(place)) <= MAX_SOCKET_PATH:
            _own_folder(folder)
            return place
    raise DiffcoderError(
        "no_folder", f"{path} is too long for a socket; set TMPDIR or DIFFCODER_HOME to a shorter path."
    )


def _listen_unix(path: Path) -> socket.socket:
    """Bind, with the lock held: a socket that lies there belongs to nobody any more."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(256)
    return listener


def _log_to(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=1_000_000, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def _load(model: str, threads: int | None) -> Generator:
    from model import store
    from model.generator import (
        Generator,
    )  # torch takes seconds to import: on the worker's thread, socket open

    return Generator.load(model, threads=threads, team=store.team_path(model))


def _models(loaded: str) -> list[ModelInfo]:
    from model import store

    return [
        msgspec.structs.replace(info, state="loaded") if info.name == loaded else info
        for info in store.models()
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -P -m model.service", description="The diffcoder engine process."
    )
    parser.add_argument("--model", default="default", help="name in the registry")
    parser.add_argument("--socket", type=Path, help="the Unix socket; its folder must be yours alone")
    parser.add_argument("--threads", type=int, help="CPU threads (default: what the machine has)")
    parser.add_argument(
        "--idle-seconds", type=float, default=IDLE_SECONDS, help="end after so long without work"
    )
    parser.add_argument(
        "--tcp", type=int, metavar="PORT", help="loopback TCP with a token instead; 0 for any port"
    )
    parser.add_argument(
        "--write-openapi", type=Path, metavar="PATH", help="write the HTTP description and end"
    )
    options = parser.parse_args(arguments)
    if options.write_openapi is not None:
        options.write_openapi.write_text(
            msgspec.json.format(msgspec.json.encode(openapi()), indent=1).decode() + "\n"
        )
        return 0
    if options.socket is None:
        parser.error("--socket is needed")
    try:
        return serve(
            options.model,
            options.socket,
            lambda: _load(options.model, options.threads),
            lambda: _models(options.model),
            idle_s=options.idle_seconds,
            tcp_port=options.tcp,
        )
    except DiffcoderError as error:
        print(error.message, file=sys.stderr)
        return EXIT_ALREADY_RUNNING if error.code == "already_running" else EXIT_CANNOT_START


if __name__ == "__main__":
    sys.exit(main())
