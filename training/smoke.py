"""`make train-smoke`: every shipped recipe and command once, small, from source files to an engine that uses the outcome.

The corpus is this package's own source; the base is random. It proves that the parts fit and that runs get better, in a
few minutes of processor time; what the recipes are worth it cannot say.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec
import torch

from model.generator import Generator
from model.schema import FillRequest, Limits, Verify
from training import cli, scratch, tune
from training.recipe import Kinds, load
from training.report import log_lines

PACKAGE = Path(__file__).parent
STEPS = 90
_SCHEDULE: dict[str, object] = {
    "sequences": 2,
    "lr": 5e-3,
    "lr_warmup": 2,
    "steps": STEPS,
    "decay_steps": 8,
    "ema": 0.5,
}
# What a tiny model and a corpus of one language need otherwise; all else is as shipped.
CHANGES: dict[str, dict[str, object]] = {
    "sdc-cpt": _SCHEDULE | {"context": 64, "noise_warmup": 5},
    "ar-twin": _SCHEDULE | {"context": 64},
    "sdc-sft-lora": _SCHEDULE | {"context": 512, "rank": 8},
    "gated": _SCHEDULE
    | {"rank": 8, "chain": 16, "length": (40, 64), "noisy_rows": 48, "draft_vocab": 400, "languages": {}}
    | {"noise_warmup": 5, "generated": 0.5, "edits": 0.06},  # the shipped recipe asks for neither
    "team": {"rank": 8, "length": 96, "epochs": 0.4, "lr": 5e-3},
}


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
    base, corpus, sets, repository = (folder / name for name in ("base", "corpus", "sets", "repository"))
    files = sorted(PACKAGE.glob("*.py"))
    texts = [path.read_text("utf-8") for path in files]
    scratch.write(base, texts, vocab=600, layers=2, width=64, context=2048, seed=0)
    sets.mkdir()
    (sets / "set.jsonl").write_text(json.dumps({"prompt": "Return the sum of two numbers."}) + "\n")
    _make_repository(repository)
    recipes = {name: _write_recipe(name, folder) for name in CHANGES}
    common = ["--corpus", str(corpus), "--threads", "1"]
    against = ["--benchmarks", str(sets)]

    def train(*arguments: object, base: Path = base) -> None:
        _do(cli.main, ["--base", str(base), *common, *map(str, arguments)])

    train("corpus", "--source", "ours", PACKAGE, "Apache-2.0", *against)
    train("decontaminate", *against)
    train("commits", repository, folder / "edits", *against)
    (folder / "chats.jsonl").write_text("".join(map(_chat, files, texts)), encoding="utf-8")
    train("chat", folder / "chats.jsonl", folder / "chats", *against)
    written = ["write", folder / "written", "--run", folder / "gated", "--recipe", recipes["gated"]]
    train(*written, "--count", 6, "--tokens", 20, *against)
    edits = ["--examples", folder / "edits"]
    further: dict[str, list[object]] = {
        "sdc-sft-lora": [*edits, "--examples", folder / "chats"],
        "gated": ["--written", folder / "written", *edits],
    }
    fell = True
    for name, recipe in recipes.items():
        if name == "team":
            continue  # `tune` runs it
        start = folder / "sdc-cpt" / "model" if name == "sdc-sft-lora" else base
        run = ["train", recipe, "--run", folder / name, *further.get(name, ()), *against]
        train(*run, "--minutes", 1e-9, base=start)  # a step, then on from its checkpoint
        train(*run, "--resume", base=start)
        train("export", "--run", folder / name, base=start)
        figure = "loss" if name == "gated" else "bits_per_token"  # held out, where the task measures it
        found = [line[figure] for line in log_lines(folder / name / "log.jsonl") if figure in line]
        fell = fell and found[-1] < found[0]
        print(f"{name:14} {figure} {found[0]:.3f} -> {found[-1]:.3f}", flush=True)
        if name != "gated":
            verify: Verify = "ar" if name == "ar-twin" else "none"
            engine = Generator.load(str(folder / name / "model"), threads=1)
            engine.fill(FillRequest(prefix="def main(", limits=Limits(max_tokens=4, verify=verify)))
    train("evaluate", folder / "gated" / "adapter.safetensors", "--held-out", folder / "written")
    asked = ["--model", base, "--run", folder / "tune", "--recipe", recipes["team"]]
    asked += ["--gaps", 6, "--threads", 1, "--minutes", 5]
    _do(tune.main, [str(repository), *map(str, asked)])
    engine = Generator.load(str(base), threads=1, team=folder / "tune" / "adapter.safetensors")
    engine.fill(FillRequest(prefix="def main(", limits=Limits(max_tokens=4)))
    if not fell:
        print("A run did not get better.", file=sys.stderr)
    return int(not fell)


def _write_recipe(name: str, folder: Path) -> Path:
    """A shipped recipe with its changes, as a file."""
    recipe: Kinds = msgspec.structs.replace(load(name), **CHANGES[name])
    if getattr(recipe, "form", None) == "nf4" and find_spec("bitsandbytes") is None:
        print(f"{name}: form int8 in place of nf4, for want of bitsandbytes", flush=True)
        recipe = msgspec.structs.replace(recipe, form="int8")
    fields = {name: value for name, value in msgspec.to_builtins(recipe).items() if value not in (None, {})}
    path = folder / f"{name}.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items()))
    return path


def _make_repository(folder: Path) -> None:
    """This package with a history of two commits."""
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "trainer.py"
    text = file.read_text("utf-8")

    def commit(text: str, message: str) -> None:
        file.write_text(text, encoding="utf-8")
        for words in (["add", "."], ["commit", "-q", "-m", message]):
            subprocess.run(["git", *_AUTHOR, *words], cwd=folder, check=True)

    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    commit(text.replace("LOG_STEPS = 5\n", "LOG_STEPS = 50\n"), "Begin")
    commit(text, "Log the loss every five steps")


_AUTHOR = ("-c", "user.name=smoke", "-c", "user.email=smoke@localhost", "-c", "commit.gpgsign=false")


def _chat(file: Path, text: str) -> str:
    """A line of a file of conversations: what a module is for, by its own docstring."""
    asked = {"role": "user", "content": f"What is {file.name} for?"}
    answer = {"role": "assistant", "content": text.split('"""')[1] if '"""' in text else "Nothing."}
    return json.dumps({"messages": [asked, answer]}) + "\n"


def _do(command: Callable[[list[str]], int], arguments: list[str]) -> None:
    if command(arguments):
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
