"""HumanEvalPack (OctoPack, arXiv 2308.07124): HumanEval with bugs planted, in three languages here; fix and
write.

Fix: the model is shown the buggy function and its tests (HumanEvalFix) and must return the function. Asked
as an edit of the buggy program with the harness's instruction; the harness instead lets the model continue
a declaration.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evaluation.humaneval import LIMITS
from evaluation.languages import LANGUAGES, run_program
from evaluation.sandbox import Sandbox
from evaluation.task import Control, Item, Request, Style, Task, data_file, read_rows, to_items
from evaluation.verdicts import Verdict, judge_python
from model.schema import EditRequest
from model.schema import Limits as Budget

NEEDS = ("declaration", "buggy_solution", "canonical_solution", "test", "entry_point", "prompt")
# CodeGeeX's harness counts any output of a JavaScript test as a failure; `assert` alone would only print.
STRICT_ASSERT = '\nconsole.assert = (ok) => { if (!ok) { throw new Error("assertion failed"); } };\n'


class Fix(Task):
    origin = "huggingface.co/datasets/bigcode/humanevalpack"
    completion = "the whole fixed function with its declaration and imports (the edited program)"
    group = "humanevalfix"

    def __init__(self, language: str):
        self.language = language
        self.name = f"humanevalfix-{language}"
        self.title = f"HumanEvalFix (HumanEvalPack), {LANGUAGES[language].name}"
        self.files = (f"humanevalpack/humanevalpack-{language}.jsonl.gz",)

    def unavailable(self) -> str | None:
        return LANGUAGES[self.language].unavailable()

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        return to_items(read_rows(path), path, key="task_id", needs=NEEDS)

    def request(self, item: Item, style: Style) -> Request:
        before = (item.row["declaration"] + item.row["buggy_solution"]).rstrip("\n") + "\n"
        instruction = (
            f"Fix bugs in {item.row['entry_point']}. These tests must pass:\n{item.row['test'].strip()}"
        )
        return EditRequest(
            before=before,
            start=1,
            end=before.count("\n"),
            instruction=instruction,
            language=self.language,
            limits=Budget(max_tokens=768),
        )

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        row = item.row
        if self.language == "python":
            tests = row["test"].replace(f"\ncheck({row['entry_point']})", "\n")
            return judge_python(
                sandbox,
                completion,
                f"{tests}\ncheck({row['entry_point']})\n",
                setup=row["prompt"] + row["canonical_solution"],
                names=[row["entry_point"]],
                limits=LIMITS,
            )
        between = STRICT_ASSERT if self.language == "js" else "\n"
        return run_program(LANGUAGES[self.language], completion + between + row["test"], sandbox)

    def controls(self, item: Item) -> Iterable[Control]:
        row = item.row
        yield Control("canonical", row["declaration"] + row["canonical_solution"], True)
        yield Control("buggy", row["declaration"] + row["buggy_solution"], False)


TASKS = tuple(Fix(language) for language in ("python", "js", "java"))
