"""MBPP (arXiv 2108.07732), its sanitized part, and MBPP+ (EvalPlus): short Python problems from one
sentence.

MBPP is asked with the paper's three examples (tasks 2, 3, 4) and scored on its test split (tasks 11-510).
MBPP+ is asked as EvalPlus does: the sentence and one test in a docstring. The names that the tests use and
the reference solution defines are taken from the program.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.definitions import needed_by
from evaluation.humaneval import LIMITS, chat_request
from evaluation.sandbox import Sandbox
from evaluation.task import (
    Continuation,
    Control,
    Item,
    Request,
    Style,
    Task,
    cut_at,
    data_file,
    fenced,
    read_rows,
    to_items,
)
from evaluation.verdicts import Verdict, judge_python
from model.schema import DiffcoderError

END = "[DONE]"
SLOW = replace(LIMITS, wall_s=300.0, cpu_s=60, memory_mb=2048)
STOPS = ('\n"""', "\nassert", "\nclass", "\nprint", "\nif __name__", "\n#")


def shown(row: dict[str, Any], text: str, answer: str | None) -> str:
    tests = "\n".join(row["test_list"])
    begin = (
        f"You are an expert Python programmer, and here is your task: {text} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )
    return begin if answer is None else f"{begin}{answer}\n{END}\n"


class Mbpp(Task):
    name = "mbpp"
    title = "MBPP, test split"
    files = ("mbpp/mbpp.jsonl.gz",)
    origin = "github.com/google-research/google-research/tree/master/mbpp"
    completion = "the whole program"
    styles = ("completion", "chat")
    text = "text"
    everything = False

    def __init__(self) -> None:
        self._examples: list[Item] = []

    def rows(self, data: Path | None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        return to_items(read_rows(path), path, key="task_id", needs=(self.text, "code", "test_list"))

    def items(self, data: Path | None = None) -> list[Item]:
        rows = self.rows(data)
        self._examples = [item for item in rows if item.id in ("2", "3", "4")]
        return rows if self.everything else [item for item in rows if 11 <= int(item.id) <= 510]

    def request(self, item: Item, style: Style) -> Request:
        if style == "chat":
            return chat_request(f'"""\n{item.row[self.text]}\n{item.row["test_list"][0]}\n"""')
        examples = "".join(shown(e.row, e.row[self.text], clean(e.row["code"])) for e in self._examples)
        return Continuation(prompt=examples + shown(item.row, item.row[self.text], None), stop=(END,))

    def extract(self, item: Item, text: str, style: Style) -> str:
        return fenced("```\n" + text) if style == "chat" else cut_at(text, (END,))

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        row = item.row
        before = [*row.get("test_imports", ()), clean(row.get("test_setup_code", ""))]
        tests = "\n".join([*before, *map(clean, row["test_list"])])
        setup, names, objects = reference(clean(row["code"]), tests)
        return judge_python(
            sandbox, completion, tests, setup=setup, names=names, objects=objects, limits=SLOW
        )

    def controls(self, item: Item) -> Iterable[Control]:
        yield Control("canonical", clean(item.row["code"]), True)
        yield Control("empty", "\n", False)


class MbppAll(Mbpp):
    name = "mbpp-all"
    title = "MBPP, all 974"
    everything = True


class MbppSanitized(Mbpp):
    name = "mbpp-sanitized"
    title = "MBPP, sanitized, test split"
    files = ("mbpp/sanitized-mbpp.json.gz",)
    text = "prompt"


class MbppPlus(Task):
    name = "mbppplus"
    title = "MBPP+"
    files = ("mbppplus/MbppPlus-OriginFmt.jsonl.gz", "mbppplus/MbppPlus.jsonl.gz")
    origin = "github.com/evalplus/mbppplus_release"
    completion = "the whole program"
    styles = ("completion", "chat")

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        return to_items(read_rows(path), path, key="task_id", needs=("prompt", "code", "test", "test_list"))

    def request(self, item: Item, style: Style) -> Request:
        problem = f'"""\n{item.row["prompt"]}\n{item.row["test_list"][0]}\n"""\n'
        if style == "chat":
            return chat_request(problem)
        return Continuation(prompt=problem, stop=STOPS)

    def extract(self, item: Item, text: str, style: Style) -> str:
        if style == "chat":
            return needed_by(tested_name(item.row["test"], "")[0], fenced("```\n" + text))
        return cut_at(text, STOPS)

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        row = item.row
        name = tested_name(row["test"], completion)
        # what the tests' own file needs of the reference stands on the tests' side
        return judge_python(
            sandbox, completion, row["test"], setup=clean(row["code"]), names=name, limits=SLOW
        )

    def controls(self, item: Item) -> Iterable[Control]:
        yield Control("canonical", clean(item.row["code"]), True)
        yield Control("empty", "\n", False)


def reference(code: str, tests: str) -> tuple[str, list[str], bool]:
    """What the tests need, by the reference solution: its imports, the functions and classes they name, and
    whether there are classes among them, whose objects the tests then hold.

    Some problems ask for a function with a built-in's name (`sum`), so that a built-in alone says nothing.
    """
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    body = ast.parse(code).body
    imports = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [
        node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in used
    ]
    classes = any(isinstance(node, ast.ClassDef) and node.name in used for node in body)
    return "\n".join(imports), names, classes


def tested_name(tests: str, completion: str) -> Sequence[str]:
    """The function that a plus test calls: its last line is `assertion(NAME(*inp), exp, tolerance)`."""
    last = tests.rstrip().rsplit("\n", 1)[-1]
    head = last.partition("assertion(")[2].partition("(")[0].strip()
    if not head.isidentifier():
        raise DiffcoderError(
            "data_damaged", f"A test of MBPP+ ends in {last[:60]!r}: is it the published file?"
        )
    return [head]


def clean(code: str) -> str:
    return code.replace("\r\n", "\n")
