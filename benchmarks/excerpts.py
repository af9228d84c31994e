"""What the benchmarks ask: gaps and edits cut from Python's own standard library, the same on every run.

Plain text in, plain text out, lengths in characters and lines. It knows no model, no tokens and no engine.
"""

from __future__ import annotations

import ast
import keyword
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Modules of some size that every supported Python has; a fixed list, so that a run names what it measured.
MODULES = """
    argparse asyncio/base_events bdb calendar cmd codecs configparser copy csv datetime difflib doctest ftplib
    gzip http/client http/cookiejar imaplib inspect json/encoder locale logging/__init__ mailbox mimetypes
    multiprocessing/pool optparse pathlib pdb plistlib pprint profile random selectors shutil smtplib
    socketserver ssl statistics string subprocess tarfile tempfile textwrap threading tokenize trace traceback
    turtle unittest/case urllib/request uuid weakref xml/dom/minidom xmlrpc/client zipapp
"""
EDIT_LINES = 100


@dataclass(frozen=True)
class Gap:
    """A place in a real file, and what was cut out of it: the rest of a function."""

    name: str
    prefix: str
    cut: str
    suffix: str


@dataclass(frozen=True)
class Rename:
    """An edit of EDIT_LINES lines with one right answer: `after`, in which a tenth of the lines differ."""

    name: str
    before: str
    instruction: str
    after: str


def sources(seed: int) -> list[tuple[str, str]]:
    """(name, text) of the modules in an order that depends on `seed` alone. ASCII only: columns are bytes."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = [(name, folder / f"{name}.py") for name in MODULES.split()]
    texts = [(name, path.read_text("latin-1")) for name, path in paths if path.is_file()]
    random.Random(seed).shuffle(texts)
    return [(name, text) for name, text in texts if text.isascii()]


def gaps(seed: int, before: int, after: int) -> Iterator[Gap]:
    """One gap a module: a function that breaks off before one of its statements.

    The prefix has between 90 and 100 % of `before` characters and begins with a line; the suffix, behind the
    function, likewise ends with one.
    """
    choose = random.Random(seed)
    for name, text in sources(seed):
        starts = [0, *(match.end() for match in re.finditer("\n", text))]
        places = [
            (starts[statement.lineno - 1] + statement.col_offset, starts[function.end_lineno or 0] - 1)
            for function in ast.walk(ast.parse(text))
            if isinstance(function, ast.FunctionDef)
            for statement in function.body[1:]
        ]
        places = [(a, b) for a, b in places if a >= before and b + after <= len(text) and 200 <= b - a <= 900]
        if places:
            begin, end = choose.choice(places)
            head, tail = text[begin - before : begin], text[end : end + after]
            yield Gap(name, head[head.index("\n") + 1 :], text[begin:end], tail[: tail.rindex("\n") + 1])


def renames(seed: int) -> Iterator[Rename]:
    """One rename a module: a variable that stands on 8 to 12 of EDIT_LINES lines gets a longer name."""
    choose = random.Random(seed)
    for name, text in sources(seed):
        lines = text.splitlines(keepends=True)
        tops = [
            node.lineno - 1
            for node in ast.parse(text).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        ]
        choose.shuffle(tops)
        for top in tops:
            before = "".join(lines[top : top + EDIT_LINES])
            old = _renameable(lines[top : top + EDIT_LINES])
            if len(lines) >= top + EDIT_LINES and 3000 <= len(before) <= 4500 and old:
                new = f"{old}_value"
                after = re.sub(rf"\b{old}\b", new, before)
                yield Rename(f"{name}:{top + 1}", before, f"Rename the variable {old} to {new}.", after)
                break


def _renameable(lines: list[str]) -> str | None:
    """Of the variables that stand on 8 to 12 of the lines, the alphabetically first."""
    text = "".join(lines)
    on_lines = Counter(word for line in lines for word in set(re.findall(r"\b[a-z]{4,12}\b", line)))
    for word, count in sorted(on_lines.items()):
        assigned = re.search(rf"^\s*(?:for )?{word}\b(?: = | in )", text, re.MULTILINE)
        if 8 <= count <= 12 and assigned and not keyword.iskeyword(word) and f"{word}_value" not in text:
            return word
    return None
