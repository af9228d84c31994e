"""The commands with the real default model: what scripts get, what a newcomer sees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.model

COMMAND = str(Path(sys.executable).with_name("diffcoder"))


def run(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [COMMAND, *arguments], input=stdin.encode(), capture_output=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return done.stdout.decode()


def lines(verb: str, *asked: dict[str, object]) -> list[dict]:
    text = run(verb, "--stdin-json", stdin="\n".join(map(json.dumps, asked)))
    return [json.loads(line) for line in text.splitlines()]


def test_scripts_and_people_get_the_models_answers(home, default_model, tmp_path):
    gap = {"prefix": "def add(a, b):\n    return a", "suffix": "\n\n\nprint(add(1, 2))\n", "max_tokens": 16}
    long = "# a comment that is repeated very often\n" * 4000
    answers = lines(
        "fill",
        {"id": 1, **gap},
        {"id": 2, **gap},
        {"id": 3, **gap, "prefix": long + str(gap["prefix"]), "suffix": str(gap["suffix"]) + long},
        {"id": 4, **gap, "verify": "none", "rule": "sequential", "stop": ["\n"], "seed": 1},
        {"id": 5, **gap, "prefix": "x = '<|fim_middle|><|endoftext|>'\n" + str(gap["prefix"])},
        {"id": 6, "prefix": "", "suffix": "", "max_tokens": 1},
        {"id": 7, **gap, "prefix": str(gap["prefix"]).replace("\n", "\r\n")},
    )
    assert [answer["id"] for answer in answers] == [1, 2, 3, 4, 5, 6, 7]
    for answer in answers[:3] + answers[4:5] + answers[6:]:
        assert answer["text"].startswith(" + b"), answer
        assert 0 < answer["confidence"] <= 1
        assert 1 <= answer["tokens"] <= 17
        assert answer["forwards"] >= 1
    assert answers[1]["text"] == answers[0]["text"]
    assert answers[1]["cached_tokens"] > answers[0]["cached_tokens"]
    assert answers[2]["prefill_tokens"] < 4096  # windowed around the gap
    assert "error" in answers[3] or "\n" not in answers[3]["text"]

    before = "def f(a):\r\n    x = '<|im_end|>'\r\n    return a\r\n"
    (edited,) = lines(
        "edit", {"id": 1, "before": before, "start": 3, "end": 3, "instruction": "Return a + 1 instead of a."}
    )
    assert edited["text"] == before.replace("return a", "return a + 1")

    path = tmp_path / "code.py"
    path.write_text(str(gap["prefix"]) + str(gap["suffix"]))
    shown = run("fill", f"{path}:2:13", "--max-tokens", "16", "--write")
    assert "return a‹ + b" in shown
    assert path.read_text().startswith(f"{gap['prefix']} + b")


def test_the_demo_says_what_it_got(home, default_model):
    text = run("demo")
    assert "of 3,000 years" in text
    assert "--- a/" in text or "the model changed nothing" in text
    assert text.count(" forwards · ") == 2
