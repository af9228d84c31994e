"""Edits of which the right answer is certain: a variable renamed throughout a function, a bug put in to be taken out.

Python only, by its own parser. A renaming is kept when the new tree is the old one with the name exchanged, and
nothing else; a bug is one operator changed, and the answer is the function as it was. Nothing is run.
"""

from __future__ import annotations

import ast
import random
import re
import warnings
from collections.abc import Iterable, Iterator

from training.corpus import Document
from training.edits import Edit

MOST_LINES, LEAST_LINES = 40, 4
_FLIPS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
_BINDERS = (
    ast.ExceptHandler,
    ast.Global,
    ast.Nonlocal,
    ast.alias,
    ast.MatchAs,
    ast.MatchStar,
    ast.MatchMapping,
)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def of_documents(documents: Iterable[Document], seed: int) -> Iterator[Edit]:
    """The edits of all files that are Python's."""
    for document in documents:
        if document.language == "python":
            yield from edits(document.path, document.text, seed)


def edits(path: str, text: str, seed: int) -> Iterator[Edit]:
    """At most one edit for each function of a file, renamings and bugs in turn."""
    tree = _parsed(text)
    if tree is None:
        return
    rng = random.Random(f"{seed} {path}")
    names = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and len(node.id) > 2})
    lines = text.split("\n")
    for function in (node for node in ast.walk(tree) if isinstance(node, _Function)):
        start, end = function.lineno, function.end_lineno or function.lineno
        if not LEAST_LINES <= end - start + 1 <= MOST_LINES:
            continue
        old = "\n".join(lines[start - 1 : end])
        made = _renamed(old, function, names, rng) if rng.random() < 0.5 else _broken(old, function, rng)
        if made is None:
            continue
        before, instruction, after, origin = made
        whole = "\n".join([*lines[: start - 1], before, *lines[end:]])
        size = before.count("\n")
        yield Edit(path, "python", whole, start, start + size, instruction, after + "\n", origin)


def _renamed(
    old: str, function: _Function, names: list[str], rng: random.Random
) -> tuple[str, str, str, str] | None:
    inner = list(ast.walk(function))
    taken = {node.id for node in inner if isinstance(node, ast.Name)}
    taken |= {node.arg for node in inner if isinstance(node, ast.arg | ast.keyword) and node.arg}
    bound = {node.arg for node in inner if isinstance(node, ast.arg)}
    if any(isinstance(node, _BINDERS) for node in inner):
        return None
    local = sorted(
        {node.id for node in inner if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)} - bound
    )
    free = [name for name in names if name not in taken and name.islower() and name[0] != "_"]
    if not local or not free:
        return None
    name, new = rng.choice(local), rng.choice(free)
    changed = re.sub(rf"(?<![\w.'\"]){re.escape(name)}(?![\w'\"])", new, old)

    tree, found = _parsed(_dedented(old)), _parsed(_dedented(changed))
    if tree is None or found is None or changed == old:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == name:
            node.id = new
    try:
        if ast.dump(tree) != ast.dump(found):  # a string, an attribute or a keyword was caught too
            return None
    except RecursionError:  # a sum of a thousand terms is as deep a tree
        return None
    return old, f"Rename the variable `{name}` to `{new}`.", changed, "renaming"


def _broken(old: str, function: _Function, rng: random.Random) -> tuple[str, str, str, str] | None:
    """The function with one operator changed as the code before, as it was as the answer."""
    tree = _parsed(_dedented(old))
    if tree is None:
        return None
    lines = old.split("\n")
    margin = len(old) - len(old.lstrip())
    spots: list[tuple[int, int, int, int, str, str]] = []
    kind: type[ast.AST]
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            left, right, kind = node.left, node.comparators[0], type(node.ops[0])
        elif isinstance(node, ast.BinOp):
            left, right, kind = node.left, node.right, type(node.op)
        elif isinstance(node, ast.BoolOp) and len(node.values) == 2:
            left, right, kind = node.values[0], node.values[1], type(node.op)
        else:
            continue
        if kind in _FLIPS and left.end_lineno == right.lineno and left.end_col_offset is not None:
            what, put = _FLIPS[kind]
            spots.append(
                (
                    right.lineno,
                    left.end_col_offset + margin,
                    right.lineno,
                    right.col_offset + margin,
                    what,
                    put,
                )
            )
    rng.shuffle(spots)
    for line, start, _, end, what, put in spots:
        row = lines[line - 1]
        if not row.isascii():
            continue
        between = row[start:end]
        if between.strip(" ()") != what:
            continue
        broken = [*lines]
        broken[line - 1] = row[:start] + between.replace(what, put) + row[end:]
        text = "\n".join(broken)
        if _parsed(_dedented(text)) is not None:
            return text, f"There is a bug in `{function.name}`: fix it.", old, "bug"
    return None


def _dedented(source: str) -> str:
    margin = len(source) - len(source.lstrip())
    return "\n".join(line[margin:] if not line[:margin].strip() else line for line in source.split("\n"))


def _parsed(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a user's odd escapes are none of ours
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # or nested deeper than it reads
        return None
