"""The paper's claims about training, tried small: same data, same budget, three seeds, a model of a million weights.

    python -P -m training.claims --folder FOLDER --minutes 30      a slice of the work; again until it says it is done
    python -P -m training.claims --folder FOLDER --report docs/claims    plots and a table with a verdict for each claim

Every run goes on exactly where the slice before left it. The corpus is this Python's own standard library; the tokenizer
and the base are made from it. Held-out bits a token are exact for AR models and the likelihood bound for diffusion, with
documents kept apart, whatever a run was trained with: the rate of masking is drawn from the whole of 0 to 1, since noise
clipped at 1/block leaves out the easy rates, and the more of them the smaller the block.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import statistics
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from tokenizers import Tokenizer

from model.schema import DiffcoderError
from model.tokens import encode_text
from training import report, scratch
from training.corpus import Corpus, Source, walk, write
from training.diffusion import DiffusionTask
from training.recipe import Diffusion
from training.trainer import Trainer

SEEDS = (0, 1, 2)
VOCAB, LAYERS, WIDTH, CONTEXT = 2048, 4, 128, 256
BASE_STEPS, STEPS = 600, 300  # of 4 sequences of 256 tokens
MOST_FILES = 400
_BASE = "ar-base"


@dataclass(frozen=True)
class Variant:
    """A run that differs from the reference in `changes`; `after`: whose weights it begins with ("": random ones)."""

    name: str
    changes: dict[str, object]
    after: str = _BASE


REFERENCE = "reference"
VARIANTS = (
    Variant(_BASE, {"objective": "ar", "steps": BASE_STEPS, "document_mask": True, "lr": 2e-3}, after=""),
    Variant(REFERENCE, {}),
    Variant("ar-twin", {"objective": "ar"}),
    Variant("no-warmup", {"noise_warmup": 0}),
    Variant("plain-noise", {"clipped": False}),
    Variant("block-16", {"block": 16}),
    Variant("block-64", {"block": 64}),
    Variant("direct", {"steps": BASE_STEPS + STEPS, "lr": 2e-3}, after=""),
    Variant("document-mask", {"document_mask": True}),
)


@dataclass(frozen=True)
class Claim:
    """Says that `better` has less of `figure` than `worse`: held-out bits at the end, or spikes in a log's column."""

    text: str
    better: str
    worse: str
    figure: str = "bits"


CLAIMS = (
    Claim("Warm-up spares spikes of the gradient", REFERENCE, "no-warmup", "gradient"),
    Claim("Warm-up spares spikes of the loss", REFERENCE, "no-warmup", "loss"),
    Claim("Warm-up ends with a lower bound", REFERENCE, "no-warmup"),
    Claim("Clipped noise ends with a lower bound than plain noise", REFERENCE, "plain-noise"),
    Claim("Block 4 ends with a lower bound than block 16", REFERENCE, "block-16"),
    Claim("Block 4 ends with a lower bound than block 64", REFERENCE, "block-64"),
    Claim("AR first ends with a lower bound than diffusion from the start", REFERENCE, "direct"),
    Claim("Packs that see each other do as well as documents kept apart", REFERENCE, "document-mask"),
    Claim("Diffusion ends with fewer bits than its AR twin", REFERENCE, "ar-twin"),
)


def recipe(variant: Variant, seed: int, marks: dict[str, int]) -> Diffusion:
    """The reference's fields with the variant's changes."""
    fields: dict[str, object] = {
        "context": CONTEXT,
        "block": 4,
        "document_mask": False,
        "sequences": 4,
        "infill": 0.0,
        "lr": 1e-3,
        "lr_warmup": 20,
        "steps": STEPS,
        "noise_warmup": STEPS // 4,
        "noise_initial": 0.01,
        "ema": 0.98,
        "mask_token": marks["<|fim_pad|>"],
        "end_token": marks["<|endoftext|>"],
        "seed": seed,
    }
    fields |= variant.changes
    return msgspec.convert(fields | {"kind": "diffusion", "decay_steps": fields["steps"] // 4}, Diffusion)  # type: ignore[operator]


def prepare(folder: Path) -> Corpus:
    """Corpus and random bases, once."""
    if not (folder / "corpus" / "corpus.json").is_file():
        library = Path(sysconfig.get_path("stdlib"))
        source = Source("cpython", library, "PSF-2.0")
        documents = list(walk([source], lambda text: False, Counter(), most=MOST_FILES))
        for seed in SEEDS:
            scratch.write(
                folder / f"random-{seed}",
                (document.text for document in documents if not document.held_out),
                vocab=VOCAB,
                layers=LAYERS,
                width=WIDTH,
                context=CONTEXT,
                seed=seed,
            )
        tokenizer = Tokenizer.from_file(str(folder / "random-0" / "tokenizer.json"))
        write(folder / "corpus", documents, lambda text: encode_text(tokenizer, text), {}, Counter())
    return Corpus(folder / "corpus")


def advance(folder: Path, minutes: float, say: Callable[[str], None] = print) -> bool:
    """Work for so many minutes; whether all is done."""
    corpus, until = prepare(folder), time.monotonic() + minutes * 60
    for seed, variant in itertools.product(SEEDS, VARIANTS):
        run = folder / f"{variant.name}-{seed}"
        if (run / "numbers.json").is_file():
            continue
        base = folder / (f"{variant.after}-{seed}/model" if variant.after else f"random-{seed}")
        made = recipe(variant, seed, scratch.marks_of(folder / f"random-{seed}"))
        task = DiffusionTask(made, base, corpus)
        resume = (run / "checkpoint.safetensors").is_file()
        trainer = Trainer(made, task, run, resume, report=lambda line: None, log_steps=1)
        trainer.train(max(0.0, (until - time.monotonic()) / 60))
        say(f"{run.name}: step {trainer.step} of {made.steps}")
        if trainer.step < made.steps:
            return False
        for name, value in task.parameters.items():
            value.data = trainer.average[name]
        (run / "numbers.json").write_text(json.dumps({"bits": measured(task)}))
        if time.monotonic() > until:
            return False
    return True


@torch.no_grad()
def measured(task: DiffusionTask, packs: int = 24, draws: int = 8) -> float:
    """Held-out bits a token, with one yardstick for all: plain noise, drawn `draws` times a pack, documents apart."""
    judge = copy.copy(task)
    judge.recipe = msgspec.structs.replace(task.recipe, clipped=False, document_mask=True)
    total = weight = 0.0
    for index in range(packs * draws):
        loss = judge.pack_loss(judge.held_out_packs[index % packs], np.random.default_rng([7, index]), 1.0)
        total, weight = total + float(loss.total), weight + loss.weight
    return total / weight / math.log(2)


def spike(values: Sequence[float]) -> float:
    """The largest value of a run's steps over the median of all, the first tenth of the run left out."""
    values = values[len(values) // 10 :]
    return max(values) / statistics.median(values)


def verdict(differences: Sequence[float]) -> str:
    """Of a claim, from worse minus better for each seed: whether all seeds agree, and by more than their spread."""
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    if all(d > 0 for d in differences) and mean > spread:
        return "holds"
    if all(d < 0 for d in differences) and -mean > spread:
        return "the contrary"
    return "not seen"


def write_report(folder: Path, out: Path) -> None:
    """A figure and README.md with the table, in `out`."""
    numbers: dict[tuple[str, int], dict[str, float]] = {}
    for variant, seed in itertools.product(VARIANTS, SEEDS):
        path = folder / f"{variant.name}-{seed}" / "numbers.json"
        if not path.is_file():
            raise DiffcoderError("not_done", f"{path.parent.name} is not trained yet: run more slices first.")
        spikes = {
            column: spike(_series(folder, variant.name, seed, column)) for column in ("gradient", "loss")
        }
        numbers[variant.name, seed] = json.loads(path.read_text()) | spikes
    out.mkdir(parents=True, exist_ok=True)
    rows = ["| claim | better | worse | difference by seed | verdict |", "|---|---|---|---|---|"]
    for claim in CLAIMS:
        sides = [
            [numbers[name, seed][claim.figure] for seed in SEEDS] for name in (claim.better, claim.worse)
        ]
        differences = [worse - better for better, worse in zip(*sides, strict=True)]
        cells = [f"{statistics.mean(side):.3f}" for side in sides]
        by_seed = ", ".join(f"{d:+.3f}" for d in differences)
        rows.append(f"| {claim.text} | {cells[0]} | {cells[1]} | {by_seed} | {verdict(differences)} |")
    (out / "claims.svg").write_text(_figure(folder, numbers), encoding="utf-8")
    text = (
        "Bits a token on held-out files of CPython's library; of spikes, the largest gradient or loss of a step over the"
        f" median one, the first tenth of the run left out. Means of {len(SEEDS)} seeds. A difference is worse minus"
        ' better. "Holds": all agree, by more than their spread.\n\n'
        + "\n".join(rows)
        + "\n\n![where runs ended, gradients, losses](claims.svg)\n"
    )
    (out / "README.md").write_text(f"# The paper's claims, tried small\n\n{text}", encoding="utf-8")


def _figure(folder: Path, numbers: Mapping[tuple[str, int], dict[str, float]]) -> str:
    """Where runs ended, seed by seed; what warm-up does to gradients; losses that are weighed alike."""
    drawn, (ends, gradients, losses) = report.figure(1, 3, 13.0, 3.8)
    names = [variant.name for variant in VARIANTS]
    for seed in SEEDS:
        bits = [numbers[name, seed]["bits"] for name in names]
        ends.plot(bits, range(len(names)), "o", alpha=0.6, label=f"seed {seed}")
    ends.set_yticks(range(len(names)), names)
    ends.invert_yaxis()
    ends.set(xlabel="bits a token", title="held out, at the end")
    ends.legend(fontsize=8, frameon=False)
    for color, name in enumerate((REFERENCE, "no-warmup")):
        for seed in SEEDS:
            norms = _series(folder, name, seed, "gradient")[: STEPS // 2]
            label = name if seed == SEEDS[0] else None
            gradients.plot(norms, color=f"C{color}", lw=0.8, alpha=0.7, label=label)
    gradients.set(xlabel="step", yscale="log", title="norm of the gradient")
    gradients.legend(fontsize=8, frameon=False)
    for color, name in enumerate((REFERENCE, "no-warmup", "document-mask", "direct", "ar-twin")):
        rows = zip(*(_series(folder, name, seed, "loss") for seed in SEEDS), strict=True)
        means = [statistics.mean(row) for row in rows]
        losses.plot(report.smoothed(means), color=f"C{color}", lw=1.3, label=name)
    losses.set(xlabel="step", title=f"training loss, mean of seeds and of {report.SMOOTHED} steps")
    losses.legend(fontsize=8, frameon=False)
    return report.svg(drawn)


def _series(folder: Path, name: str, seed: int, field: str) -> list[float]:
    lines = report.log_lines(folder / f"{name}-{seed}" / "log.jsonl")
    return [line[field] for line in lines if field in line]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -P -m training.claims", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--minutes", type=float, default=10.0, help="processor minutes of this slice")
    parser.add_argument("--report", type=Path, help="folder for plots and table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        if options.report:
            write_report(options.folder, options.report)
        else:
            print("done" if advance(options.folder, options.minutes) else "more to do: run it again")
    except DiffcoderError as error:
        print(f"claims: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
