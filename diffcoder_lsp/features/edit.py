"""Edit with an instruction: the lines of a selection, rewritten; whatever the model says, nothing else changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from diffcoder_lsp.applying import Change
from diffcoder_lsp.context import Secrets
from diffcoder_lsp.documents import Document
from diffcoder_lsp.edits import MAX_INSTRUCTION, check_instruction, replace_lines
from diffcoder_lsp.lines import content, newline_near
from diffcoder_lsp.protocol import CodeAction, CodeActionParams, EditArguments, Noted, Range, Token
from diffcoder_lsp.scan import visible
from diffcoder_lsp.session import Session
from model.schema import Diagnostic, DiffcoderError, EditRequest, Limits

KIND = "refactor.rewrite"
AROUND_CHARS = 24_000
"""Text on each side of the selection that is sent: more than any window holds."""
_TITLE_CHARS = 60
_COMMENT = re.compile(r"\s*(?:#|//|--|;)+\s*(\S.{2,})")


def title(text: str) -> str:
    """A sentence that fits a menu."""
    text = " ".join(text.split())
    return text if len(text) <= _TITLE_CHARS else text[: _TITLE_CHARS - 1] + "…"


def varied(limits: Limits, variation: int) -> Limits:
    """Limits for another answer to the same request: the first is the model's surest, the others are drawn."""
    if variation <= 0:
        return limits
    return msgspec.structs.replace(limits, temperature=min(0.3 + 0.2 * variation, 0.9), seed=variation)


def selected_lines(document: Document, range: Range) -> tuple[int, int]:
    """First and last line, from 0, that a selection touches; one that ends at a line's start leaves that line out."""
    start, end = document.span(range)
    first, last = document.line_at(start), document.line_at(end)
    if last > first and end == document.line_start(last):
        last -= 1
    return first, last


def actions(
    session: Session, document: Document, params: CodeActionParams
) -> list[tuple[CodeAction, str, Any]]:
    """What can be done with a selection: (the action, its command, the command's argument)."""
    if params.range.start == params.range.end:
        return []
    first, _ = selected_lines(document, params.range)
    offers = list(session.settings.edit.instructions)
    for number in (first, first - 1):
        if number >= 0 and (match := _COMMENT.fullmatch(content(document.lines[number]))):
            offers.insert(0, match[1].strip())
            break
    return [
        (
            CodeAction(title(f"diffcoder: {offer}"), KIND),
            "diffcoder.edit",
            EditArguments(document.uri, params.range, offer),
        )
        for offer in offers
        if len(offer) <= MAX_INSTRUCTION  # a longer one would only be refused
    ]


def _ended(document: Document, line: int) -> str:
    """The line end that a line is lent for an edit: one where it is the empty one behind a text's last line end, which
    is no line to the engine."""
    last = line == len(document.lines) - 1 and not document.lines[line]
    return newline_near(document.text, "") if last and document.text else ""


def noted(document: Document, raw: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    """Line (from 0) and message of each diagnostic that has both."""
    found = []
    for each in raw:
        try:
            said = msgspec.convert(each, Noted)
        except msgspec.ValidationError:
            continue  # what other servers say is not ours to correct
        if 0 <= said.range.start.line < len(document.lines):
            found.append((said.range.start.line, said.message[:500]))
    return found


async def changes(
    session: Session, document: Document, arguments: EditArguments, token: Token | None = None
) -> list[Change]:
    """What the model makes of the lines of a selection; drafts go to the request's `token`."""
    instruction = arguments.instruction.strip()
    check_instruction(instruction)
    first, last = selected_lines(document, arguments.range)
    lent = _ended(document, last)
    a, b = document.line_start(first), document.line_start(last + 1)
    top = document.line_at(max(0, a - AROUND_CHARS)) if a > AROUND_CHARS else 0
    bottom = document.line_at(min(len(document.text), b + AROUND_CHARS))
    secrets = Secrets()
    before = "".join(document.lines[top : bottom + 1])
    request = EditRequest(
        before=secrets.hide(before) + lent,
        start=first - top + 1,
        end=last - top + 1,
        instruction=secrets.hide(instruction),
        language=document.language,
        path=document.path.rpartition("/")[2],
        diagnostics=tuple(
            Diagnostic(line - top + 1, secrets.hide(message))
            for line, message in noted(document, arguments.diagnostics)
            if top <= line <= bottom
        ),
        limits=varied(Limits(max_tokens=session.settings.edit.max_tokens), arguments.variation),
    )
    drafts = session.drafts(document, a, "edit", token)
    answer = await session.link.edit(document.uri, request, drafts.on_draft)
    drafts.done(answer.replacement)
    if answer.stop_reason not in ("end_token", "stop_string"):
        raise DiffcoderError(
            "unfinished", "The model did not come to an end: select fewer lines, or ask for less."
        )
    old = document.text[a:b]
    text = visible(secrets.reveal(answer.replacement), old)
    new = replace_lines(document.text + lent, first + 1, last + 1, text)
    written = new[a : len(new) - (len(document.text) - b)]
    if lent:  # blank lines at the end are none that anybody wrote
        written = written.rstrip() and written.rstrip() + lent
    return [Change(a, b, written)]
