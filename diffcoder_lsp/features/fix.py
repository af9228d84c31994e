"""Fix this: an edit whose instruction is the complaint of any language server, on the lines around it."""

from __future__ import annotations

from typing import Any

from diffcoder_lsp.documents import Document
from diffcoder_lsp.features.edit import noted, title
from diffcoder_lsp.protocol import CodeAction, CodeActionParams, EditArguments

KIND = "quickfix"
LINES_AROUND = 3
MOST = 4


def actions(document: Document, params: CodeActionParams) -> list[tuple[CodeAction, str, Any]]:
    """One action a diagnostic: (the action, its command, the command's argument)."""
    found = []
    for raw in params.context.diagnostics[:MOST]:
        for line, message in noted(document, [raw]):
            first, last = _paragraph(document, line)
            place = document.range(document.line_start(first), document.line_start(last + 1))
            arguments = EditArguments(document.uri, place, f"Fix this problem: {message}", [raw])
            action = CodeAction(title(f"diffcoder: fix {message}"), KIND, [raw])
            found.append((action, "diffcoder.edit", arguments))
    return found


def _paragraph(document: Document, line: int) -> tuple[int, int]:
    """The lines around one, up to a blank line or `LINES_AROUND` away."""
    first = last = line
    while first > max(0, line - LINES_AROUND) and document.lines[first - 1].strip():
        first -= 1
    while last < min(len(document.lines) - 1, line + LINES_AROUND) and document.lines[last + 1].strip():
        last += 1
    return first, last
