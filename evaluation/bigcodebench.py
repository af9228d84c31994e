"""BigCodeBench (arXiv 2406.15877): practical Python with many libraries, judged by `unittest`; full and
hard.

The full file here is the annotation-stage release of June 2024, not v0.1.4, so figures may differ by a few
problems; the hard ids (148) come from Qwen2.5-Coder's copy. A problem whose libraries are not installed is
skipped by name. "Complete": the model continues signature and docstring.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from evaluation.sandbox import Limits, Sandbox
from evaluation.task import (
    Continuation,
    Control,
    Item,
    Request,
    Style,
    Task,
    absent,
    cut_at,
    data_file,
    imports,
    read_rows,
    to_items,
)
from evaluation.together import run_together
from evaluation.verdicts import Verdict

LIMITS = Limits(wall_s=120.0, cpu_s=60, memory_mb=4096, disk_mb=256, file_mb=64, processes=64)
STOPS = ("\nif __name__", "\ndef test", "\nclass Test", "\nprint(", "\n```", "\nassert ")


class BigCodeBench(Task):
    name = "bigcodebench"
    title = "BigCodeBench, complete, full"
    files = ("bigcodebench/BigCodeBench-annotation.jsonl.gz",)
    origin = "huggingface.co/datasets/bigcode/bigcodebench"
    completion = "the body of the function: what follows `prompt`"
    group = "bigcodebench-all"
    prompt = "prompt"

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        needs = (self.prompt, "canonical_solution", "test", "entry_point", "libs")
        return to_items(read_rows(path), path, key="task_id", needs=needs)

    def missing(self, item: Item) -> str | None:
        libraries = item.row["libs"]
        if isinstance(libraries, str):  # a Python list in words
            libraries = ast.literal_eval(libraries)
        source = item.row[self.prompt] + item.row["canonical_solution"] + "\n" + item.row["test"]
        return absent([*libraries, *imports(source)])

    def request(self, item: Item, style: Style) -> Request:
        return Continuation(prompt=item.row[self.prompt], stop=STOPS, max_tokens=768)

    def extract(self, item: Item, text: str, style: Style) -> str:
        return cut_at(text, STOPS)

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        program = item.row[self.prompt] + completion
        return run_together(sandbox, program, item.row["test"], LIMITS, unittest=True)[0]

    def controls(self, item: Item) -> Iterable[Control]:
        yield Control("canonical", item.row["canonical_solution"], True)
        yield Control("empty", "    pass\n", False)


class Hard(BigCodeBench):
    name = "bigcodebench-hard"
    title = "BigCodeBench, complete, hard"
    files = ("bigcodebench/bigcodebench_hard.json.gz",)
    prompt = "complete_prompt"
