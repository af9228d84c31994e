"""MHPP (arXiv 2405.11430): 140 hard Python problems; by a path, in the format of its data/MHPP.jsonl.

Its authors keep answers and tests on their server. Here a row is scored by its `test` (HumanEval's form)
where the file has one, else by the examples in the problem's docstring: an upper bound, named as such in
the title.
"""

from __future__ import annotations

import ast
import doctest
import json
from collections.abc import Iterable
from pathlib import Path

from evaluation.humaneval import LIMITS, STOPS
from evaluation.sandbox import Sandbox
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

# An example's expected text is compared as a value where it is one, otherwise as what the interpreter shows.
EXAMPLE = """
def shows(value, text):
    import ast
    try:
        wanted = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return repr(value) == text
    if isinstance(wanted, float):
        return abs(value - wanted) <= 1e-5 * max(1.0, abs(wanted))
    return value == wanted
"""


class Mhpp(Task):
    name = "mhpp"
    title = "MHPP (docstring examples only, where the file has no tests)"
    files = ("mhpp/MHPP.jsonl",)
    origin = "github.com/SparksofAGI/MHPP"
    completion = "the whole function, or what follows `question`"
    styles = ("chat", "completion")
    by_path = True

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        return to_items(read_rows(path), path, key="id", needs=("question", "prompt", "function_name"))

    def request(self, item: Item, style: Style) -> Request:
        if style == "chat":
            return Chat(user=item.row["prompt"], max_tokens=1024)
        return Continuation(prompt=item.row["question"].rstrip() + "\n", stop=STOPS, max_tokens=768)

    def extract(self, item: Item, text: str, style: Style) -> str:
        return fenced(text) if style == "chat" else cut_at(text, STOPS)

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        row = item.row
        name = row["function_name"]
        question = row["question"].rstrip() + "\n"
        whole = f"\ndef {name}(" in f"\n{completion}"
        program = f"{question}    pass\n\n{completion}" if whole else question + completion
        if row.get("test"):
            tests = f"{row['test']}\ncheck({name})\n"
        else:
            examples = doctest.DocTestParser().get_examples(description(question))
            checks = [
                f"assert shows({e.source.strip()}, {json.dumps(e.want.strip())})" for e in examples if e.want
            ]
            if not checks:
                return Verdict(False, "has neither tests nor examples", 0.0)
            tests = "\n".join([EXAMPLE, *checks])
        return judge_python(sandbox, program, tests, names=[name], limits=LIMITS)

    def controls(self, item: Item) -> Iterable[Control]:
        yield Control("empty", "    pass\n", False)


def description(question: str) -> str:
    """The docstring of the problem's last function."""
    try:
        tree = ast.parse(question + "    pass\n")
    except SyntaxError:
        return question
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return (ast.get_docstring(functions[-1]) if functions else None) or question
