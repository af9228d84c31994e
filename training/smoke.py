"""`make train-smoke`: every recipe and command once, small, from source files to an engine that uses what was trained.

The corpus is this package's own source; the base is random. It proves that the parts fit and that runs get better, in a
minute of processor time; what the recipes are worth it cannot say.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from model.checkpoints import open_checkpoint
from model.generator import Generator
from model.schema import FillRequest, Limits
from model.tokens import load_tokenizer
from training import cli, scratch, transformations, tune
from training.edits import profile_of, sequences
from training.examples import store
from training.report import log_lines

PACKAGE = Path(__file__).parent
_COMMON = (
    "sequences = 2\nlr = 5e-3\nlr_warmup = 2\nsteps = {steps}\ndecay_steps = 8\nema = 0.5\ninfill = 0.0\n"
)
_DIFFUSION = (
    'kind = "diffusion"\ncontext = 64\nmask_token = {mask}\nend_token = {end}\nnoise_warmup = 5\n' + _COMMON
)
RECIPES = {
    "sdc-cpt": _DIFFUSION,
    "ar-twin": _DIFFUSION + 'objective = "ar"\n',
    "sdc-sft-lora": _DIFFUSION.replace("context = 64", "context = 512")
    + 'data = "examples"\nrank = 8\nform = "int8"\nrecompute = true\n',
    "gated": 'kind = "gated"\nrank = 8\nblocks = [3]\nlength = [40, 64]\nnoisy_rows = 48\nnoise_warmup = 5\n'
    + "draft_vocab = 400\n"
    + _COMMON,
}
STEPS = 30


def main() -> int:
    """Run it in a temporary folder; 1 where a run got no better."""
    torch.set_num_threads(1)
    held = os.environ.get("DIFFCODER_HOME")
    with tempfile.TemporaryDirectory() as name:
        os.environ["DIFFCODER_HOME"] = str(Path(name) / "home")
        try:
            return _run(Path(name))
        finally:
            os.environ.pop("DIFFCODER_HOME")
            if held is not None:
                os.environ["DIFFCODER_HOME"] = held


def _run(folder: Path) -> int:
    files = sorted(PACKAGE.glob("*.py"))
    base, corpus, sets = folder / "base", folder / "corpus", folder / "sets"
    texts = [path.read_text("utf-8") for path in files]
    scratch.write(base, texts, vocab=600, layers=2, width=64, context=2048, seed=0)
    sets.mkdir()
    (sets / "set.jsonl").write_text(json.dumps({"prompt": "Return the sum of two numbers."}) + "\n")
    common = ["--base", str(base), "--corpus", str(corpus), "--threads", "1"]
    against = ["--benchmarks", str(sets)]
    _do(cli.main, [*common, "corpus", "--source", "ours", str(PACKAGE), "Apache-2.0", *against])
    _do(cli.main, [*common, "decontaminate", *against])
    edits = [
        edit
        for path, text in zip(files, texts, strict=True)
        for edit in transformations.edits(path.name, text, 0)
    ]
    tokenizer = load_tokenizer(base)
    store(folder / "edits", sequences(edits, profile_of(open_checkpoint(base), tokenizer), tokenizer))
    marks, fell = scratch.marks_of(base), True
    for name, text in RECIPES.items():
        run, recipe = folder / name, folder / f"{name}.toml"
        recipe.write_text(text.format(mask=marks["<|fim_pad|>"], end=marks["<|endoftext|>"], steps=STEPS))
        more = ["--examples", str(folder / "edits")] if name == "sdc-sft-lora" else []
        train = [*common, "train", str(recipe), "--run", str(run), *more, *against]
        _do(cli.main, [*train, "--minutes", "0"])  # a step, then on from its checkpoint
        _do(cli.main, [*train, "--resume"])
        figure = "loss" if name == "gated" else "bits_per_token"  # held out, where the task measures it
        found = [line[figure] for line in log_lines(run / "log.jsonl") if figure in line]
        fell = fell and found[-1] < found[0]
        print(f"{name:14} {figure} {found[0]:.3f} -> {found[-1]:.3f}", flush=True)
    gated, written = ["--run", str(folder / "gated")], str(folder / "written")
    asked = ["--recipe", str(folder / "gated.toml"), "--count", "3", "--tokens", "20"]
    _do(cli.main, [*common, "write", written, *gated, *asked, *against])
    _do(cli.main, [*common, "export", *gated])
    _do(cli.main, [*common, "evaluate", str(folder / "gated" / "adapter.safetensors"), "--held-out", written])
    repository = folder / "repository"
    shutil.copytree(PACKAGE, repository, ignore=shutil.ignore_patterns("__pycache__"))
    asked = [
        str(repository),
        "--model",
        str(base),
        "--gaps",
        "6",
        "--threads",
        "1",
        "--run",
        str(folder / "tune"),
    ]
    recipe = folder / "team.toml"
    recipe.write_text('kind = "team"\nrank = 8\nlength = 96\nepochs = 0.4\n' + _COMMON.format(steps=1))
    _do(tune.main, [*asked, "--recipe", str(recipe), "--minutes", "5"])
    engine = Generator.load(str(base), threads=1, team=folder / "tune" / "adapter.safetensors")
    engine.fill(FillRequest(prefix="def main(", limits=Limits(max_tokens=4)))
    if not fell:
        print("A run did not get better.", file=sys.stderr)
    return int(not fell)


def _do(command: Callable[[list[str]], int], arguments: list[str]) -> None:
    if command(arguments):
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
