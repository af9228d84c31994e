"""HumanEval+ (EvalPlus, arXiv 2305.01210): HumanEval with about 80 times the tests.

The data in its "OriginFmt": tests with inputs and expected results written out, floats compared with the
published tolerance. HumanEval/32 (find a zero) has many right answers: it is checked by its property, as
EvalPlus does.
"""

from __future__ import annotations

from dataclasses import replace

from evaluation.humaneval import LIMITS, HumanEval
from evaluation.sandbox import Sandbox
from evaluation.task import Item
from evaluation.verdicts import Verdict, judge_python

PLUS_LIMITS = replace(LIMITS, wall_s=120.0, cpu_s=30, memory_mb=2048)
ANY_ZERO = "assert abs(sum(c * out**power for power, c in enumerate(inp[0]))) <= 1e-4"


class HumanEvalPlus(HumanEval):
    name = "humanevalplus"
    title = "HumanEval+"
    files = ("humanevalplus/HumanEvalPlus-OriginFmt.jsonl.gz",)
    origin = "github.com/evalplus/humanevalplus_release"

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        row = item.row
        tests = row["test"]
        if item.id == "HumanEval/32":
            # the last line of the published test compares otherwise than EvalPlus itself
            head = tests.rstrip().rpartition("\n")[0]
            tests = f"{head}\n        out = candidate(*inp)\n        {ANY_ZERO}\n"
        return judge_python(
            sandbox,
            self.program(item, completion),
            f"{tests}\ncheck({row['entry_point']})\n",
            names=[row["entry_point"]],
            limits=PLUS_LIMITS,
        )
