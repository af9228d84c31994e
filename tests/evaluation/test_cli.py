"""`diffcoder eval` as people and scripts use it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluation import campaign, tasks, verdicts
from evaluation.cli import main, parser
from evaluation.running import variants
from evaluation.runs import Facts, Run, Settings, chosen, digest, own_version
from model.schema import DiffcoderError
from tests.evaluation.test_runs import completion, facts, scored

ROOT = Path(__file__).resolve().parents[2]


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_score_is_a_stable_contract(humaneval: Path, tmp_path: Path) -> None:
    """One line out for one line in, in order; bad lines are named and the rest goes on."""
    samples = [
        json.dumps({"task_id": "HumanEval/1", "completion": "    return 2 * x\n"}),
        json.dumps({"task_id": "HumanEval/0", "completion": "    return a - b\n"}),
        "",
        "{broken",
        json.dumps({"task_id": "HumanEval/0"}),
        json.dumps({"task_id": "HumanEval/99", "completion": ""}),
        json.dumps({"task_id": "HumanEval/0", "completion": "    return a + b\n", "more": 1}),
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("\n".join(samples))
    command = [sys.executable, "-m", "diffcoder_lsp.cli", "eval", "score", "humaneval"]
    command += ["--samples", str(path), "--data", str(humaneval)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    out = lines(done.stdout)
    assert [set(line) for line in out] == [{"task_id", "passed", "reason"}] * 6, done.stderr
    assert [line["task_id"] for line in out] == [
        "HumanEval/1",
        "HumanEval/0",
        None,
        None,
        "HumanEval/99",
        "HumanEval/0",
    ]
    assert [line["passed"] for line in out] == [True, False, False, False, False, True]
    assert out[0]["reason"] == "passed"
    assert out[1]["reason"].startswith("AssertionError")
    assert "line 4" in out[2]["reason"]
    assert "line 5" in out[3]["reason"]
    assert "no task_id" in out[4]["reason"]
    assert done.returncode == 1  # some lines were bad
    assert "pass@1" in done.stderr
    assert "Traceback" not in done.stderr


def test_score_of_good_lines_ends_well(
    humaneval: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps({"task_id": "HumanEval/0", "completion": "    return 0\n"}) + "\n")
    assert main(["score", "humaneval", "--samples", str(path), "--data", str(humaneval)]) == 0
    assert lines(capsys.readouterr().out) == [
        {"task_id": "HumanEval/0", "passed": False, "reason": "AssertionError"}
    ]


def test_users_mistakes_are_sentences(humaneval: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (["score", "humanevel", "--samples", "x"], "did you mean humaneval"),
        (["score", "humaneval-infilling", "--samples", "x"], "name one of"),
        (
            ["score", "humaneval", "--samples", str(tmp_path / "no"), "--data", str(humaneval)],
            "cannot be read",
        ),
        (["humaneval", "--n", "3", "--data", str(humaneval)], "--temperature"),
        (["cruxeval-input", "--style", "chat"], "asked as completion"),
        (["report", str(tmp_path)], "run a task first"),
    ):
        with pytest.raises(DiffcoderError, match=words):
            main(arguments)


def test_self_check_counts(humaneval: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["self-check", "humaneval", "--data", str(humaneval), "--json"]) == 0
    counts = {line["kind"]: line for line in lines(capsys.readouterr().out)}
    assert (counts["canonical"]["run"], counts["canonical"]["passed"]) == (3, 3)
    assert (counts["empty"]["run"], counts["empty"]["passed"]) == (3, 0)


def test_self_check_sees_a_wrong_solution(rows, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.evaluation.conftest import ADD

    wrong = rows("HumanEval.jsonl.gz", [ADD | {"canonical_solution": "    return a * b\n"}])
    assert main(["self-check", "humaneval", "--data", str(wrong)]) == 1
    assert "BAD" in capsys.readouterr().out


def test_list_names_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    names = [line["task"] for line in lines(capsys.readouterr().out)]
    assert {"humaneval", "humaneval-infilling-single", "safim", "bigcodebench-hard"} <= set(names)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_compare_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verify, good in (("ar", {0, 1, 2, 3}), ("none", {0, 1})):
        run = Run.start(tmp_path / verify, facts(verify=verify), resume=False)
        for number in range(30):
            run.add(completion(f"p{number}", confidence=0.9 if number in good else number / 40))
            measures = {"gap_characters": 10.0 + number}
            run.add(scored(f"p{number}", number in good, measures=measures))
    for threshold, forwards, good in ((0.5, 5, 6), (0.9, 10, 18)):
        swept = facts(verify="none", rule="confidence", threshold=threshold)
        run = Run.start(tmp_path / f"rule{threshold}", swept, resume=False)
        for number in range(30):
            run.add(completion(f"p{number}", forwards=forwards, batch=8))
            run.add(scored(f"p{number}", number < good))
    assert main(["compare", str(tmp_path / "ar"), str(tmp_path / "none"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["both"], found["only_first"], found["only_second"]) == (2, 2, 0)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "pages/report")]) == 0
    html = (tmp_path / "pages/report.html").read_text()
    markdown = (tmp_path / "pages/report.md").read_text()
    for text in (html, markdown):
        assert "default-verify-ar" in text
        assert "13.3" in text  # four of thirty
        assert "theirs: dLLM" in text
        assert "diffcoder eval humaneval --model default --verify none" in text
    assert "| HumanEval, default | confidence | 2 | 1.00-2.00 | 40.0 |" in markdown  # 60 % at 1, 20 % at 2
    pairs = [line for line in markdown.splitlines() if "30 of 30" in line]
    assert len(pairs) == 3  # the autoregressive run with each other, and not those among themselves
    assert all("| default-verify-ar |" in line for line in pairs)
    tags = Tags()
    tags.feed(html)
    assert sum(tag == "svg" for tag, _ in tags.found) == 4
    for tag, attributes in tags.found:
        assert tag not in ("script", "link", "img", "iframe")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert str(value).startswith("#"), value
    pictures = re.findall(r"!\[.*\]\((.*)\)", markdown)
    assert len(pictures) == 4
    assert all((tmp_path / "pages" / name).read_text().startswith("<svg") for name in pictures)
    first = html
    places = [str(tmp_path / name) for name in ("none", "ar", "rule0.9", "rule0.5")]
    main(["report", *places, "--out", str(tmp_path / "pages/report")])
    assert (tmp_path / "pages/report.html").read_text() == first


def test_a_campaign_goes_on_after_what_cannot_be_made(
    humaneval: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs whose answers are there are scored, one of unknown name is named, one is taken from another's."""
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DIFFCODER_EVALS", str(tmp_path / "data"))
    for place in ("humaneval/HumanEval.jsonl.gz", "humanevalplus/HumanEvalPlus-OriginFmt.jsonl.gz"):
        (tmp_path / "data" / place).parent.mkdir(parents=True)
        shutil.copy(humaneval, tmp_path / "data" / place)
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'options = "--resume --threads 1"\n[[run]]\ncommand = "humaneval --verify ar"\nminutes = 1\n'
        '[[run]]\ncommand = "humanevil"\nminutes = 1\n'
        '[[run]]\ncommand = "humanevalplus --verify ar --answers-of humaneval"\nminutes = 1\n'
    )
    (task,) = tasks.find("humaneval")
    settings = Settings(task="humaneval", verify="ar", limit=2)
    made = Run.start(
        tmp_path / "home/evals/humaneval" / settings.label(),
        Facts(
            settings=settings,
            version="0",
            machine="",
            threads=1,
            started="",
            items=2,
            data=digest(task.items()[1:]),
        ),
        resume=False,
    )
    for item, text in zip(task.items()[1:], ("    return 2 * x\n", "    return x\n"), strict=True):
        made.add(completion(item.id, completion=text, text=text))
    assert main(["campaign", str(plan), "--limit", "2"]) == 1
    out = capsys.readouterr()
    assert out.out.count("pass@1 50.0 %") == 2
    assert "[3/3] diffcoder eval humanevalplus --verify ar --answers-of humaneval" in out.err
    assert "skipped: There is no task 'humanevil': did you mean humaneval?" in out.err
    taken = Run.open(tmp_path / "home/evals/humanevalplus" / settings.label())
    assert {key[0]: line.passed for key, line in taken.verdicts().items()} == {
        "HumanEval/1": True,
        "HumanEval/2": False,
    }
    plan.write_text("[[run]]\ncomand = 1\n")
    with pytest.raises(DiffcoderError, match="no list of runs"):
        main(["campaign", str(plan)])


def test_the_campaign_that_ships_is_understood() -> None:
    """Every run's words parse, name tasks that exist, and ask for settings that can be."""
    plan = campaign.read(campaign.OURS)
    seen = set()
    for words in plan.commands():
        options = parser(words).parse_args(words)
        assert options.resume
        for task in tasks.find(options.task):
            assert options.style in task.styles
            if options.answers_of:
                tasks.one(options.answers_of)
            for settings in variants(task, options):
                key = task.name, settings.label()
                assert key not in seen, key
                seen.add(key)
    assert len(seen) > 60


def test_settings_that_make_no_sense_are_refused(humaneval: Path) -> None:
    for words, says in (
        (["--rule", "confidence"], "add --verify none"),
        (["--verify", "ar", "--threshold", "0.5"], "add --verify none"),
        (["--n", "3"], "--temperature above 0"),
    ):
        with pytest.raises(DiffcoderError, match=says):
            main(["humaneval", "--data", str(humaneval), *words])
    for words in (["--verify", "both"], ["--rule", "confidence,best"], ["--batch", "0"]):
        with pytest.raises(SystemExit):
            main(["humaneval", "--data", str(humaneval), *words])


@pytest.mark.model
def test_a_run_with_the_real_model(humaneval: Path, tmp_path: Path, default_model: str, capsys) -> None:
    """Answers are kept, scored, and not asked for again; the same seed gives the same text in another run."""
    arguments = ["humaneval", "--data", str(humaneval), "--max-tokens", "8", "--json"]
    arguments += ["--temperature", "0.7", "--n", "2", "--verify", "ar"]
    assert main([*arguments, "--limit", "1", "--out", str(tmp_path / "a")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["problems"], result["completions"]) == (1, 2)
    assert 0 < result["tokens"] <= 2 * 9
    run = Run.open(tmp_path / "a")
    kept = (tmp_path / "a/completions.jsonl").read_bytes()
    answers = run.completions()
    assert set(answers) == set(run.verdicts())
    assert main([*arguments, "--limit", "1", "--out", str(tmp_path / "a"), "--resume"]) == 0
    assert (tmp_path / "a/completions.jsonl").read_bytes() == kept
    capsys.readouterr()
    # more problems before and after: the shared one is answered alike
    assert main([*arguments, "--limit", "2", "--out", str(tmp_path / "b")]) == 0
    others = Run.open(tmp_path / "b").completions()
    assert len(others) == 4
    assert all(others[key].text == answer.text for key, answer in answers.items())


def test_a_judge_that_fails_is_no_verdict(
    humaneval: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What goes wrong on the tests' side counts for nobody: nothing is recorded, and --resume scores it later."""
    run = Run.start(tmp_path / "run", facts(verify="ar", limit=1), resume=False)
    (name,) = chosen([item.id for item in tasks.one("humaneval").items(humaneval)], 1)
    run.add(completion(name, completion="    return a + b\n"))
    broken = tmp_path / "judge.py"
    broken.write_text(
        verdicts.JUDGE.read_text() + "\ndef verdict(job, channel):\n    raise ValueError('broken')\n"
    )
    words = ["humaneval", "--data", str(humaneval), "--verify", "ar", "--limit", "1", "--resume"]
    words += ["--out", str(tmp_path / "run"), "--json"]
    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "JUDGE", broken)
        with pytest.raises(DiffcoderError, match=rf"{name} of humaneval: .*broken.*as published"):
            main(words)
    assert run.verdicts() == {}
    assert main(words) == 0
    assert len(run.verdicts()) == 1


def test_ctrl_c_keeps_finished_work(humaneval: Path, tmp_path: Path) -> None:
    """Scoring is interrupted while a program sleeps; the verdicts so far stay, and --resume finishes."""
    run = Run.start(tmp_path / "run", facts(), resume=False)
    run.add(completion("HumanEval/0", completion="    return a + b\n"))
    run.add(completion("HumanEval/1", completion="    import time; time.sleep(1e5)\n"))
    run.add(completion("HumanEval/2", completion="    return x // 2\n"))
    command = [sys.executable, "-m", "diffcoder_lsp.cli", "eval", "humaneval", "--data", str(humaneval)]
    command += ["--out", str(tmp_path / "run"), "--resume", "--workers", "1"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)
    wait_for(lambda: run.verdicts())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert set(run.verdicts()) == {("HumanEval/0", 0)}
    path = tmp_path / "run/completions.jsonl"
    path.write_text(path.read_text().replace("time.sleep(1e5)", "time"))
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {key[0]: line.passed for key, line in run.verdicts().items()} == {
        "HumanEval/0": True,
        "HumanEval/1": False,
        "HumanEval/2": True,
    }


def wait_for(true, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def test_a_run_of_a_checkout_names_its_commit():
    here = Path(__file__).parent
    if not shutil.which("git") or not (here.parents[1] / ".git").exists():
        pytest.skip("not a checkout")
    commit = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    found = own_version().removesuffix("-dirty").rpartition(" at ")[2]
    assert len(found) >= 7
    assert commit.startswith(found)
