"""QuixBugs: 40 algorithms with a one-line bug each, to repair; by the path of a checkout of its repository.

Programs with JSON test cases (31) are judged by calls; the graph programs, whose tests build nodes in the
same process, run with their published pytest files' cases left out and are skipped by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from evaluation.humaneval import LIMITS
from evaluation.sandbox import Sandbox
from evaluation.task import Control, Item, Request, Style, Task
from evaluation.verdicts import Verdict, judge_python
from model.schema import DiffcoderError, EditRequest
from model.schema import Limits as Budget

# The published tester allows this much time for the buggy programs that never end.
CASE_LIMITS = replace(LIMITS, wall_s=15.0, cpu_s=8)


class QuixBugs(Task):
    name = "quixbugs"
    title = "QuixBugs, Python, programs with JSON tests"
    origin = "github.com/jkoppel/QuixBugs"
    completion = "the whole repaired file"
    by_path = True

    def items(self, data: Path | None = None) -> list[Item]:
        if data is None or not (data / "json_testcases").is_dir():
            raise DiffcoderError(
                "data_missing", f"Give the folder of a checkout of {self.origin} with --data."
            )
        found = []
        for cases in sorted((data / "json_testcases").glob("*.json")):
            buggy = data / "python_programs" / f"{cases.stem}.py"
            right = data / "correct_python_programs" / f"{cases.stem}.py"
            if not buggy.is_file():
                continue
            lines = [json.loads(line) for line in cases.read_text().splitlines() if line.strip()]
            row = {
                "buggy": before_docstring(buggy.read_text()),
                "right": right.read_text() if right.is_file() else None,
                "cases": lines,
                "name": cases.stem,
            }
            found.append(Item(cases.stem, row))
        if not found:
            raise DiffcoderError("data_damaged", f"{data} has test cases but no python_programs beside them.")
        return found

    def request(self, item: Item, style: Style) -> Request:
        before = item.row["buggy"].rstrip("\n") + "\n"
        return EditRequest(
            before=before,
            start=1,
            end=before.count("\n"),
            instruction=f"Fix the bug in {item.row['name']}.",
            language="python",
            limits=Budget(max_tokens=512),
        )

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        name = item.row["name"]
        calls = [
            (given if isinstance(given, list) else [given], wanted) for given, wanted in item.row["cases"]
        ]
        # JSON knows no tuples: results are compared as JSON would show them, generators by their items
        tests = (
            "import json\n"
            f"for arguments, wanted in json.loads({json.dumps(calls)!r}):\n"
            f"    got = {name}(*arguments)\n"
            "    got = list(got) if hasattr(got, '__next__') else got\n"
            "    got = json.loads(json.dumps(got))\n"
            "    close = isinstance(wanted, float) and abs(got - wanted) < 1e-6\n"
            "    assert got == wanted or close, (got, wanted)\n"
        )
        return judge_python(sandbox, completion, tests, names=[name], limits=CASE_LIMITS)

    def controls(self, item: Item) -> Iterable[Control]:
        if item.row["right"] is not None:
            yield Control("correct program", item.row["right"], True)
        yield Control("buggy program", item.row["buggy"], False)


def before_docstring(source: str) -> str:
    """The program without the description that its file has after the code: it would tell too much."""
    return source.partition('"""')[0].rstrip() + "\n"
