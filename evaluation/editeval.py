"""EditEval (InstructCoder, arXiv 2310.20329): 194 instructed edits of Python functions; by the path of its
file.

Rows have task_id, instruction, input, output and test (a function `check` that uses the edited program's
names). The model is asked for an edit of the whole `input`; all names of its answer are bound on the tests'
side, since some tests look whether an old name is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evaluation.humaneval import LIMITS
from evaluation.judge import EVERYTHING
from evaluation.sandbox import Sandbox
from evaluation.task import Control, Item, Request, Style, Task, data_file, read_rows, to_items
from evaluation.verdicts import Verdict, judge_python
from model.schema import EditRequest
from model.schema import Limits as Budget


class EditEval(Task):
    name = "editeval"
    title = "EditEval"
    files = ("edit_eval/edit_eval.jsonl",)
    origin = "github.com/qishenghu/InstructCoder"
    completion = "the whole edited program"
    by_path = True

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        needs = ("instruction", "input", "output", "test")
        return to_items(read_rows(path), path, key="task_id", needs=needs)

    def request(self, item: Item, style: Style) -> Request:
        before = item.row["input"].rstrip("\n") + "\n"
        return EditRequest(
            before=before,
            start=1,
            end=before.count("\n"),
            instruction=item.row["instruction"],
            language="python",
            limits=Budget(max_tokens=768),
        )

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        tests = f"{item.row['test']}\ncheck()\n"
        return judge_python(sandbox, completion, tests, names=[EVERYTHING], limits=LIMITS)

    def controls(self, item: Item) -> Iterable[Control]:
        yield Control("output", item.row["output"], True)
        yield Control("input", item.row["input"], None)
