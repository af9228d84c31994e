"""Where text is to be written: a cursor, a range or a marker in a text becomes a `Gap`.

Positions are the ones people type: lines and columns count from 1, a column counts characters (Unicode
code points: a tab is one, an emoji is one), column 1 stands before the first character of the line and
column `length + 1` after the last one. A text that ends with a line end has an empty last line, as in an
editor. Knows nothing of files, of the protocol's UTF-16 columns or of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from diffcoder_lsp.lines import content, newline_near, split_lines, with_line_ends
from model.schema import DiffcoderError, FillRequest, Limits

MARKER = "‹?›"
"""Written into a text, it says "fill this in"."""

_LANGUAGES = {
    "bash": "sh bash zsh",
    "c": "c h",
    "clojure": "clj cljs cljc",
    "cmake": "cmake",
    "cpp": "cc cpp cxx hh hpp hxx",
    "csharp": "cs",
    "css": "css",
    "dart": "dart",
    "dockerfile": "dockerfile",
    "elixir": "ex exs",
    "erlang": "erl hrl",
    "fsharp": "fs fsx",
    "go": "go",
    "haskell": "hs",
    "html": "html htm",
    "java": "java",
    "javascript": "js cjs mjs",
    "javascriptreact": "jsx",
    "json": "json",
    "julia": "jl",
    "kotlin": "kt kts",
    "lua": "lua",
    "makefile": "mk",
    "markdown": "md markdown",
    "ocaml": "ml mli",
    "perl": "pl pm",
    "php": "php",
    "powershell": "ps1 psm1",
    "python": "py pyi pyw",
    "r": "r",
    "ruby": "rb rake gemspec",
    "rust": "rs",
    "scala": "scala sc",
    "scss": "scss",
    "sql": "sql",
    "swift": "swift",
    "toml": "toml",
    "typescript": "ts cts mts",
    "typescriptreact": "tsx",
    "xml": "xml xsd svg",
    "yaml": "yaml yml",
    "zig": "zig",
}
_BY_EXTENSION = {extension: name for name, all_ in _LANGUAGES.items() for extension in all_.split()}
_BY_FILE_NAME = {
    "cmakelists.txt": "cmake",
    "containerfile": "dockerfile",
    "dockerfile": "dockerfile",
    "gemfile": "ruby",
    "gnumakefile": "makefile",
    "makefile": "makefile",
    "rakefile": "ruby",
}


@dataclass(frozen=True)
class Gap:
    """A place to write at, between `prefix` and `suffix`.

    `indent` is the white space that the gap's line begins with (up to the gap), `partial_identifier` the
    unfinished name that touches the gap from the left, `newline` the line end to write with, `language`
    an LSP language identifier or None, `opened` what opened the string or comment in which `prefix` begins.
    """

    prefix: str
    suffix: str
    indent: str
    partial_identifier: str
    newline: str
    language: str | None
    opened: str = ""

    def request(self, limits: Limits, path: str | None = None, model: str | None = None) -> FillRequest:
        """What to ask the engine: models write `\\n`, so they read nothing else either."""
        return FillRequest(
            prefix=with_line_ends(self.prefix, "\n"),
            suffix=with_line_ends(self.suffix, "\n"),
            language=self.language,
            path=path,
            limits=limits,
            model=model,
        )

    def filled(self, text: str) -> str:
        """The whole text once `text` (with any line ends) stands in the gap."""
        return self.prefix + with_line_ends(text, self.newline) + self.suffix


def gap_between(text: str, start: int, end: int, language: str | None = None) -> Gap:
    """The gap that replaces `text[start:end]` (character offsets); `start == end` is a cursor."""
    prefix, suffix = text[:start], text[end:]
    line = prefix[max(prefix.rfind("\n"), prefix.rfind("\r")) + 1 :]
    start_of_word = len(line)
    while start_of_word and (line[start_of_word - 1].isalnum() or line[start_of_word - 1] == "_"):
        start_of_word -= 1
    word = line[start_of_word:]
    return Gap(
        prefix=prefix,
        suffix=suffix,
        indent=line[: len(line) - len(line.lstrip())],
        partial_identifier=word if word.isidentifier() else "",
        newline=newline_near(prefix, suffix),
        language=language,
    )


def gap_at(text: str, line: int, column: int, language: str | None = None) -> Gap:
    """The gap at a cursor. A position outside `text` is an error that says which ones exist."""
    offset = offset_of(text, line, column)
    return gap_between(text, offset, offset, language)


def pieces_at_markers(text: str) -> list[str]:
    """The pieces of `text` around its `MARKER`s, one more than there are gaps.

    Whoever fills them goes from left to right: each gap lies between all that is done and all that is left.
    """
    pieces = text.split(MARKER)
    if len(pieces) == 1:
        raise DiffcoderError(
            "no_gap",
            f"The text has no gap: name a position as FILE:LINE:COL, or write {MARKER} into the file.",
        )
    return pieces


def offset_of(text: str, line: int, column: int) -> int:
    """Character offset of a 1-based position in `text`."""
    lines = split_lines(text)
    if not lines or lines[-1] != content(lines[-1]):
        lines.append("")
    if not 1 <= line <= len(lines):
        raise DiffcoderError(
            "bad_position", f"Line {line} is outside the file: give a line from 1 to {len(lines)}."
        )
    last = len(content(lines[line - 1])) + 1
    if not 1 <= column <= last:
        raise DiffcoderError(
            "bad_position", f"Column {column} is outside line {line}: give a column from 1 to {last}."
        )
    return sum(map(len, lines[: line - 1])) + column - 1


def position_of(text: str, offset: int) -> tuple[int, int]:
    """The 1-based (line, column) of a character offset: the inverse of `offset_of`."""
    lines = split_lines(text[:offset])
    if not lines or lines[-1] != content(lines[-1]):
        lines.append("")
    return len(lines), len(lines[-1]) + 1


def line_range(text: str, start: int, end: int) -> tuple[int, int]:
    """Character offsets of lines `start`..`end` (1-based, inclusive), the last line's end included."""
    lines = split_lines(text) or [""]
    if not 1 <= start <= end <= len(lines):
        raise DiffcoderError(
            "bad_position",
            f"Lines {start}-{end} are not in the file: give START-END with 1 ≤ START ≤ END ≤ {len(lines)}.",
        )
    return sum(map(len, lines[: start - 1])), sum(map(len, lines[:end]))


def language_of(path: str | PurePath) -> str | None:
    """The LSP language identifier that a file's name suggests, or None."""
    name = PurePath(path).name.lower()
    return _BY_FILE_NAME.get(name) or _BY_EXTENSION.get(name.rpartition(".")[2] if "." in name else "")
