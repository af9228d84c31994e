"""The completion list as a fallback: one entry with what the model would write, for clients without ghost text."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import Any

from diffcoder_lsp.documents import Document
from diffcoder_lsp.features.inline import Inline
from diffcoder_lsp.protocol import (
    CompletionItem,
    CompletionList,
    CompletionParams,
    InlineCompletionContext,
    InlineCompletionParams,
    Position,
    Range,
    TextEdit,
)
from diffcoder_lsp.session import Session

_LABEL_CHARS = 60


class Complete:
    """textDocument/completion for one session. The list is never complete: the next key asks again."""

    def __init__(self, session: Session, inline: Inline):
        self._session, self._inline = session, inline

    def answer(self, params: CompletionParams) -> Coroutine[Any, Any, CompletionList]:
        document = self._session.documents.get(params.text_document.uri)
        asked = InlineCompletionParams(params.text_document, params.position, InlineCompletionContext(2))
        return self._listed(params.text_document.uri, document, self._inline.answer(asked))

    async def _listed(self, uri: str, document: Document | None, found: Any) -> CompletionList:
        if inspect.iscoroutine(found):
            found = await found
            document = self._session.documents.get(uri)  # its places are those of the text as it is now
        if document is None or found is None:
            return CompletionList(True, [])
        items = []
        for item in found.items:
            # The entry replaces the name that was begun: clients match what is typed against that.
            offset = document.offset(item.range.start)
            line = document.lines[document.line_at(offset)]
            column = offset - document.line_start(document.line_at(offset))
            start = column
            while start and (line[start - 1].isalnum() or line[start - 1] == "_"):
                start -= 1
            typed = line[start:column]
            place = document.range(offset - len(typed), offset)
            text = typed + item.insert_text
            items.append(_item(text, place, item.range.end))
        return CompletionList(True, items)


def _item(text: str, place: Range, end: Position) -> CompletionItem:
    first = text.strip().splitlines()[0]
    label = first if len(first) <= _LABEL_CHARS else first[: _LABEL_CHARS - 1] + "…"
    if "\n" in text.strip():
        label += " …"
    # An entry whose text begins with white space would match nothing that can be typed.
    return CompletionItem(
        label=label,
        text_edit=TextEdit(Range(place.start, end), text),
        detail="diffcoder",
        filter_text=text,
        sort_text="~",
    )
