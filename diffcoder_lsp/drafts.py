"""What the model has written so far at a place, on its way to the client: as partial results of the request where the
client gave a token for them, else as `diffcoder/draft` if it wants those. Never more often than it can show."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from diffcoder_lsp.documents import Document
from diffcoder_lsp.engine_client import OnDraft
from diffcoder_lsp.protocol import DraftParams, Token
from diffcoder_lsp.scan import visible
from model.schema import Draft

DRAFT_SECONDS = 0.1
Kind = Literal["inline", "edit", "gap"]


@dataclass
class Drafts:
    """The drafts of one place. `send` notifies the client (method, parameters)."""

    send: Callable[[str, Any], None]
    document: Document
    offset: int
    kind: Kind
    token: Token | None
    wanted: bool
    """Whether the client wants drafts that it gave no token for."""
    _last: float = 0.0

    @property
    def on_draft(self) -> OnDraft | None:
        """Whom the engine tells; None where nobody listens, so that it need not."""
        return self._heard if self.wanted or self.token is not None else None

    def done(self, text: str) -> None:
        """The final text, which is empty when there is none to show."""
        if self.on_draft is not None:
            self._send(text, [], done=True)

    def _heard(self, draft: Draft) -> None:
        now = time.monotonic()
        if now - self._last >= DRAFT_SECONDS:
            self._last = now
            self._send(draft.text, list(draft.block), done=False)

    def _send(self, text: str, block: list[str | None], *, done: bool) -> None:
        shown = [None if place is None else visible(place) for place in block]
        document = self.document
        place = document.position(self.offset)
        params = DraftParams(document.uri, document.version, place, self.kind, visible(text), shown, done)
        if self.token is not None:
            self.send("$/progress", {"token": self.token, "value": params})
        else:
            self.send("diffcoder/draft", params)
