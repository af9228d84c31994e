"""Each benchmark's loader and scorer on small data of the published format: right answers pass, wrong ones fail."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path

import pytest

from evaluation import tasks
from evaluation.humaneval_infilling import multi_line
from evaluation.languages import LANGUAGES, run_program
from evaluation.sandbox import Sandbox
from evaluation.scoring import Answer, score_one
from evaluation.task import Chat, Continuation, Item, Task, cut_at, fenced, read_rows
from model.schema import DiffcoderError, EditRequest, FillRequest


def verdicts(task: Task, item: Item, sandbox: Sandbox, *completions: str) -> list[bool]:
    return [score_one(task, Answer(item.id, 0, item, text), sandbox).passed for text in completions]


def one(name: str) -> Task:
    return tasks.find(name)[0]


def test_every_task_says_what_it_is() -> None:
    for task in tasks.TASKS.values():
        assert task.title
        assert task.origin
        assert task.completion
        assert task.by_path or task.files
    assert len(tasks.TASKS) >= 30
    with pytest.raises(DiffcoderError, match="did you mean humaneval"):
        tasks.find("humanevel")


def test_humaneval(humaneval: Path, sandbox: Sandbox) -> None:
    task = one("humaneval")
    add, double, half = task.items(humaneval)
    assert verdicts(task, add, sandbox, "    return a + b\n", "    return a - b\n", "", "    return (") == [
        True,
        False,
        False,
        False,
    ]
    assert verdicts(task, half, sandbox, "    return x // 2\n") == [True]
    whole = "def double(x):\n    return x + x\n"
    assert verdicts(task, double, sandbox, whole, "import sys\n" + whole, whole.replace("+", "-")) == [
        True,
        True,
        False,
    ]
    cheats = [
        "    import os; os._exit(0)\n",
        "    raise SystemExit(0)\n",
        "    class E:\n        __eq__ = lambda *a: True\n    return E()\n",
    ]
    assert verdicts(task, add, sandbox, *cheats) == [False, False, False]
    request = task.request(add, "completion")
    assert isinstance(request, Continuation)
    assert request.prompt == add.row["prompt"]
    assert task.extract(add, "    return 1\n\ndef next():\n", "completion") == "    return 1\n"
    chat = task.request(add, "chat")
    assert isinstance(chat, Chat)
    assert chat.opening.endswith("```python\n")
    assert task.extract(add, "x = 1\n```\nDone.", "chat") == "x = 1\n"


def test_infilling(rows, sandbox: Sandbox) -> None:
    body = ["    total = a + b\n", "    total += 0\n", "    return total\n"]
    prompt = "def add(a, b):\n"
    test = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
    single = [
        {
            "task_id": f"SingleLineInfilling/HumanEval/0/L{n}",
            "entry_point": "add",
            "prompt": prompt + "".join(body[:n]),
            "suffix": "".join(body[n + 1 :]),
            "canonical_solution": body[n],
            "test": test,
        }
        for n in range(3)
    ]
    path = rows("HumanEval-SingleLineInfilling.jsonl", single)
    task = one("humaneval-infilling-single")
    items = task.items(path)
    assert verdicts(task, items[0], sandbox, body[0], "") == [True, False]
    assert verdicts(task, items[1], sandbox, "") == [True]
    assert task.extract(items[0], "    x = 1\n    y = 2\n", "completion") == "    x = 1\n"
    request = task.request(items[0], "completion")
    assert isinstance(request, FillRequest)
    assert request.limits.single_line
    runs = multi_line(items)
    assert len(runs) == 6
    assert runs[1].id == "MultiLineInfilling/HumanEval/0/L0_L1"
    for item in runs:
        assert item.row["prompt"] + item.row["canonical_solution"] + item.row["suffix"] == prompt + "".join(
            body
        )


def test_mbpp(rows, sandbox: Sandbox) -> None:
    row = {
        "task_id": 11,
        "text": "Write a function to find the larger number.",
        "code": "def larger(a, b):\r\n  return max(a, b)",
        "test_list": ["assert larger(1, 2) == 2", "assert larger(5, 3) == 5"],
        "test_setup_code": "",
    }
    node = {
        "task_id": 12,
        "text": "Write a function to find the depth of a chain.",
        "code": (
            "class Node:\r\n  def __init__(self, v):\r\n    self.v = v\r\n    self.next = None\r\n"
            "def depth(n):\r\n  return 0 if n is None else 1 + depth(n.next)"
        ),
        "test_list": ["assert depth(root) == 2", "assert 4 - depth(root) == 2"],
        "test_setup_code": "root = Node(1)\r\nroot.next = Node(2)",
    }
    total = row | {
        "task_id": 13,
        "code": "def sum(a):\r\n  return max(a)",
        "test_list": ["assert sum([1, 2]) == 2"],
    }
    shots = [row | {"task_id": n} for n in (2, 3, 4)]
    task = one("mbpp")
    items = task.items(rows("mbpp.jsonl.gz", [*shots, row, node, total]))
    assert [item.id for item in items] == ["11", "12", "13"]
    assert verdicts(task, items[0], sandbox, row["code"], "def larger(a, b):\n    return a\n", "") == [
        True,
        False,
        False,
    ]
    assert verdicts(task, items[1], sandbox, node["code"]) == [True]
    assert verdicts(task, items[2], sandbox, total["code"], "def total(a):\n    return max(a)\n") == [
        True,
        False,
    ]
    request = task.request(items[0], "completion")
    assert isinstance(request, Continuation)
    assert request.prompt.count("[BEGIN]") == 4
    assert request.prompt.count("[DONE]") == 3


def test_mbppplus(rows, sandbox: Sandbox) -> None:
    row = {
        "task_id": 2,
        "prompt": "Write a function to halve.",
        "code": "def half(x):\n    return x / 2\n",
        "test_list": ["assert half(4) == 2"],
        "test": (
            "import numpy as np\n\ndef assertion(out, exp, atol):\n"
            "    assert np.allclose(out, exp, rtol=1e-07, atol=1e-6)\n\n"
            "inputs = [[3], [5]]\nresults = [1.5, 2.5]\n"
            "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(half(*inp), exp, 0)\n"
        ),
    }
    task = one("mbppplus")
    (item,) = task.items(rows("MbppPlus-OriginFmt.jsonl.gz", [row]))
    assert verdicts(task, item, sandbox, row["code"], "def half(x):\n    return x // 2\n", "") == [
        True,
        False,
        False,
    ]


def test_cruxeval(rows, sandbox: Sandbox) -> None:
    row = {"id": "sample_0", "code": "def f(s):\n    return s[::-1]", "input": "'ab'", "output": "'ba'"}
    path = rows("cruxeval.jsonl.gz", [row])
    output = one("cruxeval-output")
    (item,) = output.items(path)
    assert verdicts(output, item, sandbox, "'ba'", "'b' + 'a'", "'ab'", "", "f('ab')") == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert output.extract(item, "assert f('ab') == 'ba'\n[/ANSWER]\nmore", "completion") == "'ba'"
    given = one("cruxeval-input")
    assert verdicts(
        given,
        item,
        sandbox,
        "f('ab')",
        "'ab'",
        "f('ba')",
        "f(type('E', (), {'__getitem__': lambda *a: 'ba'})())",
    ) == [
        True,
        True,
        False,
        False,
    ]
    assert (
        given.extract(item, "assert f('a' == 'b', x=2) == 'ba'\n[/ANSWER]", "completion")
        == "f('a' == 'b', x=2)"
    )
    thought = one("cruxeval-output-cot")
    text = "1. s is 'ab'\n[/THOUGHT]\n[ANSWER]\nassert f('ab') == 'ba'\n[/ANSWER]"
    assert thought.extract(item, text, "completion") == "'ba'"
    request = output.request(item, "completion")
    assert isinstance(request, Continuation)
    assert request.prompt.endswith(
        "def f(s):\n    return s[::-1]\nassert f('ab') == ??\n[/PYTHON]\n[ANSWER]\n"
    )


def test_canitedit(rows, sandbox: Sandbox) -> None:
    row = {
        "full_name": "1_greeter",
        "before": "class Greeter:\n    def hi(self):\n        return 'hi'\n",
        "after": "class Greeter:\n    def hi(self):\n        return 'hi'\n\n    def bye(self):\n        return 'bye'\n",
        "tests": (
            "### START TESTS ###\nimport inspect\nassert Greeter().bye() == 'bye'\n"
            "assert 'bye' in inspect.getsource(Greeter)\n"
        ),
        "instruction_descriptive": "Add a method bye.",
        "instruction_lazy": "add bye",
        "taxonomy": {"libraries": []},
    }
    task = one("canitedit-descriptive")
    (item,) = task.items(rows("canitedit.jsonl.gz", [row]))
    assert verdicts(task, item, sandbox, row["after"], row["before"]) == [True, False]
    early = row["after"] + "\nimport os\nprint('done')\nos._exit(0)\n"
    assert verdicts(task, item, sandbox, early) == [False]
    verdict = score_one(task, Answer(item.id, 0, item, row["after"]), sandbox)
    excess = task.measures(item, row["after"], verdict, sandbox)["excess_code"]
    assert excess == pytest.approx(100 / 5)  # of five lines, `return 'hi'` is never reached
    request = task.request(item, "completion")
    assert isinstance(request, EditRequest)
    assert (request.start, request.end) == (1, 3)
    assert "needs no_such_library" in str(
        task.missing(Item("x", row | {"taxonomy": {"libraries": ["no_such_library"]}}))
    )


def test_bigcodebench(rows, sandbox: Sandbox) -> None:
    row = {
        "task_id": "BigCodeBench/0",
        "prompt": "import random\ndef task_func(n):\n    '''n ones from a source.'''\n",
        "canonical_solution": "    return [random.randint(1, 1) for _ in range(n)]\n",
        "entry_point": "task_func",
        "libs": "['random']",
        "test": (
            "import unittest\nfrom unittest.mock import patch\nclass TestCases(unittest.TestCase):\n"
            "    def test_ones(self):\n        self.assertEqual(task_func(2), [1, 1])\n"
            "    @patch('random.randint', return_value=7)\n    def test_source(self, mock):\n"
            "        self.assertEqual(task_func(1), [7])\n"
        ),
    }
    task = one("bigcodebench")
    (item,) = task.items(rows("BigCodeBench-annotation.jsonl.gz", [row]))
    assert verdicts(
        task, item, sandbox, row["canonical_solution"], "    return [1] * n\n", "    import os; os._exit(0)\n"
    ) == [
        True,
        False,
        False,
    ]
    lacking = Item("x", row | {"libs": "['no_such_library', 'os']"})
    assert task.missing(lacking) == "needs no_such_library, not installed"
    assert "not scored" in score_one(task, Answer("x", 0, lacking, ""), sandbox).reason


FIX = {
    "python": (
        "def f(x):\n",
        "    return x - 1\n",
        "    return x + 1\n",
        "def check(f):\n    assert f(1) == 2\n\ncheck(f)",
    ),
    "js": (
        "const f = (x) => {\n",
        "  return x - 1;\n}\n",
        "  return x + 1;\n}\n",
        "const testF = () => {\n  console.assert(f(1) === 2)\n}\n\ntestF()\n",
    ),
    "java": (
        "import java.util.*;\n\nclass Solution {\n    public int f(int x) {\n",
        "        return x - 1;\n    }\n}",
        "        return x + 1;\n    }\n}",
        "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n"
        "        List<Boolean> correct = Arrays.asList(s.f(1) == 2);\n        if (correct.contains(false)) {\n"
        "            throw new AssertionError();\n        }\n    }\n}\n",
    ),
}


@pytest.mark.parametrize("language", list(FIX))
def test_humanevalfix(rows, sandbox: Sandbox, language: str) -> None:
    task = one(f"humanevalfix-{language}")
    if task.unavailable():
        pytest.skip(str(task.unavailable()))
    declaration, buggy, right, test = FIX[language]
    row = {"task_id": f"{language}/0", "declaration": declaration, "prompt": declaration, "entry_point": "f"}
    row |= {"buggy_solution": buggy, "canonical_solution": right, "test": test}
    (item,) = task.items(rows(f"humanevalpack-{language}.jsonl.gz", [row]))
    assert verdicts(task, item, sandbox, declaration + right, declaration + buggy) == [True, False]


@pytest.mark.parametrize("language", ["js", "java", "cpp", "rs", "sh"])
def test_multipl_e(rows, sandbox: Sandbox, language: str) -> None:
    task = one(f"multipl-e-{language}")
    if task.unavailable():
        pytest.skip(str(task.unavailable()))
    prompts = {
        "js": (
            "function strlen(string){\n",
            "const assert = require('node:assert');\nassert.deepEqual(strlen('abc'),3);",
        ),
        "java": (
            "import java.util.*;\nimport org.javatuples.*;\nclass Problem {\n"
            "    public static long strlen(String string) {\n",
            '    }\n    public static void main(String[] args) {\n    assert(strlen(("abc")) == (3l));\n'
            '    assert(Pair.with(1l, "a").equals(Pair.with(1l, "a")));\n    }\n\n}\n',
        ),
        "cpp": (
            "#include<assert.h>\n#include<bits/stdc++.h>\nlong strlen_(std::string string) {\n",
            '}\nint main() {\n    assert(strlen_("abc") == 3);\n}\n',
        ),
        "rs": (
            "fn strlen(string: String) -> isize {\n",
            '}\n\nfn main() {\n    assert_eq!(strlen(String::from("abc")), 3);\n}\n',
        ),
        "sh": (
            "#!/bin/bash\nstrlen() {\n",
            '}\n\nset -e\nrun_test() {\n    [[ $(strlen "abc") = "3" ]]\n}\n\nrun_test',
        ),
    }
    prompt, tests = prompts[language]
    row = {"name": "HumanEval_23_strlen", "prompt": prompt, "tests": tests, "stop_tokens": ["\n}"]}
    (item,) = task.items(rows(f"humaneval-{language}.jsonl.gz", [row]))
    right, wrong = (control.completion for control in task.controls(item))
    assert verdicts(task, item, sandbox, right, wrong) == [True, False]


def test_an_early_exit_is_no_pass_in_other_languages(sandbox: Sandbox) -> None:
    for name, program in {
        "js": "process.exit(0);\nrequire('assert')(false);",
        "sh": "exit 0\nfalse",
        "cpp": "#include <cstdlib>\n#include <cstdio>\nint main() {\n  exit(0);\n}\n",
    }.items():
        if not LANGUAGES[name].unavailable():
            verdict = run_program(LANGUAGES[name], program, sandbox)
            assert not verdict.passed
            assert verdict.reason == "ended before its tests did"


def test_mbxp(rows, sandbox: Sandbox) -> None:
    task = one("mbxp-js")
    row = {
        "task_id": "MBJSP/1",
        "prompt": "function pair(a) {\n",
        "entry_point": "pair",
        "canonical_solution": "    return {x: [a, a]};\n}\n",
        "test": 'const _ = require("lodash")\nvar x0 = pair(2);\nif(!_.isEqual(x0, {x: [2, 2]})){ throw "no" }\n',
    }
    (item,) = task.items(rows("mbjsp_release_v1.2.jsonl.gz", [row]))
    if not task.unavailable():
        assert verdicts(task, item, sandbox, row["canonical_solution"], "    return {x: [a]};\n}\n") == [
            True,
            False,
        ]
    assert (
        task.extract(item, "    if (a) { return 1; }\n}\nrest {}", "completion")
        == "    if (a) { return 1; }\n}"
    )


def test_livecodebench(rows, sandbox: Sandbox) -> None:
    hidden = json.dumps([{"input": "5\n", "output": "10\n", "testtype": "stdin"}])
    packed = base64.b64encode(zlib.compress(pickle.dumps(hidden))).decode()
    reads = {
        "question_id": "1",
        "question_content": "Double it.",
        "starter_code": "",
        "public_test_cases": json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
        "private_test_cases": packed,
        "metadata": "{}",
    }
    called = {
        "question_id": "2",
        "question_content": "Sum.",
        "starter_code": "class Solution:\n    def add(self, a: int, b: List[int]) -> int:\n",
        "public_test_cases": json.dumps([{"input": "2\n[1, 2]", "output": "5", "testtype": "functional"}]),
        "private_test_cases": "[]",
        "metadata": json.dumps({"func_name": "add"}),
    }
    task = one("livecodebench")
    first, second = task.items(rows("test.jsonl", [reads, called]))
    programs = ("print(2 * int(input()))", "print(float(input()) * 2)", "print(4)", "")
    assert verdicts(task, first, sandbox, *programs) == [True, True, False, False]
    solution = "class Solution:\n    def add(self, a: int, b: List[int]) -> int:\n        return a + sum(b)\n"
    assert verdicts(task, second, sandbox, solution, solution.replace("sum(b)", "1")) == [True, False]
    assert task.extract(first, "Sure:\n```python\nprint(1)\n```\n", "chat") == "print(1)\n"
    evil = base64.b64encode(zlib.compress(b"cos\nsystem\n(S'touch owned'\ntR.")).decode()
    bad = Item("3", reads | {"private_test_cases": evil})
    with pytest.raises(DiffcoderError, match="cannot be read"):
        task.score(bad, "", sandbox)


def test_mhpp(rows, sandbox: Sandbox) -> None:
    examples = "    >>> half(3)\n    1.50000\n    >>> half(4)\n    2\n"
    question = f'def half(x: int) -> float:\n    """Half of x.\n{examples}    """'
    row = {"id": 1, "question": question, "prompt": "Write it.\n\n" + question, "function_name": "half"}
    task = one("mhpp")
    (item,) = task.items(rows("MHPP.jsonl", [row]))
    whole = "def half(x):\n    return x / 2\n"
    assert verdicts(task, item, sandbox, "    return x / 2\n", whole, "    return x\n") == [True, True, False]


def test_quixbugs(tmp_path: Path, sandbox: Sandbox) -> None:
    for folder in ("json_testcases", "python_programs", "correct_python_programs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "json_testcases/gcd.json").write_text("[[13, 13], 13]\n[[37, 600], 1]\n")
    (tmp_path / "json_testcases/pairs.json").write_text("[[2], [[0, 0], [1, 1]]]\n")
    buggy = "def gcd(a, b):\n    if b == 0:\n        return a\n    else:\n        return gcd(a % b, b)\n\n"
    (tmp_path / "python_programs/gcd.py").write_text(
        buggy + '"""\nGreatest common divisor: gcd(b, a % b)\n"""\n'
    )
    (tmp_path / "correct_python_programs/gcd.py").write_text(buggy.replace("gcd(a % b, b)", "gcd(b, a % b)"))
    (tmp_path / "python_programs/pairs.py").write_text("def pairs(n):\n    yield (0, 0)\n")
    (tmp_path / "correct_python_programs/pairs.py").write_text(
        "def pairs(n):\n    for i in range(n):\n        yield (i, i)\n"
    )
    task = one("quixbugs")
    for item in task.items(tmp_path):
        right, wrong = (control.completion for control in task.controls(item))
        assert "Greatest" not in wrong
        assert verdicts(task, item, sandbox, right, wrong) == [True, False]


def test_safim(rows, sandbox: Sandbox) -> None:
    block = {
        "task_id": "block/1",
        "lang": "python",
        "prompt": "Description\n\nn = int(input())\nfor i in range(n):\n    # TODO: Your code here\nprint(n)\n",
        "eval_prompt": "n = int(input())\nfor i in range(n):\n    {{completion}}\nprint(n)\n",
        "ground_truth": "print(i)",
        "unit_tests": [{"input": "2\n", "output": ["0\n1\n2"]}],
    }
    call = block | {"task_id": "api/1", "ground_truth": "np.ones((n, n), dtype=int)", "unit_tests": []}
    task = one("safim")
    first, second = task.items(rows("block_completion.jsonl.gz", [block, call]))
    assert verdicts(task, first, sandbox, "print(i)", "print(i, end='\\n')", "pass", "print(") == [
        True,
        True,
        False,
        False,
    ]
    assert verdicts(task, second, sandbox, "np.ones( (n,n), dtype = int )", "np.ones((n,))") == [True, False]
    request = task.request(first, "completion")
    assert isinstance(request, FillRequest)
    assert request.suffix == "\nprint(n)\n"


def test_crosscodeeval(rows, sandbox: Sandbox) -> None:
    row = {
        "prompt": "from a import f\n\nx = ",
        "groundtruth": "f(1,\n      2)  # call",
        "right_context": "\nprint(x)\n",
        "metadata": {"task_id": "p/1"},
        "crossfile_context": {
            "text": "",
            "list": [{"retrieved_chunk": "def f(a, b): ...", "filename": "a.py", "score": 1}],
        },
    }
    task = one("crosscodeeval")
    (item,) = task.items(rows("line_completion.jsonl", [row]))
    assert task.extract(item, "f(1,\n      2)\nprint(x)\n", "completion") == "f(1,\n      2)"
    assert verdicts(task, item, sandbox, "f(1,\n      2)", "f(1, 2)") == [True, False]
    request = task.request(item, "completion")
    assert isinstance(request, FillRequest)
    assert request.snippets[0].path == "a.py"


def test_editeval(rows, sandbox: Sandbox) -> None:
    row = {
        "task_id": "EditEval/0",
        "instruction": "Rename to g and return int.",
        "input": "def f(x):\n    return x % 1",
        "output": "def g(x):\n    return int(x)",
        "test": "def check():\n    assert 'f' not in globals()\n    assert g(3.5) == 3\n",
    }
    task = one("editeval")
    (item,) = task.items(rows("edit_eval.jsonl", [row]))
    both = row["output"] + "\n\ndef f(x):\n    return 0\n"
    assert verdicts(task, item, sandbox, row["output"], row["input"], both) == [True, False, False]


def test_aider_polyglot(tmp_path: Path, sandbox: Sandbox) -> None:
    folder = tmp_path / "python/exercises/practice/add"
    (folder / ".meta").mkdir(parents=True)
    (folder / ".docs").mkdir()
    files = {"solution": ["add.py"], "test": ["add_test.py"], "example": [".meta/example.py"]}
    (folder / ".meta/config.json").write_text(json.dumps({"files": files}))
    (folder / ".meta/example.py").write_text("def add(a, b):\n    return a + b\n")
    (folder / ".docs/instructions.md").write_text("# Instructions\n\nAdd two numbers.\n")
    (folder / "add.py").write_text("def add(a, b):\n    pass\n")
    (folder / "add_test.py").write_text(
        "import unittest\n\nfrom add import add\n\n\nclass AddTest(unittest.TestCase):\n"
        "    def test_add(self):\n        self.assertEqual(add(1, 2), 3)\n"
    )
    task = one("aider-polyglot")
    (item,) = task.items(tmp_path)
    right, wrong = (control.completion for control in task.controls(item))
    assert verdicts(task, item, sandbox, right, wrong, "import os\nos._exit(0)\n") == [True, False, False]
    request = task.request(item, "completion")
    assert isinstance(request, EditRequest)
    assert "Add two numbers" in request.instruction


def test_repository_infill(tmp_path: Path, sandbox: Sandbox) -> None:
    body = "".join(
        f"def function_{n}(value):\n    result = value + {n}\n    return result\n\n" for n in range(20)
    )
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").write_text(body)
    (tmp_path / "b.js").write_text("const x = 1;\n" * 5)  # too short
    (tmp_path / "d.txt").write_text(body)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/c.py").write_text(body)
    task = one("repository-infill")
    items = task.items(tmp_path)
    assert [item.row["kind"] for item in items] == ["line", "line end", "lines", "span", "block"]
    assert items == task.items(tmp_path)
    for item in items:
        assert item.row["prefix"] + item.row["gap"] + item.row["suffix"] == body
        assert verdicts(task, item, sandbox, item.row["gap"], "") == [True, False]
    (tmp_path / "src/e.hpp").write_text("int value = 1;\n" * 30)
    (tmp_path / "src/f.tsx").write_text("const value = 1;\n" * 30)
    assert {item.row["language"] for item in task.items(tmp_path)} == {"python", "cpp", "typescript"}


def test_bad_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = one("humaneval")
    monkeypatch.delenv("DIFFCODER_EVALS", raising=False)
    with pytest.raises(DiffcoderError, match="--data"):
        task.items()
    with pytest.raises(DiffcoderError, match="no HumanEval"):
        task.items(tmp_path)
    path = tmp_path / "HumanEval.jsonl.gz"
    for content in (b"", b"not gzip", b"\x1f\x8b\x08\x00truncated"):
        path.write_bytes(content)
        with pytest.raises(DiffcoderError, match="again"):
            task.items(path)
    plain = tmp_path / "rows.jsonl"
    plain.write_text('{"task_id": "a"}\n{"task_id": \n')
    with pytest.raises(DiffcoderError, match="line 2"):
        read_rows(plain)
    plain.write_text('{"task_id": "a"}\n')
    with pytest.raises(DiffcoderError, match="published file"):
        task.items(plain)


def test_cutting() -> None:
    assert cut_at("abcXdY", ("Y", "X")) == "abc"
    assert cut_at("abc", ("X",)) == "abc"
    assert fenced("say\n```python\nx\ny\n```\nmore\n```\nz\n```") == "x\ny\n"
    assert fenced("no fence") == "no fence"
    assert fenced("```\nunclosed") == "unclosed\n"
