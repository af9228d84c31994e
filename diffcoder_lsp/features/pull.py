"""A model that is not here: the user is asked once whether to download it, take another, or leave it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from diffcoder_lsp.progress import Bars
from diffcoder_lsp.protocol import MessageActionItem
from diffcoder_lsp.rpc import Connection, ReplyError
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
            await self._pull(name)
        elif answer.title.startswith("Use "):
            self._use(answer.title.removeprefix("Use "))

    async def _pull(self, name: str) -> None:
        from model import store

        loop = asyncio.get_running_loop()
        bar = self._bars.begin(f"Downloading {name}", cancellable=True)

        def progress(done: int, total: int) -> None:
            if bar is not None and total:
                loop.call_soon_threadsafe(bar.report, f"{done / 1e6:,.0f} MB", int(100 * done / total))

        try:
            await asyncio.to_thread(store.pull, name, progress, lambda: bar is not None and bar.cancelled)
        except DiffcoderError as error:
            self._connection.notify(
                "window/showMessage", {"type": _WARNING, "message": f"diffcoder: {error.message}"}
            )
        else:
            self._connection.notify(
                "window/showMessage", {"type": _INFO, "message": f"diffcoder: {name} is ready."}
            )
            self._retry()
        finally:
            self._bars.end(bar)


def _models() -> list[ModelInfo]:
    from model import store

    return store.models()
