"""The language server under faults: random edits, mutated frames, broken and hanging handlers, typing amid answers.

    python -P -m benchmarks.faults_lsp [--scale F]

Every figure is printed with its bar; the exit status is 1 when one is missed. No model is needed: what is tested here
must hold whatever a model says.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.lsp_client import Client as Editor
from benchmarks.text_model import ALPHABET, Model, random_change
from diffcoder_lsp.applying import Change, Client, moved, smallest, workspace_edit
from diffcoder_lsp.documents import Document, Encoding
from diffcoder_lsp.protocol import ContentChange, Position, Range
from diffcoder_lsp.rpc import Connection
from diffcoder_lsp.server import Server

ENCODINGS: tuple[Encoding, ...] = ("utf-8", "utf-16", "utf-32")
URI = "file:///w/a.py"


def divergences(edits: int, seed: int = 1) -> int:
    """Of `edits` random edits in three encodings, after how many the server's text is not the client's."""
    draw, wrong = random.Random(seed), 0
    for number in range(edits):
        if number % 500 == 0:
            encoding = ENCODINGS[number // 500 % 3]
            model = Model("".join(draw.choices(ALPHABET, k=40)), encoding)
            document = Document.of(URI, model.text, 0, "python", encoding)
        place, new = random_change(draw, model)
        where = None if place is None else Range(Position(*place[0]), Position(*place[1]))
        document = document.changed([ContentChange(new, where)], number)
        if not document.text == "".join(document.lines) == model.text:
            wrong += 1
            document = Document.of(URI, model.text, number, "python", encoding)
    return wrong


_AT = {"line": 0, "character": 1}
_LINE = {"start": {"line": 0, "character": 0}, "end": {"line": 1, "character": 0}}
REQUESTS: list[tuple[str, Any]] = [
    (
        "textDocument/inlineCompletion",
        {"textDocument": {"uri": URI}, "position": _AT, "context": {"triggerKind": 2}},
    ),
    ("textDocument/completion", {"textDocument": {"uri": "file:///no"}, "position": _AT}),
    (
        "textDocument/codeAction",
        {"textDocument": {"uri": URI}, "range": _LINE, "context": {"diagnostics": []}},
    ),
    ("codeAction/resolve", {"title": "x", "kind": "quickfix", "data": {"command": "diffcoder.edit"}}),
    ("workspace/executeCommand", {"command": "diffcoder.showPrompt", "arguments": [{}]}),
    ("diffcoder/status", None),
    ("no/such/method", {}),
]
NOTES: list[tuple[str, Any]] = [
    (
        "textDocument/didChange",
        {"textDocument": {"uri": URI, "version": 2}, "contentChanges": [{"text": "pass\n"}]},
    ),
    ("textDocument/didSave", {"textDocument": {"uri": URI}}),
    ("$/cancelRequest", {"id": 7}),
]


def mutated_frames(frames: int, seed: int = 2) -> tuple[int, int, int]:
    """Send mutated messages to a real server: (times it exited, requests not answered exactly once, frames)."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as home, Editor(DIFFCODER_HOME=home) as editor:
        editor.initialize(inline={"automatic": False})
        editor.open(URI, "def f():\n    pass\n")
        expected: Counter[Any] = Counter()
        for number in range(frames):
            method, params = draw.choice(REQUESTS + NOTES)
            message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
            if (method, params) in REQUESTS:
                message["id"] = f"m{number}"
            body = _mutated(json.dumps(message).encode(), draw)
            if (id := _asks(body)) is not None:
                expected[id] += 1
            editor.send_body(body)
            if number % 200 == 199:
                editor.request("diffcoder/status", None)
        editor.request("diffcoder/status", None)
        # A question to the model, which is not there, takes a moment to be refused.
        with contextlib.suppress(TimeoutError):
            editor.wait_for(lambda: all(editor.replies.get(id, 0) >= n for id, n in expected.items()), 60)
        exits = int(editor.process.poll() is not None)
        wrong = sum(editor.replies.get(id, 0) != count for id, count in expected.items())
        return exits, wrong, frames


def _mutated(body: bytes, draw: random.Random) -> bytes:
    data = bytearray(body)
    for _ in range(draw.choice([0, 1, 1, 2, 5])):
        place = draw.randrange(len(data)) if data else 0
        kind = draw.randrange(5)
        if kind == 0 and data:
            data[place] = draw.randrange(256)
        elif kind == 1 and data:
            del data[place : place + draw.randint(1, 8)]
        elif kind == 2:
            data[place:place] = draw.choice(
                [b"\xff", b"{", b"]", b'"', b"null", b"-1", b"1e999", b"\\ud800", b"[" * 2000]
            )
        elif kind == 3 and data:
            end = place + draw.randint(1, 20)
            data[place:place] = data[place:end]
        elif kind == 4:
            data = data[:place]
    return bytes(data)


def _asks(body: bytes) -> Any:
    """The id of a request that must be answered; None for what is no request, or one without a usable id."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or "method" not in message:
        return None
    id = message.get("id")  # a method that is no name gets its error too
    # Ids of our own requests, and methods that end the session, are the client's to avoid.
    if not isinstance(id, str) or message["method"] == "shutdown":
        return None
    return re.sub("[\ud800-\udfff]", "\ufffd", id)  # half a pair is no text and cannot come back


async def broken_handlers() -> tuple[int, int]:
    """An exception and a hang in every handler: (handlers, those after which the session did not go on)."""
    client_end, server_in = os.pipe()
    server_out, client_in = os.pipe()
    connection = Connection(os.fdopen(client_end, "rb"), os.fdopen(client_in, "wb"), seconds=0.2)
    server = Server(connection)
    connection.start()
    sink = os.fdopen(server_in, "wb", buffering=0)
    source = os.fdopen(server_out, "rb")

    async def ask(method: str, params: Any) -> dict[str, Any]:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        sink.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        while True:
            message = await asyncio.to_thread(_read, source)
            if message.get("id") == 1:
                return message

    def raises(params: Any) -> None:
        raise RuntimeError("injected")

    async def hangs(params: Any) -> None:
        await asyncio.sleep(3600)

    await ask("initialize", {"capabilities": {}})
    bad = 0
    methods = [
        (method, handler) for method, handler, _ in server._methods() if method not in ("exit", "shutdown")
    ]
    for method, handler in methods:
        for broken in (raises, hangs):
            connection.on(method, broken)
            failed = await asyncio.wait_for(ask(method, {}), 10)
            connection.on(method, handler)
            works = await asyncio.wait_for(ask("diffcoder/status", None), 10)
            bad += "error" not in failed or "result" not in works
    sink.close()
    await connection.close()
    return 2 * len(methods), bad


def _read(stream: Any) -> Any:
    length = int(stream.readline().partition(b":")[2])
    stream.readline()
    return json.loads(stream.read(length))


def interleavings(count: int, seed: int = 3) -> tuple[int, int, int]:
    """Typing between a question and its answer: (stale edits, bytes changed outside, answers that were applied)."""
    draw = random.Random(seed)
    stale = outside = used = 0
    client = Client(versions=True)
    for _ in range(count):
        encoding = draw.choice(ENCODINGS)
        model = Model("".join(draw.choices(ALPHABET, k=draw.randint(5, 60))), encoding)
        old = Document.of(URI, model.text, 1, "python", encoding)
        places = [n for n in range(len(old.text) + 1) if old.text[n - 1 : n + 1] != "\r\n" or n == 0]
        start = draw.choice(places)
        end = draw.choice([n for n in places if n >= start])
        answer = "".join(draw.choices(ALPHABET, k=draw.randint(0, 6)))
        new = old
        for version in range(2, 2 + draw.randint(0, 3)):
            place, text = random_change(draw, model)
            where = None if place is None else Range(Position(*place[0]), Position(*place[1]))
            new = new.changed([ContentChange(text, where)], version)
        changes = moved(old, new, [Change(start, end, answer)])
        if not changes:
            continue
        (change,) = changes
        made = workspace_edit(new, smallest(new, changes), "x", client).document_changes or []
        for edit in made:
            stale += edit.text_document.version != new.version
            result = Model(model.text, encoding)
            spans = [(new.span(each.range), each.new_text) for each in edit.edits]
            for (a, b), text in sorted(spans, reverse=True):
                outside += a < change.start or b > change.end
                result.replace(a, b, text)
            wanted = model.text[: change.start] + answer + model.text[change.end :]
            outside += result.text != wanted
        stale += model.text[change.start : change.end] != old.text[start:end]
        used += 1
    return stale, outside, used


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="a part of the full sizes (%(default)s)")
    scale = parser.parse_args().scale
    missed = 0

    def show(what: str, figures: Callable[[], tuple[str, bool]]) -> None:
        nonlocal missed
        began = time.monotonic()
        text, good = figures()
        missed += not good
        print(f"{'ok ' if good else 'BAD'} {what:24} {text} ({time.monotonic() - began:.0f} s)", flush=True)

    def edits() -> tuple[str, bool]:
        count = int(200_000 * scale)
        wrong = divergences(count)
        return f"{count:,} edits in 3 encodings, {wrong} divergences", not wrong

    def frames() -> tuple[str, bool]:
        exits, wrong, sent = mutated_frames(int(20_000 * scale))
        return f"{sent:,} frames, {exits} exits, {wrong} requests not answered once", not exits and not wrong

    def handlers() -> tuple[str, bool]:
        count, bad = asyncio.run(broken_handlers())
        return f"{count} exceptions and hangs, {bad} sessions that did not go on", not bad

    def typing() -> tuple[str, bool]:
        count = int(2_000 * scale)
        stale, outside, used = interleavings(count)
        text = f"{count:,} interleavings, {used} applied, {stale} stale, {outside} changes outside"
        return text, not stale and not outside and used > 0

    show("document sync", edits)
    show("mutated frames", frames)
    show("broken handlers", handlers)
    show("typing amid answers", typing)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
