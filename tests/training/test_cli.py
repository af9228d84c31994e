"""`diffcoder train` where something is missing or does not fit: one sentence, no traceback, nothing lost."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model import loading
from model import store as store_of_models
from training import cli, given, running, scratch
from training.corpus import Corpus
from training.drafting import draft_vocabulary
from training.examples import Examples, store
from training.layouts import Sequence

PACKAGE = Path(cli.__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random base, a corpus for it, benchmark sets, and a finished run of a drafter."""
    folder = tmp_path_factory.mktemp("made")
    texts = [path.read_text("utf-8") for path in sorted(PACKAGE.glob("*.py"))]
    scratch.write(folder / "base", texts, vocab=600, layers=2, width=64, context=512, seed=0)
    scratch.write(folder / "other", texts[:9], vocab=500, layers=2, width=64, context=512, seed=1)
    (folder / "sets").mkdir()
    (folder / "sets" / "set.jsonl").write_text(
        json.dumps({"prompt": "Return the sum of two numbers."}) + "\n"
    )
    (folder / "gated.toml").write_text(
        'kind = "gated"\nrank = 4\nblocks = [3]\nlength = [40, 64]\nnoisy_rows = 24\ninfill = 0.0\nsteps = 1\n'
        "draft_vocab = 400\n"
    )
    (folder / "pretrain.toml").write_text('kind = "diffusion"\ncontext = 64\nsteps = 1\n')
    assert run(folder, "corpus", "--source", "ours", str(PACKAGE), "Apache-2.0", *sets(folder)) == 0
    assert run(folder, "train", str(folder / "gated.toml"), "--run", str(folder / "run"), *sets(folder)) == 0
    return folder


def sets(folder: Path) -> list[str]:
    return ["--benchmarks", str(folder / "sets")]


def run(folder: Path, *arguments: str, base: str = "base") -> int:
    common = ["--base", str(folder / base), "--corpus", str(folder / "corpus"), "--threads", "1"]
    return cli.main([*common, *arguments])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.startswith("diffcoder train: ")
    assert text.count("\n") == 1
    return text


def test_what_is_missing_or_does_not_fit_is_said_in_a_sentence(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, recipe = str(made / "run" / "adapter.safetensors"), str(made / "gated.toml")
    (tmp_path / "gpt").mkdir()
    shutil.copy(made / "base" / "tokenizer.json", tmp_path / "gpt")
    shutil.copy(made / "base" / "model.safetensors", tmp_path / "gpt")
    (tmp_path / "gpt" / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    )
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 50)
    short = str(tmp_path / "short")
    cases: list[tuple[list[str], str, str]] = [
        (["evaluate", str(tmp_path / "none")], "base", "no file"),
        (["evaluate", str(tmp_path / "bad.safetensors")], "base", "bad.safetensors"),
        (["evaluate", adapter], "other", "another tokenizer"),
        (["write", short, "--run", str(tmp_path / "r"), *sets(made)], "other", "another tokenizer"),
        (
            ["write", short, "--run", str(tmp_path / "r"), "--benchmarks", str(tmp_path / "none")],
            "base",
            "no benchmark",
        ),
        (["train", "no-such-recipe"], "base", "no recipe"),
        (["train", recipe, "--run", str(made / "run"), *sets(made)], "base", "--resume"),
        (["train", recipe, "--run", str(tmp_path / "r"), "--resume", *sets(made)], "base", "no checkpoint"),
        (["train", recipe, "--run", str(tmp_path / "r"), "--start", str(tmp_path / "none")], "base", "none"),
        (["train", recipe, "--run", short, "--examples", str(tmp_path / "none")], "base", "no sequences"),
        (["train", str(made / "pretrain.toml"), "--examples", short], "base", "no use for --examples"),
        (["train", str(made / "pretrain.toml"), "--written", short], "base", "no use for --written"),
        (["train", str(made / "pretrain.toml"), "--start", adapter], "base", "no use for --start"),
        (["train", recipe, "--run", str(tmp_path / "r")], str(tmp_path / "gpt"), "gpt2"),
        (["train", recipe, "--run", str(tmp_path / "r")], str(tmp_path / "none"), "none"),
        (["export", "--run", str(tmp_path / "none")], "base", "no checkpoint"),
        (["export", "--run", str(made / "run")], "other", "another base"),
        (["commits", str(tmp_path / "none"), short, *sets(made)], "base", "none"),
        (["corpus", "--source", "x", str(tmp_path / "gpt"), "MIT", *sets(made)], "base", "No source file"),
        (["corpus", "--packages", str(tmp_path / "none"), *sets(made)], "base", "none"),
        (["corpus", "--source", "x", str(tmp_path / "none"), "MIT", *sets(made)], "base", "none"),
    ]
    for arguments, base, words in cases:
        capsys.readouterr()
        assert run(made, *arguments, base=base) == 1, arguments
        assert words in said(capsys), arguments
    assert run(made, "evaluate", adapter) == 0  # the corpus and the run are as they were


@pytest.mark.parametrize(
    "words",
    [
        ["--threads", "0", "train", "gated"],
        ["write", "folder", "--run", "run", "--count", "0"],
        ["write", "folder", "--run", "run", "--tokens", "-3"],
        ["write", "folder", "--run", "run", "--seed", "-1"],
        ["evaluate", "file", "--files", "none"],
        ["corpus", "--most", "0"],
    ],
)
def test_counts_are_whole_and_positive(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "no whole number of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["commits", "a", "b", "--most", "99999999999999999999"], ["gated", "--threads", "99999999999"]],
)
def test_counts_that_nothing_can_be_made_of_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(words)
    assert f"{words[-1]} is more than" in capsys.readouterr().err


def test_common_options_may_stand_anywhere(made: Path, tmp_path: Path) -> None:
    common = ["--base", str(made / "base"), "--corpus", str(made / "corpus"), "--threads", "1"]
    recipe, further = str(made / "gated.toml"), ["--minutes", "1e-9", *sets(made)]
    for n, words in enumerate(([*common, recipe], [recipe, *common], ["train", *common, recipe])):
        assert cli.main([*words, "--run", str(tmp_path / str(n)), *further]) == 0


def test_a_pretraining_recipe_takes_the_mask_and_end_of_the_bases_family(made: Path, tmp_path: Path) -> None:
    assert run(made, "train", str(made / "pretrain.toml"), "--run", str(tmp_path / "run"), *sets(made)) == 0
    recipe, marks = (
        json.loads((tmp_path / "run" / "recipe.json").read_text()),
        scratch.marks_of(made / "base"),
    )
    assert (recipe["mask_token"], recipe["end_token"]) == (marks["<|fim_pad|>"], marks["<|endoftext|>"])


def test_nothing_of_a_benchmark_is_learnt_from_edits_or_continuations(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = np.load(made / "corpus" / "tokens.npy")
    store(tmp_path / "learnt", [Sequence(corpus[:200].astype(np.int64), 20)])
    text = given.decoder_of(made / "base")(corpus[:120].tolist())
    shutil.copytree(made / "sets", tmp_path / "sets")
    clean = run(made, "train", str(made / "gated.toml"), "--run", str(tmp_path / "a"), *sets(made),
                "--written", str(tmp_path / "learnt"))  # fmt: skip
    assert clean == 0
    (tmp_path / "sets" / "more.jsonl").write_text(json.dumps({"prompt": " ".join(text.split()[5:40])}) + "\n")
    shutil.copytree(made / "corpus", tmp_path / "corpus")
    for option in ("--written", "--examples"):
        capsys.readouterr()
        words = ["--benchmarks", str(tmp_path / "sets"), option, str(tmp_path / "learnt")]
        assert run(made, "train", str(made / "gated.toml"), "--run", str(tmp_path / "b"), *words) == 1
        assert "share 13 words" in said(capsys)


def started(made: Path, *arguments: str, limit: int | None = None) -> subprocess.Popen[str]:
    """A process of its own, whose files may have `limit` bytes."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    common = ["--base", str(made / "base"), "--corpus", str(made / "corpus"), "--threads", "1", *sets(made)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "training.cli", "train", *arguments, *common],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limited,
    )


def test_a_run_that_was_killed_or_met_a_full_disk_goes_on_as_if_it_had_not(
    made: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "long.toml"
    recipe.write_text((made / "gated.toml").read_text().replace("steps = 1\n", "steps = 60\n"))

    def weights(run: Path) -> dict[str, torch.Tensor]:
        return load_file(run / "checkpoint.safetensors")

    def run(name: str, *arguments: str, limit: int | None = None) -> subprocess.Popen[str]:
        return started(made, str(recipe), "--run", str(tmp_path / name), *arguments, limit=limit)

    whole, parts = run("whole"), run("parts", "--minutes", "1e-9")
    assert (whole.wait(), parts.wait()) == (0, 0)
    before = weights(tmp_path / "parts")
    killed = run("parts", "--resume")
    assert killed.stdout is not None
    assert "step" in killed.stdout.readline()
    killed.kill()
    killed.wait()
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "parts").items())
    full = run("parts", "--resume", limit=100_000)  # less than a checkpoint takes
    said = full.communicate()[1]
    assert full.returncode == 1
    assert "the last good one is kept" in said
    assert "Traceback" not in said
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "parts").items())
    assert run("parts", "--resume").wait() == 0
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "parts")[name]), name


def test_a_file_is_kept_once_where_a_source_and_a_package_hold_it(made: Path, tmp_path: Path) -> None:
    package = tmp_path / "packages" / "ours"
    package.mkdir(parents=True)
    (package / "LICENSE").write_text("Apache License, Version 2.0")
    for path in sorted(PACKAGE.glob("*.py"))[2:6]:
        shutil.copy(path, package)
    words = ["--source", "ours", str(package), "Apache-2.0", "--packages", str(tmp_path / "packages")]
    common = ["--base", str(made / "base"), "--corpus", str(tmp_path / "corpus"), *sets(made)]
    assert cli.main([*common[:4], "corpus", *words, *common[4:]]) == 0
    facts = json.loads((tmp_path / "corpus" / "corpus.json").read_text())
    assert facts["sources"] == [["ours", "Apache-2.0"], ["ours", "Apache-2.0"]]
    assert (facts["documents"], facts["left_out"]["exact duplicate"]) == (4, 4)


def test_sequences_of_another_tokenizer_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run_folder = str(made / "gated.toml"), str(tmp_path / "run")
    sequence = Sequence(np.arange(60), 20)

    def trained(name: str, base: str = "base") -> int:
        capsys.readouterr()
        words = ["train", recipe, "--run", run_folder, "--written", str(tmp_path / name), *sets(made)]
        return run(made, *words, base=base)

    store(tmp_path / "old", [sequence])  # says nothing of its tokenizer
    (tmp_path / "old" / "tokenizer.json").unlink()
    assert trained("old") == 0
    shutil.rmtree(run_folder)
    store(tmp_path / "far", [Sequence(np.arange(560, 620), 20)])
    assert trained("far") == 1
    assert "another tokenizer" in said(capsys)
    store(tmp_path / "other", [sequence], "0" * 64)
    assert trained("other") == 1
    assert "another tokenizer" in said(capsys)
    asked = [
        "write",
        str(tmp_path / "own"),
        "--run",
        run_folder,
        "--recipe",
        recipe,
        "--count",
        "2",
        "--tokens",
        "8",
    ]
    assert run(made, *asked, *sets(made)) == 0
    assert trained("own") == 0
    assert (
        run(made, "evaluate", str(made / "run" / "adapter.safetensors"), "--held-out", str(tmp_path / "far"))
        == 1
    )


def test_the_adapter_that_ships_drafts_in_a_team_run_of_its_base(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert running._drafting(made / "base") is None  # of the default model
    recipe = tmp_path / "team.toml"
    recipe.write_text('kind = "team"\nrank = 4\nlength = 64\nnoisy_rows = 12\ninfill = 0.0\nsteps = 1\n')
    rows = []
    for name in ("without", "with"):
        if name == "with":
            monkeypatch.setattr(loading, "shipped_adapter", lambda _: made / "run" / "adapter.safetensors")
        assert run(made, "train", str(recipe), "--run", str(tmp_path / name), *sets(made)) == 0
        lines = map(json.loads, (tmp_path / name / "log.jsonl").open())
        rows += [line["rows"] for line in lines if "evaluation" in line]
    assert rows[1] == rows[0] + 12


@pytest.mark.model
def test_the_adapter_that_ships_is_the_default_models() -> None:
    assert running._drafting(store_of_models.model_path("default")) == loading.shipped_adapter("default")


def test_numbers_of_an_adapter_have_intervals_and_a_mean_over_languages(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(made, "evaluate", str(made / "run" / "adapter.safetensors"), "--files", "4") == 0
    *languages, mean = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["language"] for line in languages] == ["python"]
    assert mean["languages"] == 1
    assert mean["places"] > 0
    for name in ("text", "as_base", "base_text"):
        assert mean[name] == languages[0][name]
        assert all(
            low <= share <= high
            for share, (low, high) in zip(mean[name], mean[f"{name}_interval"], strict=True)
        )


def test_a_stop_says_how_to_go_on(made: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "long.toml"
    recipe.write_text((made / "gated.toml").read_text().replace("steps = 1\n", "steps = 5000\n"))
    process = started(made, str(recipe), "--run", str(tmp_path / "run"))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "--resume goes on" in process.communicate()[1]
    assert process.returncode == 130
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()


def test_a_run_drafts_from_what_its_own_corpus_holds_whatever_adapter_it_starts_from(
    made: Path, tmp_path: Path
) -> None:
    corpus = Corpus(made / "corpus")
    always = json.loads((made / "corpus" / "corpus.json").read_text())["vocabulary"]["always"]
    counts = corpus.frequencies(600)
    known = torch.tensor([id for id in range(600) if not counts[id]][-5:])
    vocab = draft_vocabulary(corpus, int((counts > 0).sum()) + len(always) + 5, tmp_path, known).tolist()
    assert set(always) | set(np.flatnonzero(counts).tolist()) | set(known.tolist()) <= set(vocab)
    few = set(draft_vocabulary(corpus, len(always) + 20, tmp_path / "few", known).tolist())
    assert not few & set(known.tolist()) - set(always)
    assert draft_vocabulary(corpus, 7, tmp_path).tolist() == vocab  # a run keeps the one that it began with


def test_two_adapters_are_compared_in_pairs(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On held-out files, and on the base's continuations of them."""
    adapter, far = str(made / "run" / "adapter.safetensors"), str(tmp_path / "far")
    asked = ["write", far, "--of-held-out", "--run", str(made / "run"), "--recipe", str(made / "gated.toml")]
    assert run(made, *asked, "--count", "6", "--tokens", "30", *sets(made)) == 0
    corpus = Corpus(made / "corpus")
    held_out = [corpus.document(int(n)).tolist() for n in corpus.indices(held_out=True)]
    for sequence in Examples(Path(far), "write"):
        prompt = sequence.ids[: sequence.first + 1].tolist()
        assert any(prompt == ids[n : n + len(prompt)] for ids in held_out for n in range(len(ids)))
    generator, values = torch.Generator().manual_seed(0), load_file(adapter)
    for name in values.keys() - {"draft_vocab"}:
        values[name] = torch.randn(values[name].shape, generator=generator).to(values[name].dtype)
    other = str(tmp_path / "other.safetensors")
    with safe_open(adapter, "pt") as file:
        save_file(values, other, file.metadata())

    def numbers(*names: str) -> list[dict[str, object]]:
        capsys.readouterr()
        assert run(made, "evaluate", *names, "--held-out", far, "--files", "4") == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    lines = numbers(adapter), numbers(other), numbers(adapter, "--against", other)
    for own, others, compared in zip(*lines, strict=True):
        difference = compared.pop("difference")
        assert compared == own
        name = "written" if "continuations" in own else "as_base"
        assert np.any(difference[name])
        assert difference[name] == pytest.approx(np.subtract(own[name], others[name]), abs=2e-3)
    for line in numbers(adapter, "--against", adapter):
        assert not any(
            np.any(line["difference"][n]) for n in line["difference"] if n not in ("files", "places")
        )
