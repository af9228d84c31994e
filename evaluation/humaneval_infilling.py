"""HumanEval infilling (Bavarian et al., arXiv 2207.14255): a hole in a HumanEval solution is filled.

Single lines (1,033), runs of lines (5,815; derived here from the single-line file exactly as published),
random spans (1,640) and their light set (164). The program is prompt + infill + suffix. In the tasks with
`-length` the budget is the true infill's length in tokens, for models that fill a hole of given size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluation.humaneval import LIMITS
from evaluation.sandbox import Sandbox
from evaluation.task import Control, Item, Request, Style, Task, data_file, read_rows, to_items
from evaluation.verdicts import Verdict, judge_python
from model.schema import DiffcoderError, FillRequest
from model.schema import Limits as Budget

FOLDER = "humaneval_infilling/HumanEval-"
NEEDS = ("prompt", "suffix", "entry_point", "canonical_solution", "test")


class Infilling(Task):
    origin = "github.com/openai/human-eval-infilling"
    completion = "the text between `prompt` and `suffix`"
    group = "humaneval-infilling"
    one_line = False

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        return to_items(read_rows(path), path, key="task_id", needs=NEEDS)

    def kin(self, item: Item) -> str:
        return item.id.rsplit("/", 1)[0]  # the function

    def request(self, item: Item, style: Style) -> Request:
        limits = Budget(max_tokens=128, single_line=self.one_line)
        return FillRequest(
            prefix=item.row["prompt"], suffix=item.row["suffix"], language="python", limits=limits
        )

    def extract(self, item: Item, text: str, style: Style) -> str:
        # the first line kept: the hole is one whole line, its line end included
        return text.split("\n", 1)[0] + "\n" if self.one_line else text

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        row = item.row
        return judge_python(
            sandbox,
            row["prompt"] + completion + row["suffix"],
            f"{row['test']}\ncheck({row['entry_point']})\n",
            setup=row["prompt"] + row["canonical_solution"] + row["suffix"],
            names=[row["entry_point"]],
            limits=LIMITS,
        )

    def controls(self, item: Item) -> Iterable[Control]:
        yield Control("canonical", item.row["canonical_solution"], True)
        yield Control("empty", "", None)

    def measures(self, item: Item, completion: str, verdict: Verdict, sandbox: Sandbox) -> dict[str, float]:
        wanted = item.row["canonical_solution"]
        return {
            "exact": float(completion.strip() == wanted.strip()),
            "gap_lines": float(len(wanted.strip("\n").split("\n"))),
            "gap_characters": float(len(wanted)),
        }


class SingleLine(Infilling):
    name = "humaneval-infilling-single"
    title = "HumanEval infilling, single line"
    files = (FOLDER + "SingleLineInfilling.jsonl.gz",)
    one_line = True


class MultiLine(Infilling):
    name = "humaneval-infilling-multi"
    title = "HumanEval infilling, multi-line"
    files = (FOLDER + "MultiLineInfilling.jsonl.gz",)

    def items(self, data: Path | None = None) -> list[Item]:
        try:
            return super().items(data)
        except DiffcoderError as error:
            if error.code != "data_missing":
                raise
        path = data_file(SingleLine.files[0], data, self.origin)
        return multi_line(to_items(read_rows(path), path, key="task_id", needs=NEEDS))

    def controls(self, item: Item) -> Iterable[Control]:
        """Of every eighth: filled in, the 5,815 are the same 164 programs over and over."""
        if hashlib.sha256(item.id.encode()).digest()[0] % 8 == 0:
            yield Control("canonical", item.row["canonical_solution"], True)


class RandomSpan(Infilling):
    name = "humaneval-infilling-random"
    title = "HumanEval infilling, random spans"
    files = (FOLDER + "RandomSpanInfilling.jsonl.gz",)


class RandomSpanLight(Infilling):
    name = "humaneval-infilling-random-light"
    title = "HumanEval infilling, random spans (light)"
    files = (FOLDER + "RandomSpanInfillingLight.jsonl.gz",)


def multi_line(single: list[Item]) -> list[Item]:
    """Every run of lines of every solution: from the single-line items' prefixes and suffixes."""
    problems: dict[str, list[dict[str, Any]]] = {}
    for item in single:
        problems.setdefault(item.id.rsplit("/", 1)[0], []).append(item.row)
    items = []
    for problem, rows in problems.items():
        name = problem.replace("SingleLine", "MultiLine")
        whole = rows[0]["prompt"] + rows[0]["canonical_solution"] + rows[0]["suffix"]
        for first in range(len(rows)):
            for last in range(first, len(rows)):
                prompt, suffix = rows[first]["prompt"], rows[last]["suffix"]
                start, end = (row["task_id"].rsplit("/", 1)[1] for row in (rows[first], rows[last]))
                middle = whole[len(prompt) : len(whole) - len(suffix)]
                fields = {"prompt": prompt, "suffix": suffix, "canonical_solution": middle}
                task = f"{name}/{start}_{end}"
                items.append(Item(task, rows[first] | fields | {"task_id": task}))
    return items


def with_length(task: type[Infilling]) -> type[Infilling]:
    """The same task with the hole's true length given (see `evaluation.generation.complete`)."""

    class Known(task):  # type: ignore[misc,valid-type]
        name = f"{task.name}-length"
        title = f"{task.title}, true length given"
        true_length = True

        def controls(self, item: Item) -> Iterable[Control]:
            return ()  # scored as the task it derives from

    return Known


TASKS: tuple[type[Infilling], ...] = (
    SingleLine,
    MultiLine,
    RandomSpan,
    RandomSpanLight,
    with_length(SingleLine),
    with_length(MultiLine),
    with_length(RandomSpan),
    with_length(RandomSpanLight),
)
