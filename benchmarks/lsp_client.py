"""A language client for tests and benchmarks: a real server process, plain JSON, nothing shared with the server.

It answers what the server asks (`answers`), keeps what it asks and tells (`asked`, `told`), and can send any bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND = [str(Path(sys.executable).with_name("diffcoder")), "lsp"]

CAPABILITIES: dict[str, Any] = {
    "general": {"positionEncodings": ["utf-16"]},
    "window": {"workDoneProgress": True, "showMessage": {}},
    "workspace": {
        "applyEdit": True,
        "workspaceEdit": {"documentChanges": True, "changeAnnotationSupport": {"groupsOnLabel": True}},
        "configuration": False,
    },
    "textDocument": {
        "inlineCompletion": {"dynamicRegistration": False},
        "codeAction": {"resolveSupport": {"properties": ["edit"]}, "dataSupport": True},
    },
}


class Failed(Exception):
    """An error reply."""

    def __init__(self, error: dict[str, Any]):
        super().__init__(error["message"])
        self.code = error["code"]


class Client:
    def __init__(self, *arguments: str, command: list[str] = COMMAND, **environment: str):
        self.answers: dict[str, Callable[[Any], Any]] = {
            "workspace/applyEdit": self._apply,
            "window/workDoneProgress/create": lambda params: None,
            "window/showMessageRequest": lambda params: None,
            "client/registerCapability": lambda params: None,
        }
        self.on_reply: Callable[[Any], None] = lambda message: None  # on the thread that reads
        self.asked: list[tuple[str, Any]] = []
        self.told: list[tuple[str, Any]] = []
        self.applied: list[Any] = []
        self.encoding = "utf-16"
        self.replies: dict[Any, int] = {}
        self.failures: list[tuple[Any, int]] = []
        self._ids = itertools.count(1)
        self._waiting: dict[Any, queue.SimpleQueue[Any]] = {}
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def initialize(
        self, root: Path | None = None, capabilities: dict[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        params = {
            "processId": os.getpid(),
            "rootUri": root.as_uri() if root else None,
            "capabilities": CAPABILITIES if capabilities is None else capabilities,
            "initializationOptions": options,
        }
        result = self.request("initialize", params)
        self.encoding = result["capabilities"]["positionEncoding"]
        self.notify("initialized", {})
        return result

    def send(self, message: dict[str, Any]) -> None:
        self.send_body(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def send_body(self, body: bytes) -> None:
        self.send_bytes(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    def send_bytes(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def notify(self, method: str, params: Any) -> None:
        self.send({"method": method, "params": params})

    def ask(self, method: str, params: Any) -> int:
        """Send a request; `result` waits for its answer."""
        id = next(self._ids)
        self._waiting[id] = queue.SimpleQueue()
        self.send({"id": id, "method": method, "params": params})
        return id

    def result(self, id: int, seconds: float = 120) -> Any:
        message = self._waiting[id].get(timeout=seconds)
        del self._waiting[id]
        if "error" in message:
            raise Failed(message["error"])
        return message["result"]

    def request(self, method: str, params: Any, seconds: float = 120) -> Any:
        return self.result(self.ask(method, params), seconds)

    def cancel(self, id: int) -> None:
        self.notify("$/cancelRequest", {"id": id})

    def open(self, uri: str, text: str, language: str = "python", version: int = 1) -> None:
        item = {"uri": uri, "languageId": language, "version": version, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def change(self, uri: str, version: int, *changes: dict[str, Any]) -> None:
        document = {"uri": uri, "version": version}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": list(changes)})

    def inline(self, uri: str, line: int, character: int, invoked: bool = False) -> int:
        return self.ask(
            "textDocument/inlineCompletion",
            {
                "textDocument": {"uri": uri},
                "position": {"line": line, "character": character},
                "context": {"triggerKind": 1 if invoked else 2},
            },
        )

    def command(self, name: str, **argument: Any) -> Any:
        return self.request("workspace/executeCommand", {"command": name, "arguments": [argument]})

    def wait_for(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        """What `condition` gives once it is true; it is looked at whenever the server says something."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not (found := condition()):
                if not self._news.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{self.told[-5:]}")
            return found

    def notes(self, method: str) -> list[Any]:
        return [params for name, params in list(self.told) if name == method]

    def _apply(self, params: Any) -> Any:
        self.applied.append(params)
        return {"applied": True}

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        while line := stream.readline():
            if not line.lower().startswith(b"content-length:"):
                continue
            length = int(line.partition(b":")[2])
            while stream.readline().strip():
                pass
            message = json.loads(stream.read(length))
            if "method" not in message:
                id = message.get("id")
                self.on_reply(message)
                self.replies[id] = self.replies.get(id, 0) + 1
                if "error" in message:
                    self.failures.append((id, message["error"]["code"]))
                if id in self._waiting:
                    self._waiting[id].put(message)
            elif "id" in message:
                self.asked.append((message["method"], message.get("params")))
                answer = self.answers.get(message["method"])
                if answer is not None:
                    self.send({"id": message["id"], "result": answer(message.get("params"))})
            else:
                self.told.append((message["method"], message.get("params")))
            with self._news:
                self._news.notify_all()
