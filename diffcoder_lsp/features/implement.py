"""Implement: the stub bodies of functions (`pass`, `...`, `todo!()`, a TODO), found, and written by the model."""

from __future__ import annotations

import re
from typing import Any

from diffcoder_lsp.documents import Document
from diffcoder_lsp.lines import content
from diffcoder_lsp.protocol import CodeAction, CodeActionParams, ImplementArguments

KIND = "refactor.rewrite"
_PYTHON_STUB = re.compile(r"pass|\.\.\.|raise NotImplementedError(?:\(.*\))?|#\s*TODO\b.*")
_BRACE_STUB = re.compile(
    r"(?:todo|unimplemented)!\(.*\);?|(?i:throw\b.*(?:not\W*implemented|todo).*|panic\(.*(?:not\W*implemented|todo).*\);?)"
    r"|//\s*TODO\b.*"
)
_PYTHON_HEADER = re.compile(r"(?:async\s+)?def\s.*:|\).*:")
_NAME = re.compile(r"(?:def|fn|func|function|fun)\s+(\w+)|(\w+)\s*\(")


def stubs(document: Document, first: int, last: int) -> list[tuple[int, int]]:
    """Offsets of the stub bodies that lines `first` to `last` (from 0) touch, indentation and line end left out."""
    pattern = _PYTHON_STUB if document.language == "python" else _BRACE_STUB
    found: list[tuple[int, int]] = []
    number = first
    if _is_stub(document, number, pattern):
        while number > 0 and _is_stub(document, number - 1, pattern):
            number -= 1
    while number <= last:
        end = number
        while end < len(document.lines) and _is_stub(document, end, pattern):
            end += 1
        if end > number and _is_whole_body(document, number, end):
            line = document.lines[number]
            start = document.line_start(number) + len(line) - len(line.lstrip())
            found.append(
                (start, document.line_start(end - 1) + len(content(document.lines[end - 1]).rstrip()))
            )
        number = max(end, number + 1)
    return found


def actions(document: Document, params: CodeActionParams) -> list[tuple[CodeAction, str, Any]]:
    """An action for the stub under the cursor, or under its function's header."""
    line = min(params.range.start.line, len(document.lines) - 1)
    last = min(max(line + 3, params.range.end.line), len(document.lines) - 1)
    if not _looks_like_header(content(document.lines[line])):
        last = min(params.range.end.line, len(document.lines) - 1)
    for start, end in stubs(document, line, last)[:1]:
        above = document.text[max(0, start - 400) : start]
        names = [a or b for a, b in _NAME.findall(above)]
        action = CodeAction(f"diffcoder: implement {names[-1] if names else 'this'}", KIND)
        return [(action, "diffcoder.implement", ImplementArguments(document.uri, document.range(start, end)))]
    return []


def _looks_like_header(line: str) -> bool:
    return line.rstrip().endswith((":", "{"))


def _is_stub(document: Document, number: int, pattern: re.Pattern[str]) -> bool:
    return bool(pattern.fullmatch(document.lines[number].strip()))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _says_nothing(text: str) -> bool:
    """Whether lines of Python are a docstring, with comments below it, or comments alone."""
    quotes = text[:3]
    if quotes in ('"""', "'''"):
        text = text[3:].partition(quotes)[2]
    return all(line.lstrip().startswith("#") for line in text.splitlines() if line.strip())


def _is_whole_body(document: Document, start: int, end: int) -> bool:
    """Whether lines `start` up to `end` are all that a function does, a docstring or comments above them aside."""
    lines, indent = document.lines, _indent(document.lines[start])
    following = next((line for line in lines[end:] if line.strip()), "")
    header = start - 1
    while header >= 0 and (not lines[header].strip() or _indent(lines[header]) >= indent):
        header -= 1
    if header < 0:
        return False
    head, between = lines[header].strip(), "".join(lines[header + 1 : start]).strip()
    if document.language == "python":
        return bool(_PYTHON_HEADER.fullmatch(head)) and _says_nothing(between) and _indent(following) < indent
    return (
        head.endswith("{")
        and "(" in head + lines[max(0, header - 1)]
        and not between
        and following.strip()[:1] == "}"
    )
