"""The language server's view of its engine: is it there, how fast is it, what was sent, what went wrong.

Wraps `AsyncEngineClient`: starts the engine in the background, measures, keeps the last prompts, allows one
request at a time for a document (a newer one supersedes the older), and reports each kind of failure once
until something works again. Knows no protocol.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from diffcoder_lsp.engine_client import AsyncEngineClient, OnDraft
from diffcoder_lsp.protocol import State
from model.schema import DiffcoderError, EditRequest, EditResponse, FillRequest, FillResponse, Usage

T = TypeVar("T")
RETRY_SECONDS = 30.0
"""After a failed start, automatic suggestions leave the engine alone for so long."""
POLL_SECONDS = 0.3
_PASSING = frozenset({"superseded", "cancelled", "deadline", "busy", "bad_request", "too_long", "too_large"})
"""Codes that say nothing of the engine's health."""


class Superseded(Exception):
    """A newer request of the same document took this one's place."""


def _is_being_cancelled() -> bool:
    """Of the task that asks. A function, since a frame that names its own task keeps it until garbage is collected."""
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0


class Latest:
    """At most one running piece of work a key: the newest."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def run(self, key: str, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, for which the older work of `key` is cancelled; Superseded when that happens to it."""
        older = self._tasks.get(key)
        if older is not None:
            older.cancel()
        task = self._tasks[key] = asyncio.ensure_future(work)
        try:
            return await task
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            raise Superseded from None
        finally:
            work.close()
            if self._tasks.get(key) is task:
                del self._tasks[key]

    def cancel(self, key: str) -> None:
        if key in self._tasks:
            self._tasks[key].cancel()


class EngineLink:
    """`on_change` is called when `state` or a number of it changed, `on_problem` once for each kind of failure."""

    def __init__(
        self,
        client: AsyncEngineClient,
        on_change: Callable[[], None],
        on_problem: Callable[[DiffcoderError], None],
    ):
        self.model = client.model
        self.state: State = "off"
        self.last_error = ""
        self.model_missing = False
        self.fill_ms: float | None = None
        self.tokens_per_second = self.tokens_per_forward = self.confidence = 0.0
        self.prompts: dict[str, FillRequest | EditRequest] = {}
        self.latest = Latest()
        self._client = client
        self._on_change, self._on_problem = on_change, on_problem
        self._told: set[str] = set()
        self._failed_at = 0.0
        self._warming: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    def warm(self) -> None:
        """Start the engine in the background, unless that is under way or failed a moment ago."""
        if self._warming is not None and not self._warming.done():
            return
        if self.state == "failed" and time.monotonic() - self._failed_at < RETRY_SECONDS:
            return
        self._warming = asyncio.ensure_future(self._warm())

    def restarting(self) -> None:
        """The engine is being started again under a request."""
        if self.state == "ready":
            self._set("starting")

    def retry(self) -> None:
        """Forget a failure: what was missing may be here now."""
        self._told.clear()
        self._failed_at = 0.0

    async def fill(self, uri: str, request: FillRequest, on_draft: OnDraft | None = None) -> FillResponse:
        answer = await self._call(uri, request, self._client.fill(request, on_draft))
        took = answer.usage.ms
        self.fill_ms = took if self.fill_ms is None else 0.7 * self.fill_ms + 0.3 * took
        self._measured(answer.usage, answer.confidence)
        return answer

    async def edit(self, uri: str, request: EditRequest, on_draft: OnDraft | None = None) -> EditResponse:
        answer = await self._call(uri, request, self._client.edit(request, on_draft))
        self._measured(answer.usage, answer.confidence)
        return answer

    async def close(self) -> None:
        if self._warming is not None:
            self._warming.cancel()
        await self._client.close()

    async def _call(self, uri: str, request: FillRequest | EditRequest, work: Coroutine[Any, Any, T]) -> T:
        self.prompts.pop(uri, None)
        self.prompts[uri] = request
        while len(self.prompts) > 32:
            del self.prompts[next(iter(self.prompts))]
        if self.state != "ready":
            self._set("starting")
        try:
            answer = await work
        except DiffcoderError as error:
            if error.code not in _PASSING:
                self._failed(error)
            elif self.state == "starting":
                self._set("ready")
            raise
        except asyncio.CancelledError:
            if self.state == "starting":
                self.warm()  # the engine starts nevertheless, and somebody has to see that it did
            raise
        self._told.clear()
        self._set("ready")
        return answer

    async def _warm(self) -> None:
        if self.state != "ready":
            self._set("starting")
        try:
            while (await self._client.health()).state == "loading":
                await asyncio.sleep(POLL_SECONDS)
        except DiffcoderError as error:
            self._failed(error)
        except asyncio.CancelledError:
            self._set("off")
            raise
        else:
            self._set("ready")

    def _failed(self, error: DiffcoderError) -> None:
        self.last_error, self._failed_at = error.message, time.monotonic()
        self.model_missing = error.code == "model_missing"
        self._set("failed")
        if error.code not in self._told:
            self._told.add(error.code)
            self._on_problem(error)

    def _set(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._on_change()

    def _measured(self, usage: Usage, confidence: float) -> None:
        seconds = max(usage.ms - usage.prefill_ms, 1) / 1000
        self.tokens_per_second = usage.tokens / seconds
        self.tokens_per_forward = usage.tokens / max(1, usage.forwards)
        self.confidence = confidence
        self._on_change()


def shown(request: FillRequest | EditRequest) -> str:
    """A request as `diffcoder.showPrompt` gives it: exactly what the engine was sent."""
    return msgspec.json.format(msgspec.json.encode(request), indent=2).decode()
