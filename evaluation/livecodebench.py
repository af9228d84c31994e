"""LiveCodeBench (arXiv 2403.07974): contest problems by date; by a path, in the format of
code_generation_lite.

A row holds question_content, starter_code, public_test_cases (JSON text), private_test_cases (JSON text, or
base64 of zlib of a pickled JSON text) and metadata (JSON text with func_name). The pickle is read by a
reader that can build nothing but a string. Problems with a func_name are called (class Solution), others
read standard input.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.humaneval import LIMITS
from evaluation.languages import LANGUAGES
from evaluation.sandbox import Sandbox
from evaluation.standard_io import judge_output
from evaluation.task import Chat, Control, Item, Request, Style, Task, data_file, fenced, read_rows, to_items
from evaluation.verdicts import Verdict, judge_python
from model.schema import DiffcoderError

CASE_LIMITS = replace(LIMITS, wall_s=40.0, cpu_s=10, memory_mb=2048, output_bytes=1 << 22)
SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will "
    "generate a correct Python program that matches the specification and passes all tests."
)
WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code"
)
WITH_INPUT = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on "
    "the sample inputs). Enclose your code"
)
# What the harness imports before every program.
# fmt: off
STARRED = [
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics",
    "itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing",
]
# fmt: on
HEADER = (
    "".join(f"from {name} import *\n" for name in STARRED)
    + "".join(f"import {name}\n" for name in STARRED[:-2])
    + "sys.setrecursionlimit(50000)\n"
)


class TextOnly(pickle.Unpickler):
    """A pickle of a string and of nothing else: no class can be named."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"names {module}.{name}")


def cases_of(text: Any) -> list[dict[str, str]]:
    """The test cases of a field, in each form that was published."""
    if isinstance(text, list):
        return text
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        packed = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), 1 << 28)
        return json.loads(TextOnly(io.BytesIO(packed)).load())
    except (binascii.Error, zlib.error, pickle.UnpicklingError, ValueError, TypeError, EOFError) as error:
        raise DiffcoderError("data_damaged", f"A row's test cases cannot be read ({error}).") from error


class LiveCodeBench(Task):
    name = "livecodebench"
    title = "LiveCodeBench, code generation"
    files = ("livecodebench/test.jsonl",)
    origin = "huggingface.co/datasets/livecodebench/code_generation_lite"
    completion = "the whole program"
    styles = ("chat",)
    by_path = True

    def items(self, data: Path | None = None) -> list[Item]:
        path = data_file(self.files[0], data, self.origin)
        needs = ("question_content", "starter_code", "public_test_cases")
        return to_items(read_rows(path), path, key="question_id", needs=needs)

    def request(self, item: Item, style: Style) -> Request:
        row = item.row
        start = row["starter_code"]
        how, code = (WITH_STARTER, start) if start else (WITH_INPUT, "# YOUR CODE HERE")
        user = (
            f"### Question:\n{row['question_content']}\n\n### Format: {how} within delimiters.\n"
            f"```python\n{code}\n```\n\n### Answer: (use the provided format with backticks)\n\n"
        )
        return Chat(user=user, system=SYSTEM, max_tokens=1024)

    def extract(self, item: Item, text: str, style: Style) -> str:
        return fenced(text)

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        row = item.row
        cases = [*cases_of(row["public_test_cases"]), *cases_of(row.get("private_test_cases") or "[]")]
        metadata = row.get("metadata") or {}
        name = (json.loads(metadata) if isinstance(metadata, str) else metadata).get("func_name")
        program = HEADER + completion
        if not name:
            pairs = [(case["input"], [case["output"]]) for case in cases]
            return judge_output(sandbox, LANGUAGES["python"], program, pairs, CASE_LIMITS)
        calls = [
            ([json.loads(line) for line in case["input"].split("\n")], json.loads(case["output"]))
            for case in cases
        ]
        # a fresh object each time; tuples count as lists, as in the benchmark's own check
        tests = (
            "import json\n"
            f"for arguments, wanted in json.loads({json.dumps(calls)!r}):\n"
            f"    got = solve(*arguments)\n"
            "    assert json.loads(json.dumps(got)) == wanted\n"
        )
        program += f"\n\ndef solve(*arguments):\n    return Solution().{name}(*arguments)\n"
        return judge_python(sandbox, program, tests, names=["solve"], limits=CASE_LIMITS)

    def controls(self, item: Item) -> Iterable[Control]:
        yield Control("empty", "class Solution:\n    pass\n", False)
