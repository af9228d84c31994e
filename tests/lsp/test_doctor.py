"""The doctor's report: what is wrong is named, with what to do about it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffcoder_lsp import cli, doctor
from diffcoder_lsp.doctor import checks
from model import store
from model.schema import DiffcoderError

COMMAND = str(Path(sys.executable).with_name("diffcoder"))


def report(*arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [COMMAND, "doctor", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
        timeout=300,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_fresh_machine_is_told_to_pull_the_model(tmp_path):
    status, text = report("--json", DIFFCODER_HOME=str(tmp_path))
    found = {check["name"]: check for check in json.loads(text)}
    assert status == 1
    assert found["model"]["state"] == "problem"
    assert "diffcoder model pull default" in found["model"]["detail"]
    assert "engine" not in found  # nothing to start without a model
    assert {"Python", "packages", "torch", "processor", "memory", "cache", "downloads", "socket"} <= set(
        found
    )
    # pip's default build is made for GPUs: it works, and where there is none the doctor says so
    for_gpu = "built for a GPU that is not here" in found["torch"]["detail"]
    assert found["torch"]["state"] == ("warning" if for_gpu else "ok")
    assert str(tmp_path) in found["cache"]["detail"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine"]


def test_people_get_a_mark_and_an_advice(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    status, text = report("--model", "tiny", DIFFCODER_HOME=str(blocked / "home"))
    assert status == 1
    assert "✗ cache " in text
    assert "Set DIFFCODER_HOME to a folder that you own." in text
    assert "✓ Python " in text
    assert all(len(line) <= 200 for line in text.splitlines())


def test_a_model_that_does_not_exist_is_a_problem_like_any_other(tmp_path):
    status, text = report("--model", "nonsense", DIFFCODER_HOME=str(tmp_path))
    assert status == 1
    assert "There is no model 'nonsense'" in text


@pytest.mark.model
def test_an_engine_that_has_no_place_is_a_problem_like_any_other(tmp_path):
    (tmp_path / "models").symlink_to(store.model_path("default").parents[1])
    (tmp_path / "engine").write_text("")
    status, text = report("--json", DIFFCODER_HOME=str(tmp_path))
    found = {check["name"]: check for check in json.loads(text)}
    assert status == 1
    assert found["engine"]["state"] == "problem"


def test_a_check_that_fails_as_none_should_leaves_those_before_it(monkeypatch, capsys):
    def fail(_):
        raise DiffcoderError("no_folder", "There is no folder.")

    monkeypatch.setattr(doctor, "_ask_torch", dict)
    monkeypatch.setattr(doctor, "_torch", fail)
    assert cli.main(["doctor", "--json"]) == 1
    said = capsys.readouterr()
    assert [check["name"] for check in json.loads(said.out)] == ["Python", "packages"]
    assert said.err == "diffcoder: There is no folder.\n"


def test_torch_that_cannot_be_imported_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_ASK_TORCH", "raise ImportError")
    found = {check.name: check for check in checks()}
    assert found["torch"].state == "problem"
    assert "import torch" in found["torch"].advice


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda _: ["no-such-package>=1", 'other>=1; extra == "dev"'])
    check = doctor._packages()
    assert (check.state, check.detail) == ("problem", "no-such-package missing")


@pytest.mark.model
def test_a_machine_that_is_set_up_is_fine():
    status, text = report()
    assert "✗" not in text
    assert status == 0
    assert "✓ engine " in text
