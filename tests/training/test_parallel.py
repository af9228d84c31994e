"""Several processes that share a step's sequences end where one does, with whole weights and with shared out ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors import safe_open

from model.schema import DiffcoderError
from training.corpus import Corpus
from training.diffusion import DiffusionTask
from training.parallel import World, join
from training.recipe import load
from training.trainer import Trainer

pytest.importorskip("accelerate")

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from training.corpus import Corpus
from training.diffusion import DiffusionTask
from training.parallel import join
from training.recipe import load
from training.trainer import Trainer
base, corpus, recipe, how, *runs = sys.argv[1:]
recipe, world = load(recipe), join()
assert world.size == 2
assert (world.mesh is not None) == (how == "fsdp2")
assert world.zero == (2 if how == "deepspeed" else 0)
for run in runs:
    folder, _, part = run.partition(":")
    task = DiffusionTask(recipe, Path(base), Corpus(Path(corpus)), world=world)
    if world.mesh is not None:  # each process holds half of what a weight has
        held = task.parameters["layers.0.qkv.weight"]
        assert 2 * held.to_local().numel() == held.numel()
    trainer = Trainer(recipe, task, Path(folder), part == "on", world=world, log_steps=1)
    trainer.train(0.0 if part == "step" else 60.0)
    if world.zero:  # each process holds half of the moments
        whole = sum(value.numel() for value in task.parameters.values())
        held = sum(state["exp_avg"].numel() for state in trainer.optimiser.adam.state.values())
        assert abs(held - whole / 2) < 100
world.leave()
"""


@pytest.fixture
def given(tiny_base: Path, tmp_path: Path) -> list[Path]:
    """A base, a corpus and a recipe of four steps, two sequences each."""
    corpus, recipe = tmp_path / "corpus", tmp_path / "recipe.toml"
    corpus.mkdir()
    documents = [(start * 7 + np.arange(90)) % 250 for start in range(12)]
    np.save(corpus / "tokens.npy", np.concatenate(documents).astype(np.uint32))
    np.save(corpus / "documents.npy", np.arange(0, 90 * 13, 90))
    lines = [f'{{"held_out": {str(n == 0).lower()}, "language": "python"}}\n' for n in range(12)]
    (corpus / "records.jsonl").write_text("".join(lines))
    (corpus / "corpus.json").write_text("{}")
    recipe.write_text(
        'kind = "diffusion"\ncontext = 48\nsequences = 2\nmask_token = 299\nend_token = 298\nsteps = 4\n'
        "infill = 0.0\nnoise_warmup = 1\nlr_warmup = 1\ndecay_steps = 2\nrecompute = true\n"
    )
    return [tiny_base, corpus, recipe]


def train(given: list[Path], run: Path, minutes: float = 60.0, *, resume: bool = False) -> None:
    base, corpus, recipe = given
    plan = load(str(recipe))
    task = DiffusionTask(plan, base, Corpus(corpus))
    Trainer(plan, task, run, resume, log_steps=1).train(minutes)


def train_with_two(given: list[Path], *runs: str, launch: list[str], how: str) -> None:
    """Runs in one pair of processes; `FOLDER:step` stops after a step, `FOLDER:on` resumes."""
    script = given[1].parent / "run.py"
    script.write_text(RUN)
    done = subprocess.run(
        [sys.executable, "-m", *launch, str(script), *map(str, given), how, *runs],
        env=os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def checkpoint(run: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safe_open(run / "checkpoint.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def compared(one: Path, other: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The tensors of two whole runs of four steps, by name."""
    tensors, facts = checkpoint(one)
    others, same = checkpoint(other)
    assert (facts["step"], facts["rows"]) == (same["step"], same["rows"])
    assert facts["step"] == "4"
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        yield name, value, others[name]


def assert_same(one: Path, other: Path) -> None:
    """To the bit, but for the time spent."""
    for name, value, twin in compared(one, other):
        assert np.array_equal(value, twin), name


def assert_close(one: Path, other: Path) -> None:
    """Gradients are the same sums, but a norm over shards is added up in another order: moments within a hundred
    thousandth of their largest, weights within two millionths, where a step moves them by a thousandth."""
    for name, value, twin in compared(one, other):
        allowed = 1e-5 * float(np.abs(value).max()) if name.startswith("exp_avg") else 2e-6
        assert np.abs(value - twin).max() <= allowed, name


def log(run: Path, *names: str) -> list[list[float]]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [[line[name] for name in names if name in line] for line in lines]


def test_two_gloo_processes_equal_one(given: list[Path], tmp_path: Path) -> None:
    train(given, tmp_path / "one")
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train_with_two(given, str(tmp_path / "two"), launch=launch, how="plain")
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("how", ["fsdp2", "deepspeed"])
def test_what_is_shared_out_ends_where_one_process_does_and_resumes_exactly(
    given: list[Path], tmp_path: Path, how: str
) -> None:
    """Through the launcher and the configuration files that docs/training.md names."""
    if how == "deepspeed":
        pytest.importorskip("deepspeed")
    given[2].write_text(given[2].read_text().replace("sequences = 2", "sequences = 4"))  # two a process
    one, two, parts, begun, ended = (tmp_path / name for name in ("one", "two", "parts", "begun", "ended"))
    train(given, one)
    train(given, begun, 0.0)
    runs = [str(two), f"{parts}:step", f"{parts}:on", f"{begun}:on", f"{ended}:step"]
    launch = ["accelerate.commands.launch", "--config_file", str(ROOT / "training" / f"{how}.yaml")]
    train_with_two(given, *runs, launch=[*launch, "--main_process_port", "0"], how=how)
    assert_same(two, parts)
    assert_close(one, two)
    figures = ("loss", "gradient", "bits_per_token")
    for ours, theirs in zip(log(one, *figures), log(two, *figures), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)  # the log has four digits
    assert_close(one, begun)  # one process began it, two went on
    train(given, ended, resume=True)  # two began it, one goes on
    assert_close(one, ended)
    model = [run / "model" / "model.safetensors" for run in (one, two)]
    with safe_open(model[0], "np") as whole, safe_open(model[1], "np") as gathered:
        assert set(whole.keys()) == set(gathered.keys())
        for name in whole.keys():  # noqa: SIM118
            assert np.abs(whole.get_tensor(name) - gathered.get_tensor(name)).max() <= 2e-6, name


DRAFTING = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from training.corpus import Corpus
from training.drafting import Drafting
from training.parallel import join
from training.progress import HeldOut
from training.recipe import load
from training.trainer import Trainer
base, corpus, recipe, run = sys.argv[1:]
recipe, world = load(recipe), join(processor=True)
task = Drafting(recipe, Path(base), Corpus(Path(corpus)), Path(run), HeldOut([], []), world=world)
Trainer(recipe, task, Path(run), world=world).train(60.0)
world.leave()
"""


def test_a_drafter_learns_the_same_with_two_processes_which_wait_for_its_vocabulary(
    given: list[Path], tmp_path: Path
) -> None:
    _, corpus, recipe = given
    (corpus / "corpus.json").write_text(json.dumps({"vocabulary": {"size": 300, "always": [299]}}))
    recipe.write_text(
        'kind = "gated"\nrank = 4\nblocks = [3]\nlength = [40, 60]\nnoisy_rows = 24\ninfill = 0.0\nsteps = 2\n'
        "draft_vocab = 200\nsequences = 2\n"
    )
    (tmp_path / "drafting.py").write_text(DRAFTING)
    alone, two = [sys.executable], [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for run, launch in (("one", alone), ("two", [*two, "--nproc-per-node", "2"])):
        done = subprocess.run(
            [*launch, str(tmp_path / "drafting.py"), *map(str, given), str(tmp_path / run)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    (one, facts), (other, same) = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert facts["step"] == same["step"] == "2"
    assert all(np.array_equal(value, other[name]) for name, value in one.items())


def test_what_cannot_be_sharded_says_so(given: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    base, corpus, recipe = given
    plan, files = load(str(recipe)), Corpus(corpus)
    sharded = World(size=3, mesh=object())  # type: ignore[arg-type]  # it is not looked at
    with pytest.raises(DiffcoderError, match="without FSDP"):
        DiffusionTask(msgspec.structs.replace(plan, rank=4), base, files, world=sharded)
    with pytest.raises(DiffcoderError, match="3 processes cannot share 2 sequences"):
        Trainer(plan, DiffusionTask(plan, base, files), corpus.parent / "run", world=sharded)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(DiffcoderError, match="fsdp_offload_params is true and must be false"):
        join()
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(DiffcoderError, match="stage 3 is not built"):
        join()
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu")
    with pytest.raises(DiffcoderError, match="offload_optimizer_device is cpu and must be none"):
        join()
