"""The connections to one engine from within an event loop: HTTP/1.1 by h11, over asyncio's own streams.

A client library above these would take longer for a request than the whole server has for a key. Knows nothing of
what requests and answers mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11

from diffcoder_lsp import engine_process
from model.schema import Endpoint

CONNECT_SECONDS = 10.0
_READ_BYTES = 1 << 16


@dataclass
class Answer:
    """An answer whose head has arrived; its body is read once, piece by piece."""

    status: int
    content_type: str
    body: AsyncIterator[bytes]


class _Connection:
    """One connection, for one request at a time. TimeoutError where the engine takes or sends nothing for so long."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silence_seconds: float):
        self._reader, self._writer, self._silence = reader, writer, silence_seconds
        self._http = h11.Connection(h11.CLIENT)

    @property
    def is_open(self) -> bool:
        return not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        """At once: what the engine has not sent by now nobody waits for."""
        self._writer.transport.abort()

    async def send(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        request = h11.Request(method=method, target=path, headers=list(headers.items()))
        parts = (
            self._http.send(request),
            self._http.send(h11.Data(body)),
            self._http.send(h11.EndOfMessage()),
        )
        self._writer.write(b"".join(part for part in parts if part))
        async with asyncio.timeout(self._silence):
            await self._writer.drain()

    async def head(self) -> h11.Response:
        while not isinstance(event := await self._event(), h11.Response):
            pass  # an interim answer
        return event

    async def body(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._event(), h11.Data):
            yield bytes(event.data)

    def reuse(self) -> bool:
        """Whether another request may follow on it."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return self.is_open

    async def _event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(self._silence):
                self._http.receive_data(await self._reader.read(_READ_BYTES))
        return event


class Connections:
    """Connections to the engine at `endpoint`, kept for the next request. `silence_seconds` is how long to wait for the
    next byte of an answer."""

    def __init__(self, endpoint: Endpoint, silence_seconds: float):
        self._endpoint, self._silence = endpoint, silence_seconds
        self._headers = {"host": engine_process.host_of(endpoint), **engine_process.headers_of(endpoint)}
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._retired = False

    @asynccontextmanager
    async def request(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> AsyncIterator[Answer]:
        """Send a request; leaving before its answer's end closes the connection, which cancels it in the engine.

        Raises ConnectionError where the engine has gone, TimeoutError where it is silent.
        """
        headers = self._headers | headers | {"content-length": str(len(body))}
        connection = await self._connection()
        self._busy.add(connection)
        try:
            await connection.send(method, path, headers, body)
            head = await connection.head()
            kind = next((value for name, value in head.headers if name == b"content-type"), b"")
            yield Answer(head.status_code, kind.decode("latin-1"), connection.body())
        except TimeoutError:
            raise
        except (OSError, h11.ProtocolError) as error:
            raise ConnectionError(f"the engine's connection broke: {error}") from error
        finally:
            self._busy.discard(connection)
            if connection.reuse() and not self._retired:
                self._idle.append(connection)
            else:
                connection.close()

    def retire(self) -> None:
        """No more requests: connections are closed as their answers end."""
        self._retired = True
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Close all; requests that still wait for an answer are cancelled in the engine."""
        self.retire()
        for connection in self._busy:
            connection.close()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            connection.close()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if (path := engine_process.socket_of(self._endpoint)) is not None:
                    streams = await asyncio.open_unix_connection(path)
                else:
                    host, port = engine_process.host_of(self._endpoint).split(":")
                    streams = await asyncio.open_connection(host, int(port))
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionError(f"the engine does not listen: {error}") from error
        return _Connection(*streams, self._silence)
