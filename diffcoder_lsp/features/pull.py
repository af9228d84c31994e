"""Models: which there are, how one comes here, and what the user is asked when the one in use is missing: once,
whether to download it, take another, or leave it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from diffcoder_lsp.progress import Bars
from diffcoder_lsp.protocol import MessageActionItem, ModelEntry
from diffcoder_lsp.rpc import Connection, ReplyError, take_your_time
from model.schema import DiffcoderError, ModelInfo

NOT_NOW = "Not now"
_WARNING, _INFO = 2, 3


class Pull:
    """`use` switches the session to another model; `retry` is called once the model is here."""

    def __init__(
        self, connection: Connection, bars: Bars, use: Callable[[str], None], retry: Callable[[], None]
    ):
        self._connection, self._bars, self._use, self._retry = connection, bars, use, retry
        self._asked: set[str] = set()

    def offer(self, name: str) -> None:
        """Ask about a missing model, once a session."""
        if name not in self._asked:
            self._asked.add(name)
            self._connection.spawn(self._offer(name))

    async def _offer(self, name: str) -> None:
        models = await asyncio.to_thread(_models)
        missing = next((model for model in models if model.name == name), None)
        others = [model.name for model in models if model.state in ("ready", "loaded") and model.name != name]
        download = (
            f"Download ({missing.bytes / 1e6:,.0f} MB)" if missing is not None and missing.bytes else None
        )
        titles = [title for title in (download, *(f"Use {other}" for other in others[:3]), NOT_NOW) if title]
        try:
            answer = await self._connection.request(
                "window/showMessageRequest",
                {
                    "type": _WARNING,
                    "message": f"diffcoder: the model {name!r} is not on this machine.",
                    "actions": [{"title": title} for title in titles],
                },
                MessageActionItem | None,
            )
        except ReplyError:
            return
        if answer is None or answer.title == NOT_NOW:
            return
        if answer.title == download:
            try:
                await self.pull(name)
            except DiffcoderError as error:
                self._say(_WARNING, error.message)
            else:
                self._say(_INFO, f"{name} is ready.")
        elif answer.title.startswith("Use "):
            self._use(answer.title.removeprefix("Use "))

    async def pull(self, name: str) -> None:
        """Download a model, with a bar that can be cancelled; DiffcoderError when it does not come."""
        from model import store

        take_your_time()
        loop = asyncio.get_running_loop()
        bar = self._bars.begin(f"Downloading {name}", cancellable=True)
        stopped = False

        def progress(done: int, total: int) -> None:
            if bar is not None and total:
                loop.call_soon_threadsafe(bar.report, f"{done / 1e6:,.0f} MB", int(100 * done / total))

        try:
            await asyncio.to_thread(
                store.pull, name, progress, lambda: stopped or (bar is not None and bar.cancelled)
            )
            self._retry()
        finally:
            stopped = True  # the thread outlives a request that is cancelled
            self._bars.end(bar)

    def _say(self, kind: int, message: str) -> None:
        self._connection.notify("window/showMessage", {"type": kind, "message": f"diffcoder: {message}"})


def models() -> list[ModelEntry]:
    """Every model, as a client's picker shows it."""
    from model import registry

    return [
        ModelEntry(
            model.name, model.title, model.licence, model.bytes, registry.find(model.name).memory, model.state
        )
        for model in _models()
    ]


def _models() -> list[ModelInfo]:
    from model import store

    return store.models()
