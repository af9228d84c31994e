"""What `diffcoder tune` prepares of a repository whose history git does not let it read."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from model.checkpoints import open_checkpoint
from model.tokens import load_tokenizer
from training import scratch
from training.edits import profile_of
from training.repository import prepare


@pytest.mark.parametrize("git", [False, True])
def test_why_a_history_is_not_read_is_noted_where_the_user_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: bool
) -> None:
    monkeypatch.delenv("DIFFCODER_EVALS", raising=False)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    team = tmp_path / "team"
    team.mkdir()
    texts = [f"def part_{n}(value_{n}):\n    return other_{n}(value_{n}, {n})\n" * 12 for n in range(5)]
    for n, text in enumerate(texts):
        (team / f"part{n}.py").write_text(text)
    if git:
        subprocess.run(["git", "init", "-q"], cwd=team, check=True)
    scratch.write(tmp_path / "base", texts, vocab=300, layers=1, width=32, context=256, seed=0)
    checkpoint = open_checkpoint(tmp_path / "base")
    tokenizer = load_tokenizer(checkpoint)
    prepare(team, tmp_path / "run", "base", tokenizer, profile_of(checkpoint, tokenizer), seed=0)
    facts = json.loads((tmp_path / "run" / "corpus" / "corpus.json").read_text())
    if git:
        assert facts["history"].startswith(
            "not read: git refuses (detected dubious ownership in repository at 'team'"
        )
        assert any(reason.startswith("history: git refuses") for reason in facts["left_out"])
    else:
        assert facts["history"] == "not read: it has no git history"
        assert not any("history" in reason for reason in facts["left_out"])
