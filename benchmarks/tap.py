"""A wire between the language server and its engine that counts what passes: which requests are alive, and how many.

A request is alive from its first byte until its answer's first byte or until the server closes the connection, which
is how it cancels. It changes nothing, and knows of HTTP only what a request of ours begins with.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

import msgspec

from model.schema import Endpoint

_WORK = (b"POST /v1/fill", b"POST /v1/edit")


class Tap:
    """Stands where clients look for the engine of `name` below `home`, and leads to `engine`."""

    def __init__(self, home: Path, name: str, engine: Endpoint):
        self.calls = 0
        self.most_alive = 0
        self._alive: set[int] = set()
        self._engine = engine.address.removeprefix("unix:")
        folder = home / "engine"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._socket = folder / f"{name}.sock"
        self._loop = asyncio.new_event_loop()
        self._pumps: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="tap", daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait()
        here = msgspec.structs.replace(engine, address=f"unix:{self._socket}")
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(here))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        async def listen() -> None:
            await asyncio.start_unix_server(self._connected, self._socket)
            self._ready.set()

        self._loop.create_task(listen())
        self._loop.run_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, thither = await asyncio.open_unix_connection(self._engine)
        except OSError:
            writer.close()
            return
        number = id(writer)
        back = asyncio.create_task(self._pump(there, writer, number, asked=False))
        self._pumps.add(back)
        back.add_done_callback(self._pumps.discard)
        await self._pump(reader, thither, number, asked=True)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, number: int, *, asked: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if not asked:
                    self._alive.discard(number)
                elif data.startswith(_WORK):
                    self.calls += 1
                    self._alive.add(number)
                    # The end of another connection may have come before this and be seen a moment later.
                    self._loop.call_later(0.005, self._count, number)
                sink.write(data)
                await sink.drain()
        self._alive.discard(number)
        sink.close()

    def _count(self, number: int) -> None:
        if number in self._alive:
            self.most_alive = max(self.most_alive, len(self._alive))
