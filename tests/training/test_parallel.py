"""Two processes that share a step's sequences end where one does, to the last bit."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from training.corpus import Corpus
from training.diffusion import DiffusionTask
from training.recipe import load
from training.trainer import Trainer

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
base, corpus, recipe, run = sys.argv[1:]
recipe, world = load(recipe), join()
assert world.size == 2
task = DiffusionTask(recipe, Path(base), Corpus(Path(corpus)))
Trainer(recipe, task, Path(run), world=world).train(60.0)
torch.distributed.destroy_process_group()
"""


def train_with_two(base: Path, corpus: Path, recipe: Path, run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    shared = os.environ | {
        "PYTHONPATH": str(ROOT),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", RUN, *map(str, (base, corpus, recipe, run))],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        _, said = process.communicate(timeout=500)
        assert process.returncode == 0, said[-2000:]


def test_two_gloo_processes_equal_one(tiny_base: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
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
        "infill = 0.0\nnoise_warmup = 1\nlr_warmup = 1\ndecay_steps = 2\n"
    )
    plan = load(str(recipe))
    Trainer(plan, DiffusionTask(plan, tiny_base, Corpus(corpus)), tmp_path / "one").train(60.0)
    train_with_two(tiny_base, corpus, recipe, tmp_path / "two")
    with (
        safe_open(tmp_path / "one" / "checkpoint.safetensors", "np") as one,
        safe_open(tmp_path / "two" / "checkpoint.safetensors", "np") as two,
    ):
        assert one.metadata()["step"] == two.metadata()["step"] == "4"
        assert one.metadata()["rows"] == two.metadata()["rows"]
        for name in one.keys():  # noqa: SIM118
            assert np.array_equal(one.get_tensor(name), two.get_tensor(name)), name
