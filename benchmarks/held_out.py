"""Gaps in files that no corpus of ours trains on: Python of the packages that the Makefile installs, by fixed rules.

A file is held out by the very rule that keeps it out of a corpus (training/corpus.py: the hash of its name), so
whoever has the pinned packages has the same gaps. Places are where users stop typing; what was cut out is kept as
the truth. It knows no model and no server.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import itertools
import random
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.corpus import Document, Source

PACKAGES = """
    accelerate anyio cattrs click dateutil fontTools fsspec hypothesis httpcore httpx huggingface_hub lsprotocol
    markdown_it matplotlib mpmath mypy networkx numpy packaging peft pluggy psutil pydantic pygments pyparsing _pytest
    requests rich scipy starlette sympy torch tqdm transformers typer urllib3 uvicorn yaml
"""
_NOT = {"test", "tests", "testing", "_vendor", "vendor", "third_party", "__pycache__"}
_CHARS = range(2_000, 80_000)
_LINES = range(1, 7)
_MOST = 14
"""Files of one package, so that the largest do not decide."""
Line = list[tokenize.TokenInfo]
Kind = Literal["rest of a line", "within a line", "whole lines"]


@dataclass(frozen=True)
class Gap:
    """`text[start:end]` was cut out of a file; `text` is the whole."""

    name: str
    kind: Kind
    text: str
    start: int
    end: int

    @property
    def prefix(self) -> str:
        return self.text[: self.start]

    @property
    def cut(self) -> str:
        return self.text[self.start : self.end]

    @property
    def suffix(self) -> str:
        return self.text[self.end :]


def files(packages: str = PACKAGES) -> Iterator[tuple[str, str]]:
    """(name, text) of the held-out files, always in the same order."""
    for package in sorted(packages.split()):
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            continue
        folder, taken = Path(found.submodule_search_locations[0]), 0
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
        for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
            document = Document(Source(package, folder, ""), name, "python", "", "")
            if document.held_out != "file" or taken == _MOST or not _NOT.isdisjoint(name.split("/")):
                continue
            text = (folder / name).read_text("utf-8", "replace")
            if len(text) in _CHARS and "\r" not in text and "\f" not in text:
                taken += 1
                yield f"{package}/{name}", text


def gaps(count: int, seed: int = 6, packages: str = PACKAGES) -> list[Gap]:
    """`count` gaps, a third of each kind, one a file and kind; a smaller count gives the first of a larger one."""
    draw = random.Random(seed)
    pools: dict[Kind, list[Gap]] = {"rest of a line": [], "within a line": [], "whole lines": []}
    for name, text in files(packages):
        lines = list(_lines_of_tokens(text))
        found: dict[Kind, list[tuple[int, int]]] = {
            "rest of a line": _rests(text, lines),
            "within a line": _insides(text, lines),
            "whole lines": _statements(text),
        }
        for kind, places in found.items():
            if places:
                pools[kind].append(Gap(name, kind, text, *draw.choice(places)))
    for pool in pools.values():
        draw.shuffle(pool)
    return [gap for trio in zip(*pools.values(), strict=False) for gap in trio][:count]


def _starts(text: str) -> list[int]:
    """Where each line begins, at index line number from 1."""
    return [0, 0, *itertools.accumulate(len(line) + 1 for line in text.split("\n"))]


def _lines_of_tokens(text: str) -> Iterator[Line]:
    """The tokens of every statement that stands on one line, comments left out; blocks' headers are among them."""
    line: list[tokenize.TokenInfo] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NEWLINE:
                if line and line[0].start[0] == line[-1].end[0] and len(line) > 3:
                    yield line
                line = []
            elif token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT):
                line.append(token)
    except (tokenize.TokenError, SyntaxError):
        return


def _rests(text: str, lines: list[Line]) -> list[tuple[int, int]]:
    """From behind a token to the end of its line, nothing else following there."""
    starts, places = _starts(text), []
    for line in lines:
        base, end = starts[line[0].start[0]], starts[line[-1].end[0]] + line[-1].end[1]
        if text[end : end + 1] == "\n":
            for before, after in itertools.pairwise(line):
                start = base + (after.start[1] if after.start[1] > before.end[1] else before.end[1])
                if end - start >= 3:
                    places.append((start, end))
    return places


def _insides(text: str, lines: list[Line]) -> list[tuple[int, int]]:
    """From behind a token within brackets up to the bracket that closes them, on one line."""
    starts, places = _starts(text), []
    for line in lines:
        base = starts[line[0].start[0]]
        stack: list[int] = []
        for number, token in enumerate(line):
            if token.string in ("(", "[", "{"):
                stack.append(number)
            elif token.string in (")", "]", "}") and stack:
                first = stack.pop()
                for inner in range(first, number - 1):
                    following = line[inner + 1]
                    places.append((base + following.start[1], base + token.start[1]))
    return [(a, b) for a, b in places if b - a >= 3]


def _statements(text: str) -> list[tuple[int, int]]:
    """One or two statements within a function, of a few lines, from their indentation to their end."""
    starts, places = _starts(text), []
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return []
    lines = text.split("\n")

    def at(line: int, column: int) -> int:
        return starts[line] + len(lines[line - 1].encode()[:column].decode())

    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and not isinstance(node, ast.Module | ast.ClassDef):
            for number, first in enumerate(body):
                last = body[min(number + 1, len(body) - 1)] if number % 2 else first
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    continue  # a docstring
                if isinstance(first, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    continue
                end_line, end_column = last.end_lineno or 0, last.end_col_offset or 0
                start, end = at(first.lineno, first.col_offset), at(end_line, end_column)
                alone = not text[starts[first.lineno] : start].strip() and text[end : end + 1] == "\n"
                if alone and end_line - first.lineno + 1 in _LINES and end - start >= 8:
                    places.append((start, end))
    return places
