"""HumanEval (arXiv 2107.03374): 164 Python functions from signature and docstring, scored by unit tests.

Prompts and stop strings as in human-eval for completion; for chat as EvalPlus asks instruct models. Its
tests call the function by value, so tests and program stand in two rooms
(`evaluation.verdicts.judge_python`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from evaluation.definitions import needed_by
from evaluation.sandbox import Limits, Sandbox
from evaluation.task import (
    Chat,
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

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
# processor time is what counts; the wall clock is generous, for machines with other work
LIMITS = Limits(wall_s=60.0, cpu_s=10)

# The words that EvalPlus (Liu et al. 2023, Apache-2.0) puts around a problem for a chat model.
CHAT_ASK = (
    "Please provide a self-contained Python script that solves the following problem in a markdown "
    "code block:"
)
CHAT_OPENING = (
    "Below is a Python script with a self-contained function that solves the problem and passes "
    "corresponding tests:\n```python\n"
)


def chat_request(problem: str) -> Chat:
    user = f"{CHAT_ASK}\n```\n{problem.strip()}\n```\n"
    return Chat(user=user, opening=CHAT_OPENING, stop=("\n```",), max_tokens=768)


def parses(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


class HumanEval(Task):
    name = "humaneval"
    title = "HumanEval"
    files = ("humaneval/HumanEval.jsonl.gz",)
    origin = "github.com/openai/human-eval"
    completion = (
        "the body of the function: what follows `prompt`; or a whole program that defines the function, "
        "as chat models answer"
    )
    styles = ("completion", "chat")

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        needs = ("prompt", "entry_point", "canonical_solution", "test")
        return to_items(read_rows(path), path, key="task_id", needs=needs)

    def request(self, item: Item, style: Style) -> Request:
        if style == "chat":
            return chat_request(item.row["prompt"])
        return Continuation(prompt=item.row["prompt"], stop=STOPS)

    def extract(self, item: Item, text: str, style: Style) -> str:
        if style == "chat":
            return needed_by(item.row["entry_point"], fenced("```\n" + text))
        return cut_at(text, STOPS)

    def program(self, item: Item, completion: str) -> str:
        """The prompt with its body; or the completion itself with the prompt's imports, when it is a
        program."""
        row = item.row
        if f"\ndef {row['entry_point']}(" in f"\n{completion}" and parses(completion):
            # the prompt's helpers stand first, its own unfinished function is given an empty body
            return f"{row['prompt']}    pass\n\n{completion}"
        return row["prompt"] + completion

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        row = item.row
        return judge_python(
            sandbox,
            self.program(item, completion),
            f"{row['test']}\ncheck({row['entry_point']})\n",
            setup=row["prompt"] + row["canonical_solution"],
            names=[row["entry_point"]],
            limits=LIMITS,
        )

    def controls(self, item: Item) -> Iterable[Control]:
        yield Control("canonical", item.row["canonical_solution"], True)
        yield Control("empty", "    pass\n", False)
