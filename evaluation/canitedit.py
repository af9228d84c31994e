"""CanItEdit (arXiv 2312.12450): edit a Python file as an instruction says; hidden tests judge the new file.

Two tasks, descriptive and lazy instructions. Asked as an edit of the whole file. The tests share a process
with the edited file, as published (they look into its classes). Excess code: lines of passing edits that
its tests never reach, in percent, by line tracing; the published figure uses coverage.py, which counts the
same lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from evaluation.sandbox import Limits, Sandbox
from evaluation.task import (
    Control,
    Item,
    Request,
    Style,
    Task,
    absent,
    data_file,
    imports,
    read_rows,
    to_items,
)
from evaluation.together import run_together
from evaluation.verdicts import Verdict
from model.schema import EditRequest
from model.schema import Limits as Budget

LIMITS = Limits(wall_s=40.0, cpu_s=30, memory_mb=2048)


class CanItEdit(Task):
    files = ("canitedit_sample/canitedit.jsonl.gz",)
    origin = "huggingface.co/datasets/nuprl/CanItEdit"
    completion = "the whole edited file"
    group = "canitedit"

    def __init__(self, kind: Literal["descriptive", "lazy"]):
        self.kind = kind
        self.name = f"canitedit-{kind}"
        self.title = f"CanItEdit, {kind} instructions"

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        needs = ("before", "after", "tests", f"instruction_{self.kind}")
        return to_items(read_rows(path), path, key="full_name", needs=needs)

    def request(self, item: Item, style: Style) -> Request:
        before = item.row["before"].rstrip("\n") + "\n"
        return EditRequest(
            before=before,
            start=1,
            end=before.count("\n"),
            instruction=item.row[f"instruction_{self.kind}"],
            language="python",
            limits=Budget(max_tokens=1024),
        )

    def missing(self, item: Item) -> str | None:
        libraries = {"scikit-learn": "sklearn", "vllm": "vllm"}
        named = item.row.get("taxonomy", {}).get("libraries", ())
        # a few rows use more than they name
        imported = imports(item.row["after"] + "\n" + item.row["tests"])
        return absent([*(libraries.get(name, name) for name in named), *imported])

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        return run_together(sandbox, completion, item.row["tests"], LIMITS)[0]

    def measures(self, item: Item, completion: str, verdict: Verdict, sandbox: Sandbox) -> dict[str, float]:
        if not verdict.passed:
            return {}
        _, share = run_together(sandbox, completion, item.row["tests"], LIMITS, trace=True)
        return {} if share is None else {"excess_code": 100 * (1 - share)}

    def controls(self, item: Item) -> Iterable[Control]:
        yield Control("after", item.row["after"], True)
        yield Control("before", item.row["before"], False)


TASKS = (CanItEdit("descriptive"), CanItEdit("lazy"))
