"""Fill all gaps of a document together: markers, stub bodies, ranges; the surest first, each seeing the others.

Every gap is filled once by itself; then, in the order of the model's confidence, each is filled again with all that
is settled before it in the text. The result is one edit. Implement is this with one gap.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from diffcoder_lsp.applying import Change
from diffcoder_lsp.documents import Document
from diffcoder_lsp.features.edit import selected_lines, varied
from diffcoder_lsp.features.implement import stubs
from diffcoder_lsp.features.inline import fitted, is_single_line
from diffcoder_lsp.gaps import MARKER
from diffcoder_lsp.lines import content
from diffcoder_lsp.protocol import FillGapsArguments, ImplementArguments, Token
from diffcoder_lsp.session import Session, around
from model.schema import DiffcoderError, Limits

MOST_GAPS = 32
GAP_TOKENS = 256


def gaps(document: Document, arguments: FillGapsArguments) -> list[tuple[int, int]]:
    """The offsets of the gaps that are meant, in order, none overlapping another."""
    if arguments.ranges is not None:
        found = sorted(_text_of_lines(document, *document.span(range)) for range in arguments.ranges)
        if any(a[1] > b[0] for a, b in itertools.pairwise(found)):
            raise DiffcoderError("bad_request", "The ranges overlap: give ranges that do not.")
    else:
        first, last = 0, len(document.lines) - 1
        low, high = 0, len(document.text)
        if arguments.range is not None:
            first, last = selected_lines(document, arguments.range)
            low, high = document.span(arguments.range)
        found, at = [], low
        while (at := document.text.find(MARKER, at, high)) >= 0:
            found.append((at, at + len(MARKER)))
            at += len(MARKER)
        # A marker says more exactly what is missing than the stub that it stands in.
        whole = [(a, b) for a, b in stubs(document, first, last) if not any(a <= at < b for at, _ in found)]
        found = sorted([*found, *whole])
        if not found and arguments.range is not None and low < high:
            found = [_text_of_lines(document, low, high)]
    if not found:
        raise DiffcoderError(
            "no_gap", f"There is no gap: write {MARKER} where something is missing, or select it."
        )
    if len(found) > MOST_GAPS:
        raise DiffcoderError(
            "too_many", f"There are {len(found)} gaps and at most {MOST_GAPS} go together: select some."
        )
    return found


def _text_of_lines(document: Document, start: int, end: int) -> tuple[int, int]:
    """The offsets of a range; one of whole lines ends where the next line begins, and keeps its last line end."""
    return start, start + len(content(document.text[start:end]))


async def changes(
    session: Session,
    document: Document,
    places: Sequence[tuple[int, int]],
    variation: int = 0,
    token: Token | None = None,
) -> list[Change]:
    """What the model writes into each place; a place for which it has nothing is left out."""
    settled: dict[int, str] = {}
    sure: dict[int, float] = {}
    first: dict[int, str] = {}
    for number in range(len(places)):
        first[number], sure[number] = await _filled(
            session, document, places, settled, number, variation, token
        )
    for number in sorted(sure, key=lambda number: -sure[number]):
        again = bool(settled)
        text = (
            (await _filled(session, document, places, settled, number, variation, token))[0]
            if again
            else first[number]
        )
        if text:
            settled[number] = text
    return [Change(*places[number], text) for number, text in sorted(settled.items())]


def stub(document: Document, arguments: ImplementArguments) -> list[tuple[int, int]]:
    """The stub around a range; DiffcoderError where there is none."""
    found = stubs(document, *selected_lines(document, arguments.range))
    if not found:
        raise DiffcoderError("no_stub", "There is no stub body here: put the cursor on pass, ... or a TODO.")
    return found[:1]


async def _filled(
    session: Session,
    document: Document,
    places: Sequence[tuple[int, int]],
    settled: dict[int, str],
    number: int,
    variation: int,
    token: Token | None,
) -> tuple[str, float]:
    """The model's text for one place, seeing what is settled, and how sure it is. Markers are never shown to it."""
    start = places[number][0]
    before, after, at = "", "", 0
    for other, (a, b) in enumerate(places):
        piece = document.text[at:a].replace(MARKER, "")  # one that is not meant is not shown either
        own = settled.get(other, "" if document.text[a:b] == MARKER else document.text[a:b])
        if other < number:
            before += piece + own
        elif other == number:
            before += piece
        else:
            after += piece + own
        at = b
    after += document.text[at:].replace(MARKER, "")
    text = before + after
    gap = around(text, len(before), len(before), document.language)
    behind = gap.suffix.partition("\n")[0].strip()
    limits = Limits(max_tokens=GAP_TOKENS, single_line=bool(behind) and is_single_line(gap, "auto"))
    request, secrets = session.request(document, gap, varied(limits, variation))
    drafts = session.drafts(document, start, "gap", token)
    answer = await session.link.fill(document.uri, request, drafts.on_draft)
    filling = fitted(secrets.reveal(answer.text), gap)
    drafts.done(filling)
    return filling, answer.confidence
