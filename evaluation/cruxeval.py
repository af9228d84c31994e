"""CRUXEval (arXiv 2401.03065, MIT): what a small function returns for an input, or an input for a given
output.

Prompts, direct and chain of thought, are the benchmark's own. An answer is an expression: it is evaluated
in the program's room to plain data; the function itself, which is trusted, runs on the tests' side.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from evaluation.cruxeval_prompts import PROMPTS
from evaluation.humaneval import LIMITS
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
    read_rows,
    to_items,
)
from evaluation.verdicts import Verdict, judge_python

END = "[/ANSWER]"
OUTPUT = "def answer():\n    return (\n{text}\n)\n"
# The function's file stands before, since some inputs use its other names; `f` only hands its arguments over.
INPUT = "def f(*args, **kwargs):\n    return args, kwargs\n\n" + OUTPUT


class Cruxeval(Task):
    files = ("cruxeval/cruxeval.jsonl.gz",)
    origin = "github.com/facebookresearch/cruxeval"
    group = "cruxeval"

    def __init__(self, side: Literal["output", "input"], thought: bool):
        self.side, self.thought = side, thought
        self.name = f"cruxeval-{side}" + ("-cot" if thought else "")
        self.title = f"CRUXEval, {side} prediction" + (", chain of thought" if thought else "")
        wanted = "value that f returns" if side == "output" else "call f(...), or its arguments,"
        self.completion = f"the {wanted} as a Python expression"

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        return to_items(read_rows(path), path, key="id", needs=("code", "input", "output"))

    def request(self, item: Item, style: Style) -> Request:
        template = PROMPTS[self.side, self.thought]
        # in one pass: the code may hold such words in braces itself
        prompt = re.sub(r"\{(code|input|output)\}", lambda found: item.row[found[1]], template)
        return Continuation(prompt=prompt, stop=(END,), max_tokens=700 if self.thought else 96)

    def extract(self, item: Item, text: str, style: Style) -> str:
        """The expression in an answer such as `assert f(17) == 17`."""
        text = cut_at(text, (END,))
        if "[ANSWER]" in text:
            text = text.rpartition("[ANSWER]")[2]
        text = text.strip().removeprefix("assert ").strip()
        if self.side == "output":
            return text.rpartition("==")[2].strip() if "==" in text else text
        return left_of_equals(text)

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        row = item.row
        text = completion.strip()
        if self.side == "output":
            tests = f"assert answer() == {row['output']}\n"
            return judge_python(sandbox, OUTPUT.format(text=text), tests, names=["answer"], limits=LIMITS)
        if not text.startswith("f("):
            text = f"f({text})"
        if "lambda" in row["input"]:  # two problems take functions, which cannot leave their room
            program = f"{row['code']}\n\n{OUTPUT.format(text=text)}"
            tests = f"assert answer() == {row['output']}\n"
            return judge_python(sandbox, program, tests, names=["answer"], limits=LIMITS)
        tests = (
            f"given = answer()\nassert type(given) is tuple and len(given) == 2\n"
            f"assert f(*given[0], **given[1]) == {row['output']}\n"
        )
        program = f"{row['code']}\n\n{INPUT.format(text=text)}"
        return judge_python(sandbox, program, tests, setup=row["code"], names=["answer"], limits=LIMITS)

    def controls(self, item: Item) -> Iterable[Control]:
        right = item.row["output"] if self.side == "output" else f"f({item.row['input']})"
        yield Control("canonical", right, True)
        yield Control("wrong", "'no such value'" if self.side == "output" else "f(*[object()] * 9)", False)


def left_of_equals(text: str) -> str:
    """`f(1, x=2) == 3` -> `f(1, x=2)`, whatever stands inside."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text.partition(" ==")[0].strip()
    if isinstance(tree.body, ast.Compare):
        return ast.unparse(tree.body.left)
    return text


TASKS = tuple(Cruxeval(side, thought) for side in ("output", "input") for thought in (False, True))
