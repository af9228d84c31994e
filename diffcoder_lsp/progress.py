"""Work-done progress that the server begins by itself: one bar at a time, shown where the client shows such bars."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from diffcoder_lsp.rpc import Connection, ReplyError


class Bar:
    """A bar with a title. Nothing is sent until the client has agreed to it; `end` may be called at any time."""

    def __init__(self, connection: Connection, token: str, title: str, cancellable: bool = False):
        self.token = token
        self.cancelled = False
        self._connection, self._title, self._cancellable = connection, title, cancellable
        self._message, self._percentage = "", None  # type: str, int | None
        self._begun = self._ended = False
        self._task: asyncio.Task[Any] = connection.spawn(self._create())

    def report(self, message: str, percentage: int | None = None) -> None:
        if (message, percentage) == (self._message, self._percentage):
            return
        self._message, self._percentage = message, percentage
        if self._begun and not self._ended:
            self._send({"kind": "report", **self._words()})

    def end(self, message: str = "") -> None:
        if self._begun and not self._ended:
            self._send({"kind": "end", "message": message})
        self._ended = True

    def _words(self) -> dict[str, Any]:
        words: dict[str, Any] = {"message": self._message}
        return words if self._percentage is None else words | {"percentage": self._percentage}

    def _send(self, value: dict[str, Any]) -> None:
        self._connection.notify("$/progress", {"token": self.token, "value": value})

    async def _create(self) -> None:
        try:
            await self._connection.request("window/workDoneProgress/create", {"token": self.token})
        except ReplyError:
            return  # a client that wants no bar
        if not self._ended:
            self._begun = True
            begin = {"kind": "begin", "title": self._title, "cancellable": self._cancellable}
            self._send(begin | self._words())


class Bars:
    """The bars of one session; without the client's support there are none."""

    def __init__(self, connection: Connection, supported: Callable[[], bool]):
        self._connection, self._supported = connection, supported
        self._bars: dict[str, Bar] = {}
        self._count = 0

    def begin(self, title: str, cancellable: bool = False) -> Bar | None:
        if not self._supported():
            return None
        self._count += 1
        bar = Bar(self._connection, f"diffcoder/{self._count}", title, cancellable)
        self._bars[bar.token] = bar
        return bar

    def end(self, bar: Bar | None, message: str = "") -> None:
        if bar is not None:
            bar.end(message)
            self._bars.pop(bar.token, None)

    def cancel(self, token: str | int) -> None:
        if (bar := self._bars.get(str(token))) is not None:
            bar.cancelled = True
