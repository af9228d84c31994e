"""MBXP (arXiv 2210.14868): MBPP in several languages, as functions to complete from signature and
docstring.

Python's tests call by value and stand in a room of their own; JavaScript's and Java's share the program's
process.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evaluation.humaneval import LIMITS, STOPS
from evaluation.languages import LANGUAGES, run_program
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

FILES = {
    "python": "mxeval/mbpp_release_v1.jsonl.gz",
    "js": "mxeval/mbjsp_release_v1.2.jsonl.gz",
    "java": "mxeval/mbjp_release_v1.2.jsonl.gz",
}


class Mbxp(Task):
    origin = "github.com/amazon-science/mxeval"
    completion = "the body of the function: what follows `prompt`"
    group = "mbxp"

    def __init__(self, language: str):
        self.language = language
        self.name = f"mbxp-{language}"
        self.title = f"MBXP, {LANGUAGES[language].name}"
        self.files = (FILES[language],)

    def unavailable(self) -> str | None:
        return LANGUAGES[self.language].unavailable()

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        needs = ("prompt", "test", "entry_point")
        return to_items(read_rows(path), path, key="task_id", needs=needs)

    def request(self, item: Item, style: Style) -> Request:
        stop = STOPS if self.language == "python" else ()
        return Continuation(prompt=item.row["prompt"], stop=stop)

    def extract(self, item: Item, text: str, style: Style) -> str:
        if self.language == "python":
            return cut_at(text, STOPS)
        return balanced(text, 2 if self.language == "java" else 1)

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        row = item.row
        program = row["prompt"] + completion
        if self.language != "python":
            return run_program(LANGUAGES[self.language], f"{program}\n{row['test']}", sandbox)
        names = [row["entry_point"]]
        tests = f"{row['test']}\ncheck({row['entry_point']})\n"
        return judge_python(sandbox, program, tests, names=names, limits=LIMITS)

    def controls(self, item: Item) -> Iterable[Control]:
        solution = item.row.get("canonical_solution")
        if solution is not None:
            yield Control("canonical", solution, True)
        empty = {"python": "\tpass\n", "js": "}\n", "java": "        return null;\n    }\n}\n"}
        yield Control("empty", empty[self.language], None)


def balanced(text: str, open_braces: int) -> str:
    """Up to the brace that closes the last open one: the harness's rule for languages with braces."""
    for place, letter in enumerate(text):
        open_braces += {"{": 1, "}": -1}.get(letter, 0)
        if open_braces == 0:
            return text[: place + 1]
    return text


TASKS = tuple(Mbxp(language) for language in FILES)
