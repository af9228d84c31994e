"""`diffcoder tune` from end to end on a tiny model: what it reads, keeps, measures, reports and offers."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from filelock import FileLock

from model import store
from model.drafters import REFERENCE_COST, CostCurve
from model.generator import Generator
from model.schema import FillRequest, FillResponse, ScoreRequest
from tests.model.folders import write_model
from training import commits, report, transformations, tune, yardstick
from training.live import Live
from training.measurement import Measurement
from training.trainer import Trainer
from training.yardstick import Filler, Outcome

FILES = 12


def source(n: int) -> str:
    """A module like the others of its repository, with names and numbers of its own."""
    parts = [f'"""Module {n}."""\n\nfrom store import Record, registry\n']
    for k in range(6):
        a, b = n * 17 + k * 3, n * 5 + k
        parts.append(
            f"\n\ndef handler_{a}(record: Record, limit_{b}: int) -> int:\n"
            f"    total_{a} = record.value_{b} + {a}\n"
            f"    if total_{a} > limit_{b}:\n"
            f"        return registry.reject(record, total_{a})\n"
            f"    return registry.accept(record, total_{a})\n"
        )
    return "".join(parts)


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "shop"
    folder.mkdir()
    git(folder, "init", "-q")
    for n in range(FILES):
        (folder / f"part{n}.py").write_text(source(n))
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "Start")
    for n in range(FILES):
        path = folder / f"part{n}.py"
        path.write_text(path.read_text().replace("if total", "if record.live and total", 1))
        git(folder, "commit", "-qam", f"feat: reject records that are live in part {n} (#{n})")
    git(folder, "commit", "-qam", "Bump version", "--allow-empty")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_model(folder)
    return folder


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DIFFCODER_EVALS", raising=False)
    path = tmp_path / "quick.toml"
    path.write_text(
        'kind = "team"\nrank = 8\nlength = 128\nsequences = 2\ninfill = 0.5\nepochs = 3.0\nlr = 2e-2\n'
        "lr_warmup = 2\nema = 0.5\n"
    )
    return path


@pytest.fixture
def five_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes as many, however quick the machine."""
    monkeypatch.setattr(tune.Tuning, "_plan", lambda *_: tune.Plan(1000, 0.1, 5, 1.0, 1.0))


def run(repository: Path, base: Path, recipe: Path, *more: str) -> int:
    common = ["--model", str(base), "--recipe", str(recipe), "--gaps", "8", "--threads", "1"]
    return tune.main([str(repository), *common, *more])


def bits(generator: Generator, text: str) -> float:
    return -sum(token.logprob for token in generator.score(ScoreRequest(text=text)).tokens)


def test_it_learns_a_repository_and_the_engine_takes_it_up(
    repository: Path, base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--run", str(tmp_path / "run"))
    assert run(repository, base, recipe, *where, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "minutes in all" in said
    assert "Benchmarks: not checked: DIFFCODER_EVALS is not set" in said
    assert run(repository, base, recipe, *where) == 0
    assert not store.team_path(str(base)).exists()
    use = shlex.split(capsys.readouterr().out.rpartition("To use it: ")[2])
    assert use[:2] == ["diffcoder", "tune"]
    assert tune.main(use[2:]) == 0
    off = shlex.split(capsys.readouterr().out.split("`")[1])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["better"], result["difference"]
    assert result["difference"]["bits"] < -0.5
    assert result["corpus"]["documents"] == FILES
    assert result["corpus"]["edits"]["commit"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "src=" not in page
    assert "<script" not in page
    generator = Generator.load(str(base), team=store.team_path(str(base)))
    tuned = bits(generator, source(99))
    assert tune.main(off[2:]) == 0
    assert bits(generator, source(99)) > tuned + 10


def test_a_report_tells_the_gaps_that_are_answered_alike_from_the_rest() -> None:
    def outcome(name: str, answer: str, forwards: int) -> Outcome:
        return Outcome(name, "line", False, 0.5, 10.0, 5, 12, forwards, 30.0, answer)

    before = [outcome("a.py:1", "x", 4), outcome("b.py:1", "y", 2)]
    after = [outcome("a.py:1", "x", 3), outcome("b.py:1", "z", 12)]
    assert report._alike(before, after) == ("... in the 1 that both answer alike", "3.00", "4.00")
    assert report._alike(before[1:], after[1:]) is None
    page = report._numbers(yardstick.table(before), yardstick.table(after), report._alike(before, after))
    assert "<td>tokens a forward</td><td>4.00</td><td>1.60</td>" in page
    assert "both answer alike</td><td>3.00</td><td>4.00</td>" in page


def test_what_is_held_out_is_nowhere_in_training(
    repository: Path, base: Path, recipe: Path, tmp_path: Path
) -> None:
    run(repository, base, recipe, "--run", str(tmp_path / "run"), "--dry-run")
    records = [json.loads(line) for line in (tmp_path / "run/corpus/records.jsonl").open()]
    held = {record["path"] for record in records if record["held_out"]}
    assert 0 < len(held) < FILES / 2
    edited = commits.edits(repository, lambda path: path not in held, lambda text: False, Counter())
    assert {edit.path for edit in edited} == {record["path"] for record in records} - held


@pytest.mark.usefixtures("five_steps")
def test_a_stop_keeps_the_work_and_resume_ends_where_an_unbroken_run_does(
    repository: Path, base: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(repository, base, recipe, "--run", str(tmp_path / "whole")) == 0
    step, threads = Trainer._step, []

    def interrupted(trainer: Trainer, tally: object) -> None:
        step(trainer, tally)  # type: ignore[arg-type]
        if trainer.step == 2:
            threads.append(threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT)))
            threads[-1].start()
            threads[-1].join()

    monkeypatch.setattr(Trainer, "_step", interrupted)
    assert run(repository, base, recipe, "--run", str(tmp_path / "parts")) == 130
    assert run(repository, base, recipe, "--run", str(tmp_path / "parts")) == 1  # a run is not overwritten
    monkeypatch.setattr(Trainer, "_step", step)
    assert run(repository, base, recipe, "--run", str(tmp_path / "parts"), "--resume") == 0
    whole, parts = ((tmp_path / name / "adapter.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole[8:].split(b"layers.0", 1)[1] == parts[8:].split(b"layers.0", 1)[1]


def outcomes(run: Path, when: str) -> list[Outcome]:
    """What does not depend on the clock."""
    return [replace(outcome, ms=0.0) for outcome in Measurement(run / f"{when}.jsonl", 0).outcomes]


@pytest.mark.usefixtures("five_steps")
def test_a_measurement_that_was_stopped_goes_on_and_ends_where_an_unbroken_one_does(
    repository: Path,
    base: Path,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(repository, base, recipe, "--run", str(whole)) == 0
    fill, filled = Filler.fill, []

    def interrupted(filler: Filler, request: FillRequest) -> FillResponse:
        filled.append(fill(filler, request))
        if len(filled) % 6 == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return filled[-1]

    monkeypatch.setattr(Filler, "fill", interrupted)
    assert run(repository, base, recipe, "--run", str(parts)) == 130
    assert outcomes(parts, "before") == outcomes(whole, "before")[:5]
    with (parts / "before.jsonl").open("a") as file:
        file.write('[0.1,{"name":"par')  # as a kill leaves it
    again = shlex.split(capsys.readouterr().err.rpartition("go on with: ")[2])[2:]
    assert tune.main(again) == 130
    assert outcomes(parts, "before") == outcomes(whole, "before")
    assert len(outcomes(parts, "after")) == 2
    assert tune.main(again) == 130
    assert len(outcomes(parts, "after")) == 7
    assert tune.main(again) == 0
    assert outcomes(parts, "after") == outcomes(whole, "after")
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, parts)]
    assert results[0]["difference"] == results[1]["difference"]
    first, second = (result["after"] | {"ms_per_token": 0} for result in results)
    assert first == second


@pytest.mark.parametrize("flag", ["--resume", "--finish"])
def test_what_goes_on_needs_a_run(
    flag: str, repository: Path, base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(repository, base, recipe, "--run", str(tmp_path / "none"), flag) == 1
    said = capsys.readouterr().err
    assert "holds no run to go on with" in said
    assert flag in said
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("five_steps")
def test_use_without_a_result_says_that_it_learns_first_and_damaged_files_are_named(
    repository: Path,
    base: Path,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    tuned = [str(repository), "--model", str(base), "--run", str(folder)]
    assert run(repository, base, recipe, "--run", str(folder), "--use") in (0, 1)
    assert "no finished run" in capsys.readouterr().out
    files = ("result.json", "recipe.json", "before.jsonl", "corpus/corpus.json")
    for name, damage in product(files, (b'{"better', b"\xff\xfe\n\n", b"7")):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(damage if name != "before.jsonl" else b"8\n" + damage + b"\n")
        assert tune.main([*tuned, "--use" if name == "result.json" else "--resume"]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"diffcoder tune: {folder / name} cannot be read")
        assert said.count("\n") == 1
        (folder / name).write_bytes(kept)


@pytest.mark.parametrize(
    "wrong",
    [("--minutes", "-3"), ("--minutes", "nan"), ("--minutes", "inf"), ("--threads", "-1"), ("--gaps", "0")],
)
def test_numbers_that_make_no_sense_are_refused(
    wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        tune.main([".", *wrong])
    assert end.value.code == 2
    assert f"argument {wrong[0]}: {wrong[1]} is no" in capsys.readouterr().err


@pytest.mark.parametrize(("whole", "way"), [(True, "recipe's epochs"), (False, "--minutes")])
def test_what_keeps_training_short_is_named(
    whole: bool, way: str, repository: Path, base: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    minutes = "60" if whole else "0.001"
    recipe.write_text(recipe.read_text().replace("epochs = 3.0", f"epochs = {0.1 if whole else 3.0}"))
    assert run(repository, base, recipe, "--minutes", minutes, "--dry-run") == 0
    said = capsys.readouterr().out
    assert f"that is little: {'' if whole else 'allow more '}" in said
    assert way in said


@pytest.mark.usefixtures("five_steps")
@pytest.mark.parametrize(("seconds", "number"), [(30.0, 20), (1e9, 16)])
def test_measuring_takes_a_third_of_the_time_where_nobody_says_how_many_gaps(
    seconds: float,
    number: int,
    repository: Path,
    base: Path,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tune.Tuning, "_seconds_a_gap", lambda *_: seconds)
    words = [str(repository), "--model", str(base), "--recipe", str(recipe), "--run", str(tmp_path / "run")]
    assert tune.main(words) == 0
    assert f"held out with {number} gaps" in capsys.readouterr().out.replace("\n", " ")
    assert len(outcomes(tmp_path / "run", "before")) == number
    (tmp_path / "run" / "after.jsonl").unlink()
    assert tune.main([*words, "--resume"]) == 0  # asks what it asked before
    assert len(outcomes(tmp_path / "run", "after")) == number


def test_a_run_without_a_terminal_says_what_it_knows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.live.EVERY_S", -1.0)
    with Live().training(5) as line:
        line({"step": 1, "loss": 2.5, "rows_per_s": 80.0})
    assert capsys.readouterr().out == "step 1 of 5: loss 2.5, 80.0 rows/s\n"


@pytest.mark.parametrize("name", ["notes.txt", "corpus/novel.txt", "edits/chapter.txt"])
def test_a_folder_that_is_no_run_is_left_alone(
    name: str, repository: Path, base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("keep")
    assert run(repository, base, recipe, "--run", str(tmp_path / "mine"), "--dry-run") == 1
    assert "something else" in capsys.readouterr().err
    found = [path for path in (tmp_path / "mine").rglob("*") if path.is_file()]
    assert [path.relative_to(tmp_path / "mine").as_posix() for path in found] == [name]


def stopped_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C behind this step."""
    original = Trainer._step

    def stopping(trainer: Trainer, tally: object) -> None:
        original(trainer, tally)  # type: ignore[arg-type]
        trainer.stopping = trainer.step == step

    monkeypatch.setattr(Trainer, "_step", stopping)


@pytest.mark.usefixtures("five_steps")
def test_what_is_learnt_so_far_is_measured_and_then_learning_goes_on(
    repository: Path,
    base: Path,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, where = tmp_path / "run", ("--run", str(tmp_path / "run"))
    assert run(repository, base, recipe, *where, "--dry-run") == 0
    assert run(repository, base, recipe, *where, "--finish") == 1
    assert "has learnt nothing to measure yet" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        stopped_at(patch, 2)
        assert run(repository, base, recipe, *where) == 130
    command = ["--gaps", "99", *where]  # asks what the run asked for before
    assert run(repository, base, recipe, *command, "--finish") == 0
    early = json.loads((folder / "result.json").read_text())
    assert "--gaps 8" in early["command"]
    assert early["command"].endswith(str(recipe))
    assert run(repository, base, recipe, *where, "--resume") == 0
    result = json.loads((folder / "result.json").read_text())
    assert json.loads((folder / "trained.json").read_text()) == {"step": 5}
    assert result["before"] == early["before"]
    assert result["difference"]["bits"] < early["difference"]["bits"]
    assert tune.main([str(repository), "--model", str(base), *where, "--resume"]) == 0
    assert json.loads((folder / "result.json").read_text())["command"] == result["command"]


@pytest.mark.usefixtures("five_steps")
def test_a_run_goes_on_with_a_recipe_that_is_named_in_its_own_number_of_steps(
    repository: Path, base: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lower = tmp_path / "run", tmp_path / "lower.toml"
    with monkeypatch.context() as patch:
        stopped_at(patch, 2)
        assert run(repository, base, recipe, "--run", str(folder)) == 130
    lower.write_text(recipe.read_text().replace("lr = 2e-2", "lr = 1e-3"))
    assert run(repository, base, lower, "--run", str(folder), "--resume") == 0
    (changed,) = [line for line in report.log_lines(folder / "log.jsonl") if "changed" in line]
    assert changed["changed"] == {"lr": [2e-2, 1e-3]}
    assert json.loads((folder / "recipe.json").read_text())["steps"] == 5


def test_a_repository_whose_name_is_not_text_is_learnt(base: Path, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("names are text on this file system")
    for n in range(6):
        (folder / f"part{n}.py").write_text(source(n))
    assert run(folder, base, recipe, "--run", str(tmp_path / "run"), "--dry-run") == 0


def test_two_at_once_do_not_share_a_folder(
    repository: Path, base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FileLock(f"{tmp_path / 'taken'}.lock", is_singleton=False):
        assert run(repository, base, recipe, "--run", str(tmp_path / "taken"), "--dry-run") == 1
    assert "Another `diffcoder tune`" in capsys.readouterr().err
    assert run(repository, base, recipe, "--run", str(tmp_path / "taken"), "--dry-run") == 0


@pytest.mark.parametrize("content", ["empty", "binary", "huge", "missing"])
def test_a_repository_that_teaches_nothing_is_said_in_a_sentence(
    content: str, base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "repo"
    if content != "missing":
        folder.mkdir()
    if content == "binary":
        (folder / "a.py").write_bytes(b"\0\xff" * 600)
    if content == "huge":
        (folder / "a.py").write_text("x = 1\n" * 100_000)
    assert run(folder, base, recipe) == 1
    said = capsys.readouterr().err
    assert said.startswith("diffcoder tune: ")
    assert said.count("\n") == 1
    assert {"binary": "not text", "huge": "too large", "missing": "no folder", "empty": "none"}[
        content
    ] in said


def test_without_git_there_are_no_commits_and_all_else_goes_on(
    base: Path, recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for n in range(6):
        (folder / f"part{n}.py").write_text(source(n))
    assert run(folder, base, recipe, "--run", str(tmp_path / "run"), "--dry-run") == 0
    facts = json.loads((tmp_path / "run/corpus/corpus.json").read_text())
    assert "commit" not in facts["edits"]
    assert facts["edits"]["renaming"] + facts["edits"]["bug"] > 0


def test_transformations_change_one_thing_and_know_the_truth() -> None:
    text = source(3)
    found = list(transformations.edits("a.py", text, seed=1))
    assert {edit.origin for edit in found} == {"renaming", "bug"}
    for edit in found:
        lines = edit.before.split("\n")
        whole = "\n".join(lines[: edit.start - 1]) + "\n" + edit.replacement + "\n".join(lines[edit.end :])
        if edit.origin == "bug":
            assert edit.before != text
            assert whole == text
        else:
            old, new = edit.instruction.split("`")[1::2]
            assert edit.before == text
            assert whole.replace(new, old) == text.replace(new, old)


def test_commit_messages_that_say_nothing_teach_nothing(repository: Path) -> None:
    left_out: Counter[str] = Counter()
    found = list(commits.edits(repository, lambda path: True, lambda text: False, left_out))
    assert len(found) == FILES
    assert found[0].instruction == f"Reject records that are live in part {FILES - 1}"
    lines = found[0].before.split("\n")[found[0].start - 1 : found[0].end]
    changed = found[0].replacement.split("\n")[:-1]
    assert [a for a, b in zip(lines, changed, strict=True) if a != b] == [
        line.replace("record.live and ", "") for line in changed if "live and" in line
    ]


@pytest.mark.parametrize(("kind", "same"), [(Filler, True), (Generator, False)])
def test_a_gap_is_measured_alike_whatever_was_asked_before(
    kind: type[Generator], same: bool, base: Path, recipe: Path
) -> None:
    generator = kind.load(str(base), threads=1)
    generator.cost = CostCurve(REFERENCE_COST)
    gap = yardstick.gaps([("part0.py", "python", source(0))], 1)
    ((_, first),) = yardstick.measure(generator, gap)
    for _ in range(100):
        generator._beliefs.lookup.update(0, 4)  # drafts that came to nothing
    ((_, second),) = yardstick.measure(generator, gap)
    assert (second.forwards == first.forwards < first.tokens) == same
    assert (second.answer, second.bits) == (first.answer, first.bits)
