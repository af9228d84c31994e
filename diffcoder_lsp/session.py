"""What the features of one client's session share: documents, settings, engine, status, and how they ask.

Turns a place in a document into a request (window, other files, secrets hidden) and an answer back into
text. Knows the protocol's types but not the connection: `send` is given to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from diffcoder_lsp import context, drafts
from diffcoder_lsp.context import Ignored, Secrets
from diffcoder_lsp.documents import Document, Documents
from diffcoder_lsp.drafts import Drafts
from diffcoder_lsp.engine_link import EngineLink
from diffcoder_lsp.gaps import Gap, gap_between
from diffcoder_lsp.lines import with_line_ends
from diffcoder_lsp.protocol import Silence, StatusParams, Token
from diffcoder_lsp.scan import opened
from diffcoder_lsp.settings import Settings
from diffcoder_lsp.statistics import Statistics
from model.schema import DiffcoderError, FillRequest, Limits

PREFIX_CHARS, PREFIX_STEP, SUFFIX_CHARS = 8192, 4096, 8192
"""Text around a gap that is sent: more than any window holds. The prefix's start moves in steps, so that the engine's
window, whose own steps count from there, stays put while the user types."""

_WHY_NOT: dict[Silence, str] = {
    "disabled": "diffcoder is switched off for this file; see the settings enable, languages and files.",
    "paused": "diffcoder is paused; run the command diffcoder.resume.",
    "ignored_file": "This file is ignored or looks secret, so nothing of it is sent to the model.",
    "untrusted": "This workspace is not trusted, so nothing of it is sent to the model.",
}


def around(text: str, start: int, end: int, language: str | None) -> Gap:
    """The gap `text[start:end]` with as much text around it as a request may need."""
    first = max(0, start - PREFIX_CHARS) // PREFIX_STEP * PREFIX_STEP
    if first:
        line = text.find("\n", first, start) + 1
        first = line or first
    last = min(len(text), end + SUFFIX_CHARS)
    gap = gap_between(text[first:last], start - first, end - first, language)
    return replace(gap, opened=_opened(text[:first], language)) if first else gap


@functools.lru_cache(maxsize=8)
def _opened(before: str, language: str | None) -> str:
    """`opened`, for what stands before a window: the same from key to key, and long."""
    return opened(before, language)


@dataclass
class Session:
    """`send` notifies the client (method, parameters)."""

    documents: Documents
    link: EngineLink
    send: Callable[[str, Any], None]
    settings: Settings = field(default_factory=Settings)
    ignored: Ignored = field(default_factory=Ignored)
    paused: bool = False
    silent: Silence = "none"
    suggestions: int = 0
    reused: int = 0
    statistics: Statistics = field(init=False)
    _sent: StatusParams | None = None

    def __post_init__(self) -> None:
        self.statistics = Statistics(self._text_of)

    def _text_of(self, uri: str) -> str | None:
        document = self.documents.get(uri)
        return None if document is None else document.text

    def shown(self, uri: str, text: str) -> None:
        """Ghost text goes to the client."""
        self.suggestions += 1
        self.statistics.ghost(uri, text)
        self.tell("none")

    def why_not(self, document: Document) -> Silence | None:
        """Why nothing may be done with a document; None when it may."""
        if self.paused:
            return "paused"
        if not self.settings.works_on(document.path, document.language):
            return "disabled"
        if not self.settings.trusted:
            return "untrusted"
        if document.path in self.ignored:
            return "ignored_file"
        return None

    def document(self, uri: str) -> Document:
        """An open document that may be worked on; DiffcoderError says why not."""
        document = self.documents.get(uri)
        if document is None:
            raise DiffcoderError("not_open", "The document is not open: open it first.")
        reason = self.why_not(document)
        if reason is not None:
            raise DiffcoderError(reason, _WHY_NOT[reason])
        return document

    def request(self, document: Document, gap: Gap, limits: Limits) -> tuple[FillRequest, Secrets]:
        """What to send for a gap of a document, its secrets hidden, and how to put them back."""
        secrets = Secrets()
        prefix, suffix = secrets.hide_around(gap.prefix, gap.suffix)
        request = FillRequest(
            prefix=with_line_ends(prefix, "\n"),
            suffix=with_line_ends(suffix, "\n"),
            language=document.language,
            path=document.path.rpartition("/")[2],
            snippets=self.snippets(document),
            limits=limits,
        )
        return request, secrets

    def snippets(self, document: Document) -> tuple[Any, ...]:
        """What the other open files offer to a prompt about `document`."""
        chosen = self.settings.context
        if not chosen.open_files or not chosen.tokens:
            return ()
        others = [
            other
            for other in self.documents.others(document.uri)
            if self.settings.works_on(other.path, other.language)
        ]
        return context.snippets(document, others, self.ignored, chosen.tokens)

    def drafts(self, document: Document, offset: int, kind: drafts.Kind, token: Token | None) -> Drafts:
        """Who hears the model's drafts for a place; `token` is the request's own for partial results."""
        return Drafts(self.send, document, offset, kind, token, self.settings.drafts)

    def status(self) -> StatusParams:
        link = self.link
        return StatusParams(
            model=link.model,
            state="paused" if self.paused else link.state,
            silent=self.silent,
            message=_WHY_NOT.get(self.silent, link.last_error if link.state == "failed" else ""),
            tokens_per_second=round(link.tokens_per_second, 1),
            tokens_per_forward=round(link.tokens_per_forward, 2),
            confidence=round(link.confidence, 4),
            suggestions=self.suggestions,
            reused=self.reused,
            last_error=link.last_error,
        )

    def forget(self, *reasons: Silence) -> None:
        """Such reasons for silence are over, so the status gives none of them any more."""
        if self.silent in reasons:
            self.tell("none")

    def tell(self, silent: Silence | None = None) -> None:
        """Send the status when it says something new; `silent` is what became of a suggestion."""
        if silent is not None:
            self.silent = silent
        status = self.status()
        if self._sent is None or any(
            getattr(status, name) != getattr(self._sent, name)
            for name in ("model", "state", "silent", "message")
        ):
            self._sent = status
            self.send("diffcoder/status", status)
