"""The one place that talks to the engine: requests of `model.schema` in, their answers out, over HTTP.

A client starts the engine when there is none. If the engine dies under a request, it is started again and the
request repeated, once; requests change nothing, so repeating one is safe. Closing a connection cancels its
request in the engine: that is how a cancelled task, an interrupted command or a killed editor stops the work.

It never knows editors, files on disk or models' innards. Importing it costs little: the libraries that speak HTTP come
with the first request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from diffcoder_lsp import engine_process
from diffcoder_lsp.engine_process import Progress
from model.schema import (
    SESSION_HEADER,
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

if TYPE_CHECKING:
    import asyncio

    import httpx

    from diffcoder_lsp.engine_connections import Connections

OnDraft = Callable[[Draft], None]
Request = FillRequest | EditRequest | ScoreRequest
T = TypeVar("T")

# An engine has ended every request by its own deadline (10 minutes); silence beyond that is an engine that
# hangs.
SILENCE_SECONDS = 660.0
ATTEMPTS = 2


class _Models(msgspec.Struct):
    data: tuple[ModelInfo, ...]


class _Reply:
    """One answer as its bytes arrive: drafts go to the callback, what ends it is kept."""

    def __init__(self, kind: type[T], on_draft: OnDraft | None):
        self.kind: Any = kind
        self.on_draft = on_draft
        self.answer: Any = None
        self._event = b""
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """A piece of an event stream. Its lines end in \\n alone: text may hold other line separators."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.partition(b": ")
            if name == b"event":
                self._event = value
            elif name == b"data":
                self._data(value)

    def body(self, status: int, content: bytes) -> None:
        """A whole body. Health is an answer also with the 503 of an engine that is not ready."""
        if status != 200 and self.kind is not Health:
            raise _error(content, status)
        self.answer = msgspec.json.decode(content, type=self.kind)

    def _data(self, data: bytes) -> None:
        if self._event == b"draft" and self.on_draft is not None:
            self.on_draft(msgspec.json.decode(data, type=Draft))
        elif self._event == b"answer":
            self.answer = msgspec.json.decode(data, type=self.kind)
        elif self._event == b"problem":
            raise _error(data, 500)

    def whole(self) -> Any:
        """The answer; a stream that ended without one is a connection that broke."""
        if self.answer is None:
            raise ConnectionError("the stream ended before its answer")
        return self.answer


def _error(content: bytes, status: int) -> DiffcoderError:
    problem = msgspec.json.decode(content, type=Problem)
    return DiffcoderError(problem.code, problem.message, status)


def _call(path: str, request: Request, on_draft: OnDraft | None, session: str | None) -> dict[str, Any]:
    """The arguments of one request."""
    if not isinstance(request, ScoreRequest):
        request = msgspec.structs.replace(request, stream=on_draft is not None)
    headers = {"content-type": "application/json"}
    if session is not None:
        headers[SESSION_HEADER] = session
    return {"method": "POST", "path": path, "headers": headers, "body": msgspec.json.encode(request)}


def _get(path: str) -> dict[str, Any]:
    return {"method": "GET", "path": path, "headers": {}, "body": b""}


def _is_stream(content_type: str) -> bool:
    return content_type.startswith("text/event-stream")


def _is_lost(error: Exception) -> bool:
    """Whether after this error the connections lead nowhere; other refusals leave them as good as before."""
    return not isinstance(error, DiffcoderError) or error.code == "stopping"


class _Base:
    def __init__(self, model: str, *, start: bool, threads: int | None, on_progress: Progress | None):
        self.model = model
        self._start, self._threads, self._on_progress = start, threads, on_progress

    def _endpoint(self, look_first: bool) -> Endpoint:
        """Where to send a request; blocks while an engine starts. `look_first` trusts one that is there."""
        endpoint = engine_process.find(self.model) if look_first or not self._start else None
        if endpoint is not None and endpoint.protocol == engine_process.PROTOCOL_VERSION:
            return endpoint
        if self._start:
            return engine_process.ensure(self.model, threads=self._threads, on_progress=self._on_progress)
        if endpoint is not None:
            raise DiffcoderError(
                "engine_version",
                "The engine is of another version; run `diffcoder engine stop`, then start it.",
                503,
            )
        raise DiffcoderError(
            "engine_down", f"No engine runs for {self.model!r}; run `diffcoder engine start`.", 503
        )

    def _may_retry(self, error: Exception, attempt: int) -> bool:
        """Whether a failed attempt is worth another; raises what the caller should see when it is not."""
        if isinstance(error, DiffcoderError):
            if error.code not in ("engine_died", "stopping") or not self._start or attempt == ATTEMPTS:
                raise error
            return True
        if isinstance(error, TimeoutError):
            raise DiffcoderError(
                "engine_silent", "The engine does not answer; run `diffcoder engine stop` and ask again.", 504
            ) from error
        if isinstance(error, msgspec.MsgspecError):
            raise DiffcoderError(
                "engine_version",
                "The engine is of another version; run `diffcoder engine stop`, ask again.",
                502,
            ) from error
        if not isinstance(error, ConnectionError):
            raise error
        if attempt == ATTEMPTS:
            raise engine_process.died("twice" if self._start else "before its answer") from error
        return True


class EngineClient(_Base):
    """Blocking client for commands and scripts. Starts the engine of `model` when there is none.

    `start=False` raises DiffcoderError("engine_down") instead. `on_progress` hears what a starting engine is
    doing. An interrupt (KeyboardInterrupt) out of a call cancels the request.
    """

    def __init__(
        self,
        model: str = "default",
        *,
        start: bool = True,
        threads: int | None = None,
        on_progress: Progress | None = None,
    ):
        super().__init__(model, start=start, threads=threads, on_progress=on_progress)
        self._http: httpx.Client | None = None

    def fill(
        self, request: FillRequest, on_draft: OnDraft | None = None, *, session: str | None = None
    ) -> FillResponse:
        """Fill a gap; `on_draft` hears every step. A newer fill of the same `session` supersedes this one."""
        return self._send(_call("/v1/fill", request, on_draft, session), FillResponse, on_draft)

    def edit(
        self, request: EditRequest, on_draft: OnDraft | None = None, *, session: str | None = None
    ) -> EditResponse:
        return self._send(_call("/v1/edit", request, on_draft, session), EditResponse, on_draft)

    def score(self, request: ScoreRequest) -> ScoreResponse:
        return self._send(_call("/v1/score", request, None, None), ScoreResponse)

    def health(self) -> Health:
        return self._send(_get("/health"), Health)

    def models(self) -> list[ModelInfo]:
        return list(self._send(_get("/v1/models"), _Models).data)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def __enter__(self) -> EngineClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: dict[str, Any], kind: type[T], on_draft: OnDraft | None = None) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._attempt(call, kind, on_draft, first=attempt == 1)
            except Exception as error:
                if _is_lost(error):
                    self.close()
                self._may_retry(error, attempt)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, call: dict[str, Any], kind: type[T], on_draft: OnDraft | None, first: bool) -> T:
        import httpx

        if self._http is None:
            endpoint = self._endpoint(first)
            # A transport of its own takes no proxy from the environment; `verify` only spares it reading certificates.
            self._http = httpx.Client(
                base_url=f"http://{engine_process.host_of(endpoint)}",
                headers=engine_process.headers_of(endpoint),
                transport=httpx.HTTPTransport(verify=False, uds=engine_process.socket_of(endpoint)),
                timeout=httpx.Timeout(10, read=SILENCE_SECONDS),
            )
        reply = _Reply(kind, on_draft)
        try:
            with self._http.stream(
                call["method"], call["path"], headers=call["headers"], content=call["body"]
            ) as response:
                if _is_stream(response.headers.get("content-type", "")):
                    for chunk in response.iter_bytes():
                        reply.feed(chunk)
                else:
                    reply.body(response.status_code, response.read())
        except httpx.TimeoutException as error:
            raise TimeoutError(str(error)) from error
        except httpx.TransportError as error:
            raise ConnectionError(str(error)) from error
        return reply.whole()


class AsyncEngineClient(_Base):
    """`EngineClient` for the language server: cancelling the task that awaits a call cancels its request."""

    def __init__(
        self,
        model: str = "default",
        *,
        start: bool = True,
        threads: int | None = None,
        on_progress: Progress | None = None,
    ):
        super().__init__(model, start=start, threads=threads, on_progress=on_progress)
        self._connections: Connections | None = None
        self._connecting: asyncio.Lock | None = None

    async def fill(
        self, request: FillRequest, on_draft: OnDraft | None = None, *, session: str | None = None
    ) -> FillResponse:
        return await self._send(_call("/v1/fill", request, on_draft, session), FillResponse, on_draft)

    async def edit(
        self, request: EditRequest, on_draft: OnDraft | None = None, *, session: str | None = None
    ) -> EditResponse:
        return await self._send(_call("/v1/edit", request, on_draft, session), EditResponse, on_draft)

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        return await self._send(_call("/v1/score", request, None, None), ScoreResponse)

    async def health(self) -> Health:
        return await self._send(_get("/health"), Health)

    async def models(self) -> list[ModelInfo]:
        return list((await self._send(_get("/v1/models"), _Models)).data)

    async def close(self) -> None:
        """Close the connections; requests that still wait for an answer are cancelled in the engine."""
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()

    async def __aenter__(self) -> AsyncEngineClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, call: dict[str, Any], kind: type[T], on_draft: OnDraft | None = None) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            connections = None
            try:
                connections = await self._connected(first=attempt == 1)
                return await self._attempt(connections, call, kind, on_draft)
            except Exception as error:
                if connections is not None and connections is self._connections and _is_lost(error):
                    # Requests that an ending engine had accepted still get their answers.
                    connections.retire()
                    self._connections = None
                self._may_retry(error, attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _connected(self, first: bool) -> Connections:
        """The connections in use; of the requests that lost their engine together, one starts the next."""
        import asyncio

        from diffcoder_lsp.engine_connections import Connections

        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if self._connections is None:
                endpoint = await asyncio.to_thread(self._endpoint, first)
                self._connections = Connections(endpoint, SILENCE_SECONDS)
            return self._connections

    async def _attempt(
        self, connections: Connections, call: dict[str, Any], kind: type[T], on_draft: OnDraft | None
    ) -> T:
        reply = _Reply(kind, on_draft)
        async with connections.request(**call) as answer:
            if _is_stream(answer.content_type):
                async for piece in answer.body:
                    reply.feed(piece)
            else:
                reply.body(answer.status, b"".join([piece async for piece in answer.body]))
        return reply.whole()
