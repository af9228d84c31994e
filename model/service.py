"""The engine process: HTTP on a socket that is its user's alone, in front of `model.engine`.

    python -P -m model.service --model NAME --socket PATH

`-P` keeps the current folder off the import path, so that a workspace with a `model/` of its own changes
nothing. Beside PATH lie the files of the same stem: `.lock` (held for life: one engine a model), `.json`
(where it listens, a `schema.Endpoint`), `.log` (bounded). It reads nothing that a request names, has no route
that changes anything, and answers no browser: a request with an Origin is refused. It never knows how text
becomes tokens, which model families exist, or who its clients are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import importlib.metadata
import itertools
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
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from model import compat
from model.engine import Engine, Generator, OnDraft, Request, Ticket
from model.schema import (
    PROTOCOL_VERSION,
    DiffcoderError,
    Draft,
    EditRequest,
    EditResponse,
    Endpoint,
    FillRequest,
    FillResponse,
    Health,
    ModelInfo,
    Problem,
    ScoreRequest,
    ScoreResponse,
)

log = logging.getLogger("diffcoder.service")

MAX_BODY_BYTES = 16 * 2**20
BODY_SECONDS = 30.0
MAX_SESSION_CHARS = 128
MAX_CONNECTIONS = 512
MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 107 on Linux, 103 on macOS
IDLE_SECONDS = 1800.0
SESSION_HEADER = "diffcoder-session"

EXIT_CANNOT_START = 1
EXIT_ALREADY_RUNNING = 3

T = TypeVar("T")


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/models`, in OpenAI's shape with our fields added."""

    object: str = "list"
    data: tuple[ListedModel, ...]


class ListedModel(ModelInfo, frozen=True, kw_only=True):
    id: str
    object: str = "model"


def version() -> str:
    try:
        return importlib.metadata.version("diffcoder")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


class Service:
    """The routes, over one engine that serves one model. `models` lists the registry as this disk has it."""

    def __init__(self, engine: Engine, model: str, models: Callable[[], list[ModelInfo]]):
        self.engine, self.model, self.models = engine, model, models
        self._numbers = itertools.count(1)
        self.routes = [
            Route("/v1/fill", self.fill, methods=["POST"]),
            Route("/v1/edit", self.edit, methods=["POST"]),
            Route("/v1/score", self.score, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/infill", self.infill, methods=["POST"]),
            Route("/v1/models", self.list_models, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def fill(self, http: HttpRequest) -> ASGIApp:
        return await self._answer(http, await _decoded(http, FillRequest))

    async def edit(self, http: HttpRequest) -> ASGIApp:
        return await self._answer(http, await _decoded(http, EditRequest))

    async def score(self, http: HttpRequest) -> ASGIApp:
        return await self._answer(http, await _decoded(http, ScoreRequest))

    async def completions(self, http: HttpRequest) -> Response:
        try:
            asked = await _decoded(http, compat.Completion)
            request = compat.fill_of_completion(asked)
            answer = await self._outcome(http, self._submit(http, request))
        except DiffcoderError as error:
            return self._problem(error, compat.error_of(error.problem()))
        reply = compat.completion_of_fill(answer, next(self._numbers))
        return _in_one_piece(reply, b"data: [DONE]\n\n") if asked.stream else _json(reply)

    async def infill(self, http: HttpRequest) -> Response:
        try:
            asked = await _decoded(http, compat.Infill)
            answer = await self._outcome(http, self._submit(http, compat.fill_of_infill(asked)))
        except DiffcoderError as error:
            return self._problem(error, compat.error_of(error.problem()))
        reply = compat.infill_of_fill(asked, answer)
        return _in_one_piece(reply) if asked.stream else _json(reply)

    async def list_models(self, http: HttpRequest) -> Response:
        listed = await asyncio.to_thread(self.models)
        data = tuple(ListedModel(id=info.name, **msgspec.structs.asdict(info)) for info in listed)
        return _json(ModelList(data=data))

    async def health(self, http: HttpRequest) -> Response:
        """200 when ready, 503 while loading or stopping; the same body either way."""
        health = self._health()
        return _json(health, 200 if health.state == "ready" else 503)

    async def metrics(self, http: HttpRequest) -> Response:
        return Response(self._metrics(), media_type="text/plain; version=0.0.4")

    def _health(self) -> Health:
        stats = self.engine.stats()
        return Health(
            state=stats.state,
            model=self.model,
            version=version(),
            protocol=PROTOCOL_VERSION,
            pid=os.getpid(),
            running=stats.running,
            waiting=stats.waiting,
            uptime_s=stats.uptime_s,
            rss_bytes=rss_bytes(),
            tokens=stats.tokens,
            forwards=stats.forwards,
            ms_per_forward={str(rows): round(ms, 2) for rows, ms in self.engine.ms_per_forward.items()},
        )

    def _metrics(self) -> str:
        stats = self.engine.stats()
        lines = []
        for name, kind, value in (
            ("requests_running", "gauge", stats.running),
            ("requests_waiting", "gauge", stats.waiting),
            ("ready", "gauge", int(stats.state == "ready")),
            ("uptime_seconds", "gauge", stats.uptime_s),
            ("resident_memory_bytes", "gauge", rss_bytes()),
            ("tokens_total", "counter", stats.tokens),
            ("forwards_total", "counter", stats.forwards),
            ("prefill_tokens_total", "counter", stats.prefill_tokens),
            ("cached_tokens_total", "counter", stats.cached_tokens),
            ("busy_seconds_total", "counter", stats.busy_s),
            ("wait_seconds_total", "counter", stats.wait_s),
        ):
            lines += [f"# TYPE diffcoder_{name} {kind}", f"diffcoder_{name} {value}"]
        lines.append("# TYPE diffcoder_requests_total counter")
        for (request_kind, outcome), count in sorted(stats.requests.items()):
            lines.append(f'diffcoder_requests_total{{kind="{request_kind}",outcome="{outcome}"}} {count}')
        return "\n".join(lines) + "\n"

    def _submit(self, http: HttpRequest, request: Request, on_draft: OnDraft | None = None) -> Ticket:
        if request.model is not None and request.model != self.model:
            raise DiffcoderError(
                "wrong_model",
                f"This engine serves {self.model!r}, not {request.model!r}; start one for it.",
                404,
            )
        session = http.headers.get(SESSION_HEADER)
        if session is not None and len(session) > MAX_SESSION_CHARS:
            raise DiffcoderError("bad_request", f"A session name has at most {MAX_SESSION_CHARS} characters.")
        return self.engine.submit(request, session=session, on_draft=on_draft)

    async def _answer(self, http: HttpRequest, request: Request) -> ASGIApp:
        if isinstance(request, ScoreRequest) or not request.stream:
            return _json(await self._outcome(http, self._submit(http, request)))
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        # Every draft holds the whole text so far: for a slow reader the newest is enough.
        latest: deque[Draft] = deque(maxlen=1)

        def on_draft(draft: Draft) -> None:
            latest.append(draft)
            with contextlib.suppress(RuntimeError):  # the loop has closed: the process is ending
                loop.call_soon_threadsafe(news.set)

        return self._events(self._submit(http, request, on_draft), latest, news)

    def _events(self, ticket: Ticket, latest: deque[Draft], news: asyncio.Event) -> ASGIApp:
        """A response of drafts, then one `answer` or `problem`; the client's going cancels the ticket."""

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            async def event(name: str, body: msgspec.Struct) -> None:
                data = b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(body))
                await send({"type": "http.response.body", "body": data, "more_body": True})

            with self._watched(ticket, receive) as (done, gone):
                for end in (done, gone):
                    end.add_done_callback(lambda _: news.set())
                headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                while not (done.done() or gone.done()):
                    await news.wait()
                    news.clear()
                    while latest:
                        await event("draft", latest.popleft())
                if not done.done():
                    return
                try:
                    await event("answer", done.result())
                except DiffcoderError as error:
                    await event("problem", error.problem())
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        return respond

    async def _outcome(self, http: HttpRequest, ticket: Ticket) -> Any:
        """The ticket's answer or its DiffcoderError; ClientDisconnect if the client goes first."""
        with self._watched(ticket, http.receive) as (done, gone):
            await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise ClientDisconnect
            return done.result()

    @contextlib.contextmanager
    def _watched(
        self, ticket: Ticket, receive: Receive
    ) -> Iterator[tuple[asyncio.Future[Any], asyncio.Future[None]]]:
        """Two futures: the ticket's end and the client's going.

        The ticket is held to its deadline while it waits, and cancelled when the handler leaves before its
        end.
        """
        loop = asyncio.get_running_loop()
        done = asyncio.wrap_future(ticket.future, loop=loop)
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        gone = asyncio.ensure_future(_disconnected(receive))
        timer = loop.call_later(max(0.0, ticket.deadline - time.monotonic()), self.engine.expire, ticket)
        try:
            yield done, gone
        finally:
            gone.cancel()
            timer.cancel()
            self.engine.cancel(ticket)

    def _problem(self, error: DiffcoderError, body: msgspec.Struct) -> Response:
        headers = {"Retry-After": str(self.engine.retry_after_s())} if error.status == 503 else {}
        return _json(body, error.status, headers)

    def app(self, guard: Callable[[ASGIApp], ASGIApp]) -> ASGIApp:
        async def on_problem(http: HttpRequest, error: Exception) -> Response:
            assert isinstance(error, DiffcoderError)
            return self._problem(error, error.problem())

        async def on_http_error(http: HttpRequest, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            known = ", ".join(route.path for route in self.routes)
            if error.status_code == 405:
                text = f"{http.url.path} takes {(error.headers or {}).get('Allow')}, not {http.method}."
            else:
                text = f"There is nothing at this path; the engine knows {known}."
            problem = Problem(code="no_route", message=text)
            return _json(problem, error.status_code, dict(error.headers or {}))

        async def on_gone(http: HttpRequest, error: Exception) -> Response:
            return Response(status_code=499)  # nobody reads it

        async def on_bug(http: HttpRequest, error: Exception) -> Response:
            text = f"The engine failed ({type(error).__name__}); `diffcoder engine logs` has more."
            return _json(Problem(code="internal", message=text), 500)

        handlers: dict[Any, Callable[[HttpRequest, Exception], Awaitable[Response]]] = {
            DiffcoderError: on_problem,
            HTTPException: on_http_error,
            ClientDisconnect: on_gone,
            Exception: on_bug,
        }
        app = Starlette(routes=self.routes, exception_handlers=handlers)
        app.router.redirect_slashes = False
        return guard(app)


@dataclass(frozen=True)
class Guard:
    """Who may speak to the engine at all; wraps the app, so no route can be forgotten.

    `token` and `hosts` are None on a Unix socket, where the kernel says who the peer is.
    """

    app: ASGIApp
    token: str | None = None
    hosts: frozenset[str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        assert scope["type"] == "http"
        refusal = self.refusal(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        )
        await (self.app if refusal is None else refusal)(scope, receive, send)

    def refusal(self, headers: dict[str, str]) -> Response | None:
        """`headers` with lower-case names. A page can not keep its browser from sending Origin."""
        if "origin" in headers:
            return _json(Problem(code="forbidden", message="The engine answers no browsers."), 403)
        if self.hosts is not None and headers.get("host", "").lower() not in self.hosts:
            return _json(Problem(code="forbidden", message="The engine answers on loopback names only."), 403)
        if self.token is not None:
            given = headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1")
            if not hmac.compare_digest(given, self.token.encode()):
                text = "Send `Authorization: Bearer TOKEN` with the token from the engine's .json file."
                return _json(Problem(code="unauthorized", message=text), 401, {"WWW-Authenticate": "Bearer"})
        return None


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


def rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no /proc: the peak is the nearest thing
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


async def _decoded(http: HttpRequest, kind: type[T]) -> T:
    """The body as a request; DiffcoderError says what is wrong. Nothing is held beyond MAX_BODY_BYTES."""
    too_large = DiffcoderError("too_large", f"A request body has at most {MAX_BODY_BYTES >> 20} MB.", 413)
    length = http.headers.get("content-length", "0")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in http.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise DiffcoderError(
            "slow", f"The body took longer than {BODY_SECONDS:.0f} s to arrive.", 408
        ) from None
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise DiffcoderError("bad_request", f"The request does not fit its schema: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DiffcoderError("bad_request", f"The request body is not valid JSON: {error}.") from None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(body: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def _in_one_piece(reply: msgspec.Struct, end: bytes = b"") -> Response:
    """An event stream of a single event, for clients that ask for a stream.

    A stop rule may shorten a filling after its tokens were committed, and those clients cannot take text
    back: they get it when it is final.
    """
    return Response(b"data: %s\n\n%s" % (msgspec.json.encode(reply), end), media_type="text/event-stream")


# What the routes take and give, for docs/openapi.json: path, method, summary, request, answer, whether it can
# stream.
CONTRACT: tuple[tuple[str, str, str, Any, Any, bool], ...] = (
    ("/v1/fill", "post", "Write the text between a prefix and a suffix", FillRequest, FillResponse, True),
    ("/v1/edit", "post", "Rewrite lines as an instruction says", EditRequest, EditResponse, True),
    ("/v1/score", "post", "Log-probability of each token of a text", ScoreRequest, ScoreResponse, False),
    ("/v1/models", "get", "The models of the registry, as this disk has them", None, ModelList, False),
    ("/health", "get", "State of the engine; 503 while it loads or stops", None, Health, False),
    ("/metrics", "get", "Counters and gauges for Prometheus", None, None, False),
    (
        "/v1/completions",
        "post",
        "OpenAI's completion, with suffix",
        compat.Completion,
        compat.CompletionAnswer,
        True,
    ),
    ("/infill", "post", "llama.cpp's infill", compat.Infill, compat.InfillAnswer, True),
)


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 description, made from the schema's own types."""
    types = [Problem, Draft, compat.OpenAIProblem]
    for _, _, _, asked, given, _ in CONTRACT:
        types += [kind for kind in (asked, given) if kind is not None]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")

    def content(kind: Any) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}

    paths: dict[str, Any] = {}
    for path, method, summary, asked, given, streams in CONTRACT:
        answer = content(given) if given is not None else {"text/plain": {"schema": {"type": "string"}}}
        if streams:
            answer["text/event-stream"] = {"schema": {"type": "string"}}
        problem = compat.OpenAIProblem if asked in (compat.Completion, compat.Infill) else Problem
        operation: dict[str, Any] = {
            "summary": summary,
            "responses": {"200": {"description": "OK", "content": answer}},
        }
        if asked is not None:
            operation["requestBody"] = {"required": True, "content": content(asked)}
        operation["responses"]["default"] = {"description": "What went wrong", "content": content(problem)}
        paths[path] = {method: operation}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "diffcoder engine",
            "version": str(PROTOCOL_VERSION),
            "description": (
                "HTTP on a Unix socket, or on loopback TCP with a bearer token. With `stream: true`, fill "
                "and edit answer with server-sent events: any number of `draft` (Draft), then one `answer` "
                f"(the response) or `problem` (Problem). A `{SESSION_HEADER}` header names a stream of "
                "requests of which only the newest matters. A closed connection cancels its request."
            ),
        },
        "paths": paths,
        "components": {"schemas": components},
    }


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
