"""Ghost text: what to write at the cursor, from an earlier suggestion where one fits, else from the model.

A suggestion that the user types along with is served again without asking. A newer request of a document
supersedes the older one before it costs anything. When nothing is shown, the session's status says why.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace

import msgspec

from diffcoder_lsp.context import Secrets
from diffcoder_lsp.documents import Document, rebased
from diffcoder_lsp.engine_link import Superseded
from diffcoder_lsp.gaps import Gap
from diffcoder_lsp.lines import content, split_lines, with_line_ends
from diffcoder_lsp.protocol import (
    InlineCompletionItem,
    InlineCompletionList,
    InlineCompletionParams,
    Range,
    Silence,
    Token,
)
from diffcoder_lsp.scan import in_literal, unmatched, visible
from diffcoder_lsp.seams import breaks_off, first_statement, kept_in_step
from diffcoder_lsp.session import Session, around
from model.schema import DiffcoderError, FillRequest, FillResponse, Limits

INVOKED = 1
AUTOMATIC_MS = 8000.0
"""An automatic suggestion that takes longer is given up: the user has gone on."""
_REMEMBERED = 16
_DEBOUNCE_MS = (20.0, 250.0)
_FIRST_DEBOUNCE_MS = 80.0


@dataclass(frozen=True)
class Suggestion:
    """`text` for the place between `prefix` and `suffix`."""

    prefix: str
    text: str
    suffix: str

    def rest(self, prefix: str, suffix: str) -> str | None:
        """What is left of it after `prefix`, which the user typed along with it; None where it does not fit."""
        if suffix != self.suffix or len(prefix) < len(self.prefix) or not prefix.startswith(self.prefix):
            return None
        typed = prefix[len(self.prefix) :]
        rest = self.text[len(typed) :]
        return rest if self.text.startswith(typed) and rest.strip() else None


@dataclass(frozen=True)
class _Ask:
    """One request as it came: everything that it needs of its moment."""

    document: Document
    gap: Gap
    offset: int
    range: Range
    completed: str
    """The entry chosen in a completion list, which the suggestion has to go on from."""
    automatic: bool
    single_line: bool
    in_literal: bool
    token: Token | None


def fitted(text: str, gap: Gap) -> str:
    """A model's text as it can stand in `gap`: visible characters, the document's line ends, and nothing of what
    follows the gap written a second time."""
    text = visible(with_line_ends(text, "\n"), gap.prefix + gap.suffix).replace("\r", "")
    suffix = with_line_ends(gap.suffix, "\n")
    literal = in_literal(gap.opened + gap.prefix, gap.language)
    text = _without_suffix(text, suffix, literal)
    text = text if literal else kept_in_step(text, gap)
    if not suffix or suffix.startswith("\n"):
        text = text.rstrip()
    return with_line_ends(text, gap.newline) if text.strip() else ""


def _without_suffix(text: str, suffix: str, literal: bool) -> str:
    rest, _, below = suffix.partition("\n")
    rest = rest.rstrip()
    if rest.strip():
        lines = text.split("\n")
        # The rest of the gap's line again, at the end of the text or before further lines.
        overlap = next((n for n in range(len(rest), 0, -1) if lines[-1].endswith(rest[:n])), 0)
        tail = rest[:overlap]
        whole = overlap == len(rest) and len(rest) > 3 and not set(tail) <= set(")]}")
        # Brackets of code are counted with all that stands around them (seams.py).
        if overlap and (whole or (literal and set(tail) <= set(")]}\"'`;,:") and unmatched(text)[0])):
            lines[-1] = lines[-1][:-overlap]
            return "\n".join(lines)
        return text
    following = next((line for line in below.split("\n", 50)[:50] if line.strip()), "").strip()
    if len(following) > 1:
        lines = text.split("\n")
        for number in range(1, len(lines)):
            if lines[number].strip() == following:
                return "\n".join(lines[:number])
    return text


def is_single_line(gap: Gap, multiline: str) -> bool:
    """Whether a suggestion should end with its line: text behind the cursor, or a line that is under way."""
    behind = gap.suffix.partition("\n")[0].strip(" \t\r)]};,:'\"`")
    if behind or multiline == "never":
        return True
    if multiline == "always":
        return False
    lines = split_lines(gap.prefix[-2000:])
    line = lines[-1].strip() if lines else ""
    return bool(line) and not line.endswith((":", "{", "(", "[", "=>", "->", "do", "then"))


def moved_along(old: Document, new: Document, range: Range) -> Range | None:
    """Where a range of `old` is in `new`, if nothing on its lines has changed."""
    start, end = old.span(range)
    first, last = old.line_at(start), old.line_at(end)
    a, b = old.line_start(first), old.line_start(last) + len(content(old.lines[last]))
    place = rebased(old, new, a, b)
    return None if place is None else new.range(place[0] + start - a, place[0] + end - a)


class Inline:
    """textDocument/inlineCompletion for one session."""

    def __init__(self, session: Session):
        self._session = session
        self._known: dict[str, deque[Suggestion]] = {}

    def forget(self, uri: str) -> None:
        self._known.pop(uri, None)
        self._session.link.latest.cancel(f"inline {uri}")

    def answer(self, params: InlineCompletionParams):  # type: ignore[no-untyped-def]  # an answer, or a coroutine for one
        """An answer at once where no model is needed, else a coroutine."""
        session, uri = self._session, params.text_document.uri
        document = session.documents.get(uri)
        session.link.latest.cancel(f"inline {uri}")
        if document is None:
            return None
        automatic = params.context.trigger_kind != INVOKED
        reason = session.why_not(document)
        if reason is None and automatic and not session.settings.inline.automatic:
            reason = "disabled"
        if reason is not None:
            session.tell(reason)
            return None
        ask = self._ask(document, params, automatic)
        if automatic and ask.in_literal and not session.settings.inline.in_literals:
            session.tell("literal")
            return None
        if automatic and (rest := self.known(uri, ask.gap)) is not None:
            session.reused += 1
            session.shown(uri, rest)
            return _list(ask, [rest])
        return self._asked(ask)

    def known(self, uri: str, gap: Gap) -> str | None:
        """What is left of a suggestion that the user is typing along with."""
        for suggestion in reversed(self._known.get(uri, ())):
            if (rest := suggestion.rest(gap.prefix, gap.suffix)) is not None:
                return rest
        return None

    def keep(self, uri: str, suggestion: Suggestion) -> None:
        self._known.setdefault(uri, deque(maxlen=_REMEMBERED)).append(suggestion)

    def _ask(self, document: Document, params: InlineCompletionParams, automatic: bool) -> _Ask:
        offset = document.offset(params.position)
        start, completed = offset, ""
        chosen = params.context.selected_completion_info
        if chosen is not None:
            start, offset = document.span(chosen.range)
            completed = chosen.text
        gap = around(document.text, start, offset, document.language)
        if completed:
            gap = replace(gap, prefix=gap.prefix + completed)
        literal = automatic and in_literal(gap.opened + gap.prefix, document.language)
        single = is_single_line(gap, self._session.settings.inline.multiline)
        return _Ask(
            document,
            gap,
            start,
            document.range(start, offset),
            completed,
            automatic,
            single,
            literal,
            params.partial_result_token,
        )

    async def _asked(self, ask: _Ask) -> InlineCompletionList | None:
        session, uri = self._session, ask.document.uri
        try:
            texts = await session.link.latest.run(f"inline {uri}", self._written(ask))
        except Superseded:
            return None
        except DiffcoderError as error:
            if error.code in ("superseded", "cancelled"):
                return None
            session.tell("slow" if error.code == "deadline" else self._failure())
            if ask.automatic:
                return None
            raise
        current = session.documents.get(uri)
        if not texts or current is None:
            return None
        if current is not ask.document:
            ranged = moved_along(ask.document, current, ask.range)
            if ranged is None:
                return None  # the user has typed on: the next request finds it in `_known`
            ask = replace(ask, range=ranged)
        session.shown(uri, texts[0])
        return _list(ask, texts)

    async def _written(self, ask: _Ask) -> list[str]:
        """What the model writes: one text, or several when it was asked to."""
        session, options = self._session, self._session.settings.inline
        if ask.automatic:
            if not session.link.ready:
                session.link.warm()
                session.tell(self._failure() if session.link.state == "failed" else "loading")
                return []
            await asyncio.sleep(self.debounce_ms() / 1000)
        limits = Limits(
            max_tokens=options.max_tokens,
            single_line=ask.single_line,
            deadline_ms=AUTOMATIC_MS if ask.automatic else None,
        )
        request, secrets = session.request(ask.document, ask.gap, limits)
        texts: list[str] = []
        wanted = 1 if ask.automatic else options.alternatives
        for number in range(2 * wanted - 1):  # some are drawn twice
            if len(texts) == wanted:
                break
            if number:
                varied = msgspec.structs.replace(limits, temperature=0.3 + 0.2 * number, seed=number)
                request = msgspec.structs.replace(request, limits=varied)
            text = await self._fill(ask, request, secrets)
            if text and text not in texts:
                texts.append(text)
        if len(texts) > 1:  # who types along goes on with the surest, where others begin like it
            self.keep(ask.document.uri, Suggestion(ask.gap.prefix, texts[0], ask.gap.suffix))
        return texts

    async def _fill(self, ask: _Ask, request: FillRequest, secrets: Secrets) -> str:
        """One text that is good enough to be shown, or an empty one."""
        session, uri = self._session, ask.document.uri
        drafts = session.drafts(ask.document, ask.offset, "inline", ask.token)
        response = await session.link.fill(uri, request, drafts.on_draft)
        text = response.text
        if ask.single_line and response.stop_reason == "line" and breaks_off(text, ask.gap):
            # A call over several lines: it is wanted whole, or not at all.
            limits = msgspec.structs.replace(request.limits, single_line=False)
            below = msgspec.structs.replace(request, prefix=f"{request.prefix}{text}\n", limits=limits)
            text += "\n" + (await session.link.fill(uri, below, drafts.on_draft)).text
            text = first_statement(text, ask.gap)
        text = fitted(secrets.reveal(text), ask.gap)
        drafts.done(text)
        reason = self._doubt(response, text) if ask.automatic else None
        if reason is not None:
            session.tell(reason)
            return ""
        if text:
            self.keep(uri, Suggestion(ask.gap.prefix, text, ask.gap.suffix))
        return text

    def _failure(self) -> Silence:
        return "no_model" if self._session.link.model_missing else "failed"

    def _doubt(self, response: FillResponse, text: str) -> Silence | None:
        if response.stop_reason == "deadline":
            return "slow"
        if not text or response.confidence < self._session.settings.inline.confidence:
            return "unsure"
        return None

    def debounce_ms(self) -> float:
        """How long to wait for the next key: a quarter of what a suggestion takes, within bounds."""
        fixed = self._session.settings.inline.debounce_ms
        if fixed is not None:
            return fixed
        if self._session.link.fill_ms is None:
            return _FIRST_DEBOUNCE_MS
        low, high = _DEBOUNCE_MS
        return min(high, max(low, self._session.link.fill_ms / 4))


def _list(ask: _Ask, texts: list[str]) -> InlineCompletionList:
    return InlineCompletionList([InlineCompletionItem(ask.completed + text, ask.range) for text in texts])
