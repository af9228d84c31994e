"""JSON-RPC over two byte streams: frames in and out, requests both ways, cancellation, errors. Knows no editor.

One thread reads and one writes, so that neither a busy handler nor a client that stops reading ever holds up
the other side; all the rest happens on the event loop. A handler is a plain function of its decoded
parameters. It runs in the order the messages came in and returns the answer, or a coroutine that becomes a
task: what must see the state of its own moment is done before the first `await`. A request that is cancelled
before its coroutine ran never starts. Whatever a handler raises becomes an error reply; nothing ends the session.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import itertools
import json
import logging
import queue
import re
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, BinaryIO

import msgspec

from model.schema import DiffcoderError

log = logging.getLogger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
NOT_INITIALIZED = -32002
REQUEST_CANCELLED = -32800
CONTENT_MODIFIED = -32801
REQUEST_FAILED = -32803
_BOUND: ContextVar[Callable[[], asyncio.Timeout | None]] = ContextVar("bound", default=lambda: None)

MAX_BODY = 256_000_000
"""Bytes of a body that is read; a longer one is skipped."""

_LENGTH = re.compile(rb"content-length:[ \t]*(\d{1,18})[ \t]*\r?\n\Z", re.IGNORECASE)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

Id = int | str | None
Handler = Callable[[Any], Any]


class ReplyError(Exception):
    """An error reply with a code of the protocol's own."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code, self.message = code, message


class _Message(msgspec.Struct):
    id: int | str | msgspec.UnsetType | None = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _OnlyId(msgspec.Struct):
    id: int | str


class _Error(msgspec.Struct):
    message: str = ""
    code: int = 0


class _Cancel(msgspec.Struct):
    id: int | str


def read_frames(stream: BinaryIO) -> Iterator[bytes]:
    """The bodies on `stream` until it ends. What stands between frames is skipped: a body after a wrong length
    costs at most the frame behind it, since a `Content-Length` is also found at the end of other text."""
    length: int | None = None
    while line := stream.readline(65536):
        if match := _LENGTH.search(line):
            length = int(match[1])
        elif not line.strip() and length is not None:
            if length > MAX_BODY:
                while length and (skipped := stream.read(min(length, 1 << 20))):
                    length -= len(skipped)
            else:
                body = stream.read(length)
                if len(body) < length:
                    return
                yield body
            length = None


def take_your_time() -> None:
    """Called by a handler that may rightly take longer than a request's bound: a download."""
    if (bound := _BOUND.get()()) is not None:
        bound.reschedule(None)


def frame(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def decode_text(body: bytes) -> bytes:
    """`body` with lone surrogates, which are no text, replaced by U+FFFD: as long in every encoding."""
    loaded = json.dumps(json.loads(body), ensure_ascii=False)
    return _LONE_SURROGATE.sub("�", loaded).encode()


class Connection:
    """One client. `on` registers handlers, `start` begins to read, `closed` is set when the client has gone.

    `seconds` bounds every request: a handler that hangs is answered with an error.
    """

    def __init__(self, reader: BinaryIO, writer: BinaryIO, *, seconds: float = 900.0):
        self.closed = asyncio.Event()
        self.refuse: Callable[[str], ReplyError | None] = lambda method: None
        self.on_failure: Callable[[str, Exception], None] = lambda method, error: None
        self._reader, self._writer, self._seconds = reader, writer, seconds
        self._handlers: dict[str, tuple[Handler, Any]] = {}
        self._tasks: dict[Id, asyncio.Task[Any]] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._asked: dict[int, tuple[asyncio.Future[Any], Any]] = {}
        self._ids = itertools.count(1)
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._written = threading.Event()

    def on(self, method: str, handler: Handler, params: Any = Any) -> None:
        """Let `handler` answer `method`; its parameters are decoded as the type `params`."""
        self._handlers[method] = (handler, params)

    def start(self) -> None:
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                for body in read_frames(self._reader):
                    loop.call_soon_threadsafe(self._receive, body)
                loop.call_soon_threadsafe(self.closed.set)
            except (OSError, ValueError, RuntimeError):  # the stream or the loop was closed under us
                _quietly(loop, self.closed.set)

        def write() -> None:
            try:
                while (data := self._out.get()) is not None:
                    self._writer.write(data)
                    if self._out.empty():
                        self._writer.flush()
            except (OSError, ValueError):
                _quietly(loop, self.closed.set)
            self._written.set()

        threading.Thread(target=read, name="lsp-reader", daemon=True).start()
        threading.Thread(target=write, name="lsp-writer", daemon=True).start()

    async def close(self, seconds: float = 1.0) -> None:
        """Cancel what runs and hand over what is still to be written, for at most `seconds`."""
        tasks = [*self._tasks.values(), *self._background]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        self._out.put(None)
        await asyncio.to_thread(self._written.wait, seconds)

    def notify(self, method: str, params: Any) -> None:
        self._send({"method": method, "params": params})

    async def request(self, method: str, params: Any, result: Any = Any) -> Any:
        """Ask the client and wait for its answer, decoded as the type `result`; ReplyError for its error."""
        id = next(self._ids)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[id] = (future, result)
        self._send({"id": id, "method": method, "params": params})
        try:
            return await future
        finally:
            self._asked.pop(id, None)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` beside the requests; what it raises is reported, as a handler's would be."""
        context = contextvars.copy_context()
        context.run(_BOUND.set, lambda: None)  # it may outlive the request that it comes from
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._background.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._background.discard(task)
            if not task.cancelled() and isinstance(error := task.exception(), Exception):
                self._failed(getattr(work, "__qualname__", "a task"), error)

        task.add_done_callback(done)
        return task

    @property
    def running(self) -> int:
        """Requests of the client that have no answer yet."""
        return len(self._tasks)

    def _send(self, message: dict[str, Any]) -> None:
        self._out.put(frame(msgspec.json.encode({"jsonrpc": "2.0", **message})))

    def _reply(self, id: Id, result: Any) -> None:
        try:
            self._send({"id": id, "result": result})
        except (TypeError, UnicodeError) as error:
            self._fail(id, INTERNAL_ERROR, f"The answer could not be written ({error}).")

    def _fail(self, id: Id, code: int, message: str) -> None:
        self._send({"id": id, "error": {"code": code, "message": message}})

    def _receive(self, body: bytes) -> None:
        try:
            body.decode()  # msgspec does not look into parameters yet
            message: _Message | None = msgspec.json.decode(body, type=_Message)
        except (msgspec.MsgspecError, UnicodeError):
            message = self._second_reading(body)
        if message is None:
            return
        try:
            if message.method is msgspec.UNSET:
                self._answered(message)
            elif message.id is msgspec.UNSET:
                self._notified(message.method, message.params)
            else:
                self._requested(message.id, message.method, message.params)
        except Exception as error:  # nothing that a client sends ends the session
            self._failed("message", error)

    def _second_reading(self, body: bytes) -> _Message | None:
        """A message that is no message gets its error here; one with a lone surrogate is mended."""
        try:
            return msgspec.json.decode(decode_text(body), type=_Message)
        except msgspec.ValidationError as error:
            try:
                id: Id = msgspec.json.decode(body, type=_OnlyId).id
            except (msgspec.MsgspecError, UnicodeError):
                id = None
            self._fail(id, INVALID_REQUEST, f"This is no JSON-RPC message ({error}).")
        except (ValueError, RecursionError) as error:
            self._fail(None, PARSE_ERROR, f"This is no JSON ({error}).")
        return None

    def _decoded(self, params: Any, kind: Any) -> Any:
        """The parameters as the handler wants them."""
        raw = b"null" if params is msgspec.UNSET else bytes(params)
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.ValidationError as error:
            raise ReplyError(
                INVALID_PARAMS, f"The parameters are not what the method takes ({error})."
            ) from None
        except (msgspec.MsgspecError, UnicodeError):
            return msgspec.json.decode(decode_text(raw), type=kind)

    def _notified(self, method: str, params: Any) -> None:
        if method == "$/cancelRequest":
            task = self._tasks.get(self._decoded(params, _Cancel).id)
            if task is not None:
                task.cancel()
        elif method in self._handlers:
            handler, kind = self._handlers[method]
            try:
                work = handler(self._decoded(params, kind))
                if inspect.iscoroutine(work):
                    self.spawn(work)
            except Exception as error:
                self._failed(method, error)

    def _requested(self, id: Id, method: str, params: Any) -> None:
        refused = self.refuse(method)
        if refused is None and method not in self._handlers:
            refused = ReplyError(METHOD_NOT_FOUND, f"The method {method!r} is not known here.")
        if refused is not None:
            self._fail(id, refused.code, refused.message)
            return
        handler, kind = self._handlers[method]
        try:
            work = handler(self._decoded(params, kind))
        except Exception as error:
            self._fail(id, *self._explained(method, error))
            return
        if not inspect.iscoroutine(work):
            self._reply(id, work)
            return
        task = asyncio.ensure_future(self._bounded(work))
        self._tasks[id] = task
        task.add_done_callback(lambda task: self._finished(id, method, work, task))

    async def _bounded(self, work: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(self._seconds) as bound:
            # It knows its task. If the task knew it, a cancelled one, with the texts in its frames, would wait to be
            # collected as garbage.
            _BOUND.set(weakref.ref(bound))
            del bound
            return await work

    def _finished(self, id: Id, method: str, work: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> None:
        if self._tasks.get(id) is task:
            del self._tasks[id]
        work.close()  # it never ran if it was cancelled before its turn
        if task.cancelled():
            self._fail(id, REQUEST_CANCELLED, "The request was cancelled.")
        elif isinstance(error := task.exception(), Exception):
            self._fail(id, *self._explained(method, error))
        else:
            self._reply(id, task.result())

    def _explained(self, method: str, error: Exception) -> tuple[int, str]:
        """Code and sentence for what a handler raised."""
        if isinstance(error, ReplyError):
            return error.code, error.message
        if isinstance(error, DiffcoderError):
            return REQUEST_FAILED, error.message
        self._failed(method, error)
        if isinstance(error, TimeoutError):
            return INTERNAL_ERROR, f"{method} had no answer after {self._seconds:g} s and was given up."
        return INTERNAL_ERROR, f"{method} failed ({type(error).__name__}: {error}); the server goes on."

    def _failed(self, method: str, error: Exception) -> None:
        log.error("%s failed", method, exc_info=error)
        self.on_failure(method, error)

    def _answered(self, message: _Message) -> None:
        """The client's answer to a request of ours."""
        found = self._asked.get(message.id) if isinstance(message.id, int) else None
        if found is None or found[0].done():
            return
        future, kind = found
        if isinstance(message.error, msgspec.Raw):
            try:
                error = self._decoded(message.error, _Error)
            except ReplyError:
                error = _Error("The client refused.")
            future.set_exception(ReplyError(error.code, error.message))
            return
        try:
            future.set_result(self._decoded(message.result, kind))
        except Exception as error:
            future.set_exception(error)


def _quietly(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call on a loop that may have ended."""
    if not loop.is_closed():
        try:
            loop.call_soon_threadsafe(call)
        except RuntimeError:
            return
