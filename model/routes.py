"""The engine over HTTP: its routes, who may ask at all, and their description. An ASGI app, whatever it listens on.

It reads nothing that a request names, has no route that changes anything, and answers no browser: a request with an
Origin is refused. It knows nothing of sockets, processes and models, and not how text becomes tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import importlib.metadata
import itertools
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from model import compat
from model.engine import Engine, OnDraft, Request, Ticket
from model.schema import (
    PROTOCOL_VERSION,
    SESSION_HEADER,
    DiffcoderError,
    Draft,
    EditRequest,
    EditResponse,
    FillRequest,
    FillResponse,
    Health,
    ModelInfo,
    Problem,
    ScoreRequest,
    ScoreResponse,
)

MAX_BODY_BYTES = 16 * 2**20
BODY_SECONDS = 30.0
MAX_SESSION_CHARS = 128

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
