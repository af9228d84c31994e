"""What a function needs of the program around it: how EvalPlus keeps a chat model's own trials out of its answer.

Chat models write tests of their own below a solution, and one wrong expectation there would fail a right function.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator


def needed_by(entry_point: str, source: str) -> str:
    """The imports of `source`, and of its definitions and assignments at the top level those that `entry_point` needs,
    directly or through others (EvalPlus, `evalplus.sanitize`). The source as it is where it does not parse or does
    not define the function.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source
    needed, reached = {entry_point}, {""}
    definers = {name for node in body for name in _defined(node)}
    if entry_point not in definers:
        return source
    while needed - reached:
        name = (needed - reached).pop()
        reached.add(name)
        for node in body:
            if name in _defined(node):
                needed |= definers & {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    lines = source.splitlines(keepends=True)
    kept = [
        "".join(lines[_first_line(node) - 1 : node.end_lineno]).rstrip("\n") + "\n"
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom) or reached.intersection(_defined(node))
    ]
    return "".join(kept)


def _defined(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of the top level binds, imports aside."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Assign(targets=targets):
            for target in targets:
                yield from (part.id for part in ast.walk(target) if isinstance(part, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.AugAssign(target=ast.Name(id=name)):
            yield name


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])
