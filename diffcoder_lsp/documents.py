"""The client's open documents, kept equal to what it shows: text, versions, and positions in its encoding.

A `Document` never changes: an edit makes a new one, so whoever holds one holds the text of its moment. Lines
end where the protocol says they do (lines.py), which is not where `str.splitlines` has it. A position beyond
its line or its file means the end of it, a negative one its start; one inside a character means its start.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from diffcoder_lsp.edits import Edit, edits
from diffcoder_lsp.gaps import language_of
from diffcoder_lsp.lines import content, line_end, split_lines
from diffcoder_lsp.protocol import ContentChange, Position, Range, TextEdit

RECENT = 8
_LINE_ENDS = ("\n", "\r")
Encoding = Literal["utf-8", "utf-16", "utf-32"]
_LANGUAGES = {"": None, "plaintext": None, "sh": "bash", "shellscript": "bash", "c++": "cpp", "py": "python"}


def units(text: str, encoding: Encoding) -> int:
    """How many code units `text` has."""
    if encoding == "utf-32" or text.isascii():
        return len(text)
    if encoding == "utf-8":
        return len(text.encode("utf-8", "surrogatepass"))
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def index(text: str, at: int, encoding: Encoding) -> int:
    """The character that stands `at` code units into `text`; its length where there is none."""
    head = text[: max(0, at)]  # no character is less than a unit, so the place is in here
    if encoding == "utf-32" or head.isascii():
        return len(head)
    codec, width = ("utf-8", 1) if encoding == "utf-8" else ("utf-16-le", 2)
    data = head.encode(codec, "surrogatepass")
    if len(data) <= at * width:
        return len(head)
    # What is cut off in mid-character is left out.
    return len(data[: at * width].decode(codec, "ignore"))


def lines_of(text: str) -> list[str]:
    """The lines of a document with their ends; the last one has none, so there is always one."""
    lines = split_lines(text)
    if not lines or line_end(lines[-1]):
        lines.append("")
    return lines


@dataclass(frozen=True)
class Document:
    """One version of a document. Offsets count characters of `text`."""

    uri: str
    lines: Sequence[str]
    version: int | None = None
    language: str | None = None
    encoding: Encoding = "utf-16"

    @classmethod
    def of(
        cls,
        uri: str,
        text: str,
        version: int | None = None,
        language: str | None = None,
        encoding: Encoding = "utf-16",
    ) -> Document:
        """A document from its text; a `language` that says nothing is looked up by the file's name."""
        named = _LANGUAGES.get(language or "", language)
        return cls(uri, lines_of(text), version, named or language_of(path_of(uri)), encoding)

    @cached_property
    def text(self) -> str:
        return "".join(self.lines)

    @cached_property
    def path(self) -> str:
        return path_of(self.uri)

    @cached_property
    def _starts(self) -> list[int]:
        """Where each line begins, and where the text ends."""
        return [0, *itertools.accumulate(map(len, self.lines))]

    def offset(self, position: Position) -> int:
        """The character at a client's position."""
        line, column = self._column(position)
        return self._starts[line] + column

    def position(self, offset: int) -> Position:
        """The client's position of a character."""
        line = self.line_at(offset)
        before = content(self.lines[line])[: offset - self._starts[line]]
        return Position(line, units(before, self.encoding))

    def span(self, range: Range) -> tuple[int, int]:
        """The offsets of a range, in order even where a client confuses them."""
        start, end = sorted((self.offset(range.start), self.offset(range.end)))
        return start, end

    def range(self, start: int, end: int) -> Range:
        return Range(self.position(start), self.position(end))

    def text_edit(self, edit: Edit) -> TextEdit:
        return TextEdit(self.range(edit.start, edit.end), edit.text)

    def line_at(self, offset: int) -> int:
        """The number of the line, from 0, that holds a character."""
        return min(bisect.bisect_right(self._starts, offset), len(self.lines)) - 1

    def line_start(self, line: int) -> int:
        return self._starts[line]

    def _column(self, position: Position) -> tuple[int, int]:
        if position.line < 0:
            return 0, 0
        if position.line >= len(self.lines):
            return len(self.lines) - 1, len(self.lines[-1])
        return position.line, index(content(self.lines[position.line]), position.character, self.encoding)

    def changed(self, changes: Sequence[ContentChange], version: int | None) -> Document:
        """The document after `changes`, each of which speaks of the text that the one before it left."""
        lines, text = self.lines, None
        if len(changes) == 1 and (range := changes[0].range) is not None:
            # A key: the text is not put together from all lines again.
            start, end = self.span(range)
            text = self.text[:start] + changes[0].text + self.text[end:]
        for change in changes:
            if change.range is None:
                lines = lines_of(change.text)
            else:
                lines = _replaced(
                    Document(self.uri, lines, encoding=self.encoding), change.range, change.text
                )
        document = Document(self.uri, lines, version, self.language, self.encoding)
        if text is not None:
            document.__dict__["text"] = text
        return document


def _replaced(document: Document, range: Range, text: str) -> list[str]:
    lines = document.lines
    places = sorted((document._column(range.start), document._column(range.end)))
    (first, start), (last, end) = places
    middle = lines[first][:start] + text + lines[last][end:]
    last += 1
    # A `\r` and a `\n` that come together are one line end.
    if first and middle.startswith("\n") and lines[first - 1].endswith("\r"):
        first -= 1
        middle = lines[first] + middle
    if last < len(lines) and middle.endswith("\r") and lines[last].startswith("\n"):
        middle += lines[last]
        last += 1
    new = lines_of(middle)
    if last < len(lines) and not new[-1]:
        new.pop()  # the empty line behind `middle` is the line that follows it
    return [*lines[:first], *new, *lines[last:]]


def path_of(uri: str) -> str:
    """The file's path where the URI names one, else the URI's own path (`untitled:Untitled-1`)."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    return url2pathname(parts.path) if parts.scheme in ("", "file") else unquote(parts.path)


def rebased(old: Document, new: Document, start: int, end: int) -> tuple[int, int] | None:
    """Where `old[start:end]` stands in `new`, a later version; None when it, or what touches it, changed. New lines
    above or below whole lines do not touch them."""
    if old.text == new.text:
        return start, end
    shift = 0
    for edit in edits(old.text, new.text):
        lines = edit.start == edit.end and edit.text.endswith(_LINE_ENDS)
        if edit.end < start or (lines and edit.end == start and _begins_line(old.text, start)):
            shift += len(edit.text) - (edit.end - edit.start)
        elif edit.start < end or (edit.start == end and not (lines and _begins_line(old.text, end))):
            return None
    return start + shift, end + shift


def _begins_line(text: str, offset: int) -> bool:
    return offset == 0 or text[offset - 1] in _LINE_ENDS


class Documents:
    """The open documents by URI, and in which order they were worked on; of the closed ones the last few. `encoding` is
    agreed at the start."""

    def __init__(self, encoding: Encoding = "utf-16"):
        self.encoding: Encoding = encoding
        self._open: dict[str, Document] = {}
        self._closed: dict[str, Document] = {}

    def open(self, uri: str, text: str, version: int | None, language: str) -> Document:
        document = Document.of(uri, text, version, language, self.encoding)
        self._put(document)
        return document

    def change(self, uri: str, changes: Sequence[ContentChange], version: int | None) -> Document | None:
        """Apply a client's changes; None for a document that it never opened."""
        if uri not in self._open:
            return None
        document = self._open[uri].changed(changes, version)
        self._put(document)
        return document

    def close(self, uri: str) -> None:
        document = self._open.pop(uri, None)
        if document is not None:
            self._closed.pop(uri, None)
            self._closed[uri] = document
            while len(self._closed) > RECENT:
                del self._closed[next(iter(self._closed))]

    def get(self, uri: str) -> Document | None:
        return self._open.get(uri)

    def others(self, uri: str) -> list[Document]:
        """The other open documents, the last that was opened or changed first, then those that were closed last.
        Stays the same while the user types in `uri`, and so does a prompt that is made of them."""
        known = [*reversed(self._open.values()), *reversed(self._closed.values())]
        return [document for document in known if document.uri != uri]

    def _put(self, document: Document) -> None:
        self._open.pop(document.uri, None)
        self._closed.pop(document.uri, None)
        self._open[document.uri] = document
