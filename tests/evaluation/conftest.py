"""Small data in each benchmark's published format, so that loaders and scorers are tested on any machine.

The real data, where DIFFCODER_EVALS names it, is tested besides (test_published_data.py).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.sandbox import Sandbox

Rows = Callable[[str, list[dict]], Path]


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return Sandbox.find()


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Writes rows as a .jsonl, .jsonl.gz or .json file below a folder; gives the file's path."""

    def write(name: str, content: list[dict]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content) if ".json" in path.suffixes else "\n".join(map(json.dumps, content)) + "\n"
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


ADD = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """Sum of a and b."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": (
        "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n"
        "    assert candidate(-1, 1) == 0\n"
    ),
}


@pytest.fixture
def humaneval(rows: Rows) -> Path:
    """A HumanEval of three problems."""
    double = ADD | {
        "task_id": "HumanEval/1",
        "prompt": 'def double(x):\n    """Twice x."""\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(4) == 8\n    assert candidate('ab') == 'abab'\n",
    }
    helper = ADD | {
        "task_id": "HumanEval/2",
        "prompt": 'def twice(x):\n    return x * 2\n\n\ndef half(x):\n    """Undo twice."""\n',
        "entry_point": "half",
        "canonical_solution": "    return x // 2\n",
        "test": "def check(candidate):\n    assert candidate(twice(21)) == 21\n",
    }
    return rows("HumanEval.jsonl.gz", [ADD, double, helper])
