"""What a request leaves behind once it is over."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref

import msgspec

from diffcoder_lsp.engine_link import Latest
from diffcoder_lsp.rpc import Connection, frame, read_frames


class Text:
    """Something large that a handler holds."""


def test_a_cancelled_request_keeps_nothing_until_garbage_is_collected():
    """Neither the request's own task nor one that it started may know itself through the exception that ended it."""
    held = []

    async def session():
        (server_in, to_server), (from_server, server_out) = os.pipe(), os.pipe()
        with open(server_in, "rb") as reader, open(server_out, "wb") as writer:
            connection, latest = Connection(reader, writer), Latest()

            async def wait(text):
                await asyncio.sleep(60 if text else 0)

            async def handler(params):
                text = Text()
                held.append(weakref.ref(text))
                await latest.run("key", wait(text))

            connection.on("wait", handler)
            connection.start()
            with open(to_server, "wb", buffering=0) as client, open(from_server, "rb") as answers:
                replies = read_frames(answers)
                for id in range(3):
                    client.write(frame(msgspec.json.encode({"jsonrpc": "2.0", "id": id, "method": "wait"})))
                    while len(held) == id:
                        await asyncio.sleep(0.01)
                    cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id}}
                    client.write(frame(msgspec.json.encode(cancel)))
                    reply = msgspec.json.decode(await asyncio.to_thread(next, replies))
                    assert (reply["id"], reply["error"]["code"]) == (id, -32800)
            await connection.closed.wait()
            await connection.close()
        return [ref() for ref in held]

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(session()) == [None] * 3
    finally:
        gc.enable()
