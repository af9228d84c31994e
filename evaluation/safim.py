"""SAFIM (arXiv 2403.04814): syntax-aware fill-in-the-middle of contest programs; by a path to one of its
files.

Block and control-flow completions are judged by the unit tests of the whole program (Python and C++ here;
Java where a JDK is), API calls by equality without white space (or of the parsed call, for Python). As
published, an answer equal to the ground truth passes without being run. C# needs Mono.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from evaluation.languages import LANGUAGES, VM_LIMITS
from evaluation.sandbox import Sandbox
from evaluation.standard_io import judge_output
from evaluation.task import Control, Item, Request, Style, Task, data_file, read_rows, to_items
from evaluation.verdicts import Verdict
from model.schema import DiffcoderError, FillRequest
from model.schema import Limits as Budget

HOLE = "{{completion}}"
PLACEHOLDER = {"python": "# TODO: Your code here"}
OTHER_PLACEHOLDER = "/* TODO: Your code here */"
NAMES = {"python": "python", "java": "java", "cpp": "cpp", "csharp": "cs"}
CASE_LIMITS = replace(VM_LIMITS, wall_s=30.0, cpu_s=20, output_bytes=1 << 22)


class Safim(Task):
    name = "safim"
    title = "SAFIM (block, control or api completion, as the file says)"
    files = ("safim/block_completion.jsonl.gz",)
    origin = "github.com/gonglinyuan/safim"
    completion = "the text that takes the place of the placeholder"
    by_path = True

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        needs = ("lang", "prompt", "eval_prompt", "ground_truth")
        return to_items(read_rows(path), path, key="task_id", needs=needs)

    def missing(self, item: Item) -> str | None:
        problem = LANGUAGES[NAMES[item.row["lang"]]].unavailable()
        return problem.rstrip(".") if problem and tests_of(item) else None

    def request(self, item: Item, style: Style) -> Request:
        language = item.row["lang"]
        parts = item.row["prompt"].split(PLACEHOLDER.get(language, OTHER_PLACEHOLDER))
        if len(parts) != 2:
            raise DiffcoderError("data_damaged", f"{item.id} has no single placeholder in its prompt.")
        return FillRequest(prefix=parts[0], suffix=parts[1], language=language, limits=Budget(max_tokens=256))

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        row = item.row
        if completion == row["ground_truth"]:
            return Verdict(True, "passed", 0.0)
        cases = tests_of(item)
        if not cases:
            passed = same_call(completion, row["ground_truth"], row["lang"])
            return Verdict(passed, "passed" if passed else "another call", 0.0)
        source = row["eval_prompt"].replace(HOLE, completion)
        pairs = [(case["input"], list(case["output"])) for case in cases]
        return judge_output(sandbox, LANGUAGES[NAMES[row["lang"]]], source, pairs, CASE_LIMITS)

    def controls(self, item: Item) -> Iterable[Control]:
        # a space more, so that it is run rather than compared
        yield Control("ground truth", item.row["ground_truth"] + " ", True)
        yield Control("empty", "", None)


def tests_of(item: Item) -> list[dict]:
    tests = item.row.get("unit_tests") or []
    return json.loads(tests) if isinstance(tests, str) else tests


def same_call(first: str, second: str, language: str) -> bool:
    first, second = (re.sub(r"\s+", "", text) for text in (first, second))
    if language == "python":
        try:
            ours, theirs = (ast.parse(text, mode="eval").body for text in (first, second))
        except (SyntaxError, ValueError, RecursionError):
            return first == second
        if isinstance(ours, ast.Call) and isinstance(theirs, ast.Call):
            return arguments(ours) == arguments(theirs)
    return first == second


def arguments(call: ast.Call) -> tuple[list[str], dict[str | None, str]]:
    return [ast.dump(a) for a in call.args], {k.arg: ast.dump(k.value) for k in call.keywords}
