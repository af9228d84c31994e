"""Aider's polyglot benchmark: Exercism exercises as edits of a stub; by the path of a checkout, Python
part.

An exercise is a folder with .docs/instructions.md, .meta/config.json (which names the stub and the tests)
and those files. The answer is the whole stub file; its tests are `unittest` cases run beside it. Aider
gives a second try with the tests' output; here there is one try, so compare with its first-try figures
(pass_rate_1). Exercises in other languages need build systems and packages from the network: they are not
loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from evaluation.humaneval import LIMITS
from evaluation.sandbox import Sandbox
from evaluation.task import Control, Item, Request, Style, Task
from evaluation.together import run_together
from evaluation.verdicts import Verdict
from model.schema import DiffcoderError, EditRequest
from model.schema import Limits as Budget

TEST_LIMITS = replace(LIMITS, wall_s=60.0, cpu_s=40, memory_mb=2048)


class AiderPolyglot(Task):
    name = "aider-polyglot"
    title = "Aider polyglot, Python exercises, one try"
    origin = "github.com/Aider-AI/polyglot-benchmark"
    completion = "the whole solution file"
    by_path = True

    def items(self, data: Path | None = None) -> list[Item]:
        practice = None if data is None else data / "python" / "exercises" / "practice"
        if practice is None or not practice.is_dir():
            raise DiffcoderError(
                "data_missing", f"Give the folder of a checkout of {self.origin} with --data."
            )
        found = []
        for config in sorted(practice.glob("*/.meta/config.json")):
            folder = config.parents[1]
            files = json.loads(config.read_text())["files"]
            stub, test = files["solution"][0], files["test"][0]
            docs = [
                folder / ".docs" / n for n in ("introduction.md", "instructions.md", "instructions.append.md")
            ]
            example = folder / files["example"][0] if files.get("example") else None
            row = {
                "module": Path(stub).stem,
                "stub": (folder / stub).read_text(),
                "test": (folder / test).read_text(),
                "text": "\n".join(doc.read_text() for doc in docs if doc.is_file()),
                "example": example.read_text() if example and example.is_file() else None,
            }
            found.append(Item(folder.name, row))
        if not found:
            raise DiffcoderError("data_damaged", f"{practice} holds no exercises.")
        return found

    def request(self, item: Item, style: Style) -> Request:
        before = item.row["stub"].rstrip("\n") + "\n"
        return EditRequest(
            before=before,
            start=1,
            end=before.count("\n"),
            instruction=f"{item.row['text']}\n\nImplement this; keep the names that exist.",
            language="python",
            limits=Budget(max_tokens=1024),
        )

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        files = {f"{item.row['module']}.py": completion}
        return run_together(sandbox, "", item.row["test"], TEST_LIMITS, unittest=True, files=files)[0]

    def controls(self, item: Item) -> Iterable[Control]:
        if item.row["example"]:
            yield Control("example", item.row["example"], True)
        yield Control("stub", item.row["stub"], False)
