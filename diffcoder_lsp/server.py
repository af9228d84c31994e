"""`diffcoder lsp`: one client's session over standard input and output. Each handler parses, calls and answers.

Works together what the other files know: the connection (rpc.py), the documents, the settings, the engine and the
features. The session ends when the client says so, closes the stream, or dies.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, BinaryIO

from diffcoder_lsp import settings as settings_module
from diffcoder_lsp.actions import COMMANDS, KINDS, Actions
from diffcoder_lsp.applying import Client
from diffcoder_lsp.context import Ignored
from diffcoder_lsp.documents import Documents, Encoding, path_of
from diffcoder_lsp.engine_client import AsyncEngineClient
from diffcoder_lsp.engine_link import EngineLink
from diffcoder_lsp.features.complete import Complete
from diffcoder_lsp.features.inline import Inline
from diffcoder_lsp.features.pull import Pull
from diffcoder_lsp.progress import Bar, Bars
from diffcoder_lsp.protocol import (
    CodeAction,
    CodeActionParams,
    CompletionParams,
    DidChangeConfigurationParams,
    DidChangeParams,
    DidChangeWatchedFilesParams,
    DidChangeWorkspaceFoldersParams,
    DidOpenParams,
    DocumentParams,
    ExecuteCommandParams,
    InitializeParams,
    InlineCompletionParams,
    ProgressCancelParams,
)
from diffcoder_lsp.rpc import INVALID_REQUEST, NOT_INITIALIZED, Connection, ReplyError
from diffcoder_lsp.session import Session
from model.schema import DiffcoderError

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
ENCODINGS = ("utf-8", "utf-16", "utf-32")
TRIGGERS = list(".(,=:[{ ")
_ERROR, _WARNING = 1, 2
LARGE_BYTES = 65_536
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of malloc.h


class Server:
    """One session. `done` is set with the exit status when it is over."""

    def __init__(self, connection: Connection, model: str | None = None):
        self.connection = connection
        self.status: int | None = None
        self._asked = InitializeParams()
        self._state = "new"
        self._folders: list[str] = []
        self._layers: dict[str, Any] = {"diffcoder lsp": {"model": model} if model else None}
        self._told: set[str] = set()
        self._bars = Bars(connection, lambda: bool(self._asked.can("window.workDoneProgress")))
        self._starting: Bar | None = None
        self._loop = asyncio.get_running_loop()
        self.session = Session(Documents(), self._link(model or "default"), connection.notify)
        self.inline = Inline(self.session)
        self.complete = Complete(self.session, self.inline)
        self._pull = Pull(connection, self._bars, self._use_model, lambda: self.session.link.retry())
        self.actions = Actions(self.session, connection, self._pull)
        connection.refuse = self._refuse
        connection.on_failure = self._on_failure
        for method, handler, params in self._methods():
            connection.on(method, handler, params)

    def _methods(self) -> list[tuple[str, Callable[..., Any], Any]]:
        return [
            ("initialize", self._initialize, InitializeParams),
            ("initialized", self._initialized, Any),
            ("shutdown", self._shutdown, Any),
            ("exit", self._exit, Any),
            ("$/setTrace", lambda params: None, Any),
            (
                "workspace/didChangeConfiguration",
                self._did_change_configuration,
                DidChangeConfigurationParams,
            ),
            (
                "workspace/didChangeWorkspaceFolders",
                self._did_change_workspace_folders,
                DidChangeWorkspaceFoldersParams,
            ),
            ("workspace/didChangeWatchedFiles", self._did_change_watched_files, DidChangeWatchedFilesParams),
            ("textDocument/didOpen", self._did_open, DidOpenParams),
            ("textDocument/didChange", self._did_change, DidChangeParams),
            ("textDocument/didClose", self._did_close, DocumentParams),
            ("textDocument/didSave", self._did_save, DocumentParams),
            ("textDocument/inlineCompletion", self.inline.answer, InlineCompletionParams),
            ("textDocument/completion", self.complete.answer, CompletionParams),
            ("textDocument/codeAction", self.actions.offered, CodeActionParams),
            ("codeAction/resolve", self.actions.resolve, CodeAction),
            ("workspace/executeCommand", self.actions.execute, ExecuteCommandParams),
            (
                "window/workDoneProgress/cancel",
                lambda params: self._bars.cancel(params.token),
                ProgressCancelParams,
            ),
            ("diffcoder/status", lambda params: self.session.status(), Any),
        ]

    # Life

    def _refuse(self, method: str) -> ReplyError | None:
        if self._state == "new" and method != "initialize":
            return ReplyError(NOT_INITIALIZED, "The server is not initialized: send initialize first.")
        if self._state == "shut down":
            return ReplyError(INVALID_REQUEST, "The server is shutting down: only exit may follow.")
        return None

    def _initialize(self, params: InitializeParams) -> dict[str, Any]:
        if self._state != "new":
            raise ReplyError(INVALID_REQUEST, "The server is initialized already.")
        self._state = "ready"
        self._asked, self.actions.client = params, Client.of(params)
        offered = params.can("general.positionEncodings")
        offered = offered if isinstance(offered, list) else []
        encoding: Encoding = next((each for each in offered if each in ENCODINGS), "utf-16")
        self.session.documents.encoding = encoding
        self._folders = _folders(params)
        self._layers["initializationOptions"] = params.initialization_options
        self._read_settings()
        capabilities: dict[str, Any] = {
            "positionEncoding": encoding,
            "textDocumentSync": {"openClose": True, "change": 2, "save": {"includeText": False}},
            "inlineCompletionProvider": {"workDoneProgress": False},
            "codeActionProvider": {
                "codeActionKinds": KINDS,
                "resolveProvider": self.actions.client.resolves,
            },
            "executeCommandProvider": {"commands": COMMANDS},
            "workspace": {"workspaceFolders": {"supported": True, "changeNotifications": True}},
        }
        wanted = self.session.settings.completion.enable
        if wanted == "always" or (wanted == "auto" and params.can("textDocument.inlineCompletion") is None):
            capabilities["completionProvider"] = {"triggerCharacters": TRIGGERS}
        if params.process_id is not None:
            self.connection.spawn(self._watch(params.process_id))
        return {"capabilities": capabilities, "serverInfo": {"name": "diffcoder", "version": _version()}}

    def _initialized(self, _: Any) -> Coroutine[Any, Any, None]:
        return self._settle()

    async def _settle(self) -> None:
        """What comes after the handshake: the client's settings, and what the first request would wait for."""
        watchers = {"watchers": [{"globPattern": f"**/{settings_module.FILE}"}]}
        registrations = [
            {"id": f"diffcoder/{name}", "method": f"workspace/{name}", "registerOptions": options}
            for name, options in (
                ("didChangeConfiguration", {"section": "diffcoder"}),
                ("didChangeWatchedFiles", watchers),
            )
            if self._asked.can(f"workspace.{name}.dynamicRegistration")
        ]
        if registrations:
            self.connection.spawn(
                self._tolerant(
                    self.connection.request("client/registerCapability", {"registrations": registrations})
                )
            )
        await self._fetch_settings()
        self.session.tell()
        await asyncio.to_thread(importlib.import_module, "diffcoder_lsp.engine_connections")
        gc.collect()
        gc.freeze()  # modules live as long as the session: a collection that looks through them takes 10 ms of a key

    def _shutdown(self, _: Any) -> None:
        self._state = "shut down"

    def _exit(self, _: Any) -> None:
        self.status = 0 if self._state == "shut down" else 1
        self.connection.closed.set()

    async def _watch(self, pid: int) -> None:
        """End when the client's process has gone, even if its end of the stream stays open."""
        while _lives(pid):
            await asyncio.sleep(WATCH_SECONDS)
        self.connection.closed.set()

    async def _tolerant(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await work
        except ReplyError:
            return None

    # Settings

    async def _fetch_settings(self) -> None:
        if self._asked.can("workspace.configuration"):
            items = {"items": [{"section": "diffcoder"}]}
            answer = await self._tolerant(self.connection.request("workspace/configuration", items))
            self._layers["editor settings"] = answer[0] if isinstance(answer, list) and answer else None
            self._read_settings()

    def _did_change_configuration(self, params: DidChangeConfigurationParams) -> Any:
        sent = params.settings
        if isinstance(sent, dict) and "diffcoder" in sent:
            self._layers["editor settings"] = sent["diffcoder"]
            self._read_settings()
            return None
        return self._fetch_settings()

    def _did_change_workspace_folders(self, params: DidChangeWorkspaceFoldersParams) -> None:
        removed = {folder.uri for folder in params.event.removed}
        added = [folder.uri for folder in params.event.added]
        kept = [uri for uri in self._folders if uri not in removed and uri not in added]
        self._folders = kept + added
        self._read_settings()

    def _did_change_watched_files(self, params: DidChangeWatchedFilesParams) -> None:
        if any(_is_settings(change.uri) for change in params.changes):
            self._read_settings()

    def _read_settings(self) -> None:
        """Settings from where they may come: the workspace's file (if it is trusted), the client's options, its
        settings, the command line; a later one wins."""
        named = [self._layers.get(name) for name in ("initializationOptions", "editor settings")]
        trusted = not any(isinstance(layer, dict) and layer.get("trusted") is False for layer in named)
        folders = [Path(path_of(folder)) for folder in self._folders]
        layers: list[tuple[str, Any]] = []
        problems: list[str] = []
        if trusted and folders:
            own, problem = settings_module.from_file(folders[0])
            if isinstance(own, dict) and "trusted" in own:
                problems.append(f"{settings_module.FILE}: a workspace cannot say that it is trusted.")
                del own["trusted"]
            layers.append((settings_module.FILE, own))
            problems += [problem] if problem else []
        for name in ("initializationOptions", "editor settings", "diffcoder lsp"):
            layers.append((name, self._layers.get(name)))
        before = self.session.settings.model
        self.session.settings, found = settings_module.merged(layers)
        model = self.session.settings.model
        if model not in (before, self.session.link.model):
            self._use_model(model)
        self.session.ignored = Ignored(folders)
        self.session.forget("disabled", "untrusted", "ignored_file")
        for problem in problems + found:
            self._say(problem, _WARNING)

    # Documents

    def _did_open(self, params: DidOpenParams) -> None:
        item = params.text_document
        self.session.documents.open(item.uri, item.text, item.version, item.language_id)

    def _did_change(self, params: DidChangeParams) -> None:
        identifier = params.text_document
        self.session.documents.change(identifier.uri, params.content_changes, identifier.version)
        for change in params.content_changes:
            self.session.statistics.inserted(identifier.uri, change.text)

    def _did_close(self, params: DocumentParams) -> None:
        self.session.documents.close(params.text_document.uri)
        self.inline.forget(params.text_document.uri)

    def _did_save(self, params: DocumentParams) -> None:
        if _is_settings(params.text_document.uri):
            self._read_settings()

    # The engine

    def _link(self, model: str) -> EngineLink:
        def on_progress(what: str, _: float) -> None:  # on the thread that waits for the engine
            self._loop.call_soon_threadsafe(self._report_start, what)

        client = AsyncEngineClient(model, on_progress=on_progress)
        return EngineLink(client, self._on_engine, self._on_problem)

    def _use_model(self, name: str) -> None:
        old, self.session.link = self.session.link, self._link(name)
        self.connection.spawn(old.close())
        self._loop.call_soon(self._on_other_model)  # not before the answer to initialize

    def _on_other_model(self) -> None:
        self.session.forget("loading", "no_model", "failed")
        self.session.tell()

    def _report_start(self, what: str) -> None:
        self.session.link.restarting()
        if self.session.link.state == "starting":
            if self._starting is None:
                self._starting = self._bars.begin("diffcoder")
            if self._starting is not None:
                self._starting.report(what)

    def _on_engine(self) -> None:
        if self.session.link.state != "starting" and self._starting is not None:
            self._bars.end(self._starting)
            self._starting = None
        if self.session.link.ready:
            self.session.forget("loading", "no_model", "failed")
        self.session.tell()

    def _on_problem(self, error: DiffcoderError) -> None:
        if error.code == "model_missing":
            self.session.tell("no_model")
            self._pull.offer(self.session.link.model)
        else:
            self.connection.notify(
                "window/showMessage", {"type": _ERROR, "message": f"diffcoder: {error.message}"}
            )

    # Messages

    def _on_failure(self, method: str, error: Exception) -> None:
        self.session.link.last_error = f"{method}: {type(error).__name__}: {error}"

    def _say(self, message: str, kind: int) -> None:
        """Show a message, once a session."""
        if message not in self._told:
            self._told.add(message)
            self.connection.notify("window/showMessage", {"type": kind, "message": f"diffcoder: {message}"})

    async def close(self) -> None:
        self.session.statistics.write()
        await self.connection.close()
        await self.session.link.close()


def _folders(asked: InitializeParams) -> list[str]:
    if asked.workspace_folders:
        return [folder.uri for folder in asked.workspace_folders]
    root = asked.root_uri or asked.root_path
    return [root] if root else []


def _is_settings(uri: str) -> bool:
    return os.path.basename(path_of(uri)) == settings_module.FILE


def _version() -> str:
    from importlib.metadata import version

    return version("diffcoder")


def _lives(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # there the stream's end is the sign
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # a zombie is a process that nobody has buried
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return True


async def serve(reader: BinaryIO, writer: BinaryIO, model: str | None = None) -> int:
    """Serve one client until it has gone; the exit status the protocol asks for."""
    connection = Connection(reader, writer)
    server = Server(connection, model)
    connection.start()
    parent = os.getppid()
    while not connection.closed.is_set() and os.getppid() == parent:
        try:
            async with asyncio.timeout(WATCH_SECONDS):
                await connection.closed.wait()
        except TimeoutError:
            continue
    try:
        async with asyncio.timeout(3.0):
            await server.close()
    except TimeoutError:
        log.warning("the session's last requests did not end in time")
    return 1 if server.status is None else server.status


def _give_back_large_blocks() -> None:
    """Let freed blocks go back to the system. The C library of Linux keeps what is smaller than the largest block that
    was ever freed, and one heap a thread: the texts of a long file, made anew with every key, leave both full of holes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # in other C libraries it is missing, or does nothing
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_ARENA_MAX, 1)


def main(model: str | None = None) -> int:
    """Serve the client at the other end of standard input and output. Whatever else prints goes to the log."""
    _give_back_large_blocks()
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    reader = os.fdopen(os.dup(0), "rb")
    writer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Not asyncio.run, which at its end waits for every thread, an engine's start included.
    status = asyncio.new_event_loop().run_until_complete(serve(reader, writer, model))
    logging.shutdown()
    os._exit(status)  # threads that wait for a stream or a starting engine would hold the process
