"""The loop that trains a gated adapter: steps, checkpoints, held-out numbers, exact resume.

Everything drawn at a step comes from a generator seeded with (seed, step, sequence), and the optimiser's
state is in the checkpoint: a run that was stopped and resumed goes on exactly as one that was not.
Schedules count steps, never time, so that a paused process loses nothing. A run folder holds
`recipe.json`, `checkpoint.safetensors`, `log.jsonl` and `adapter.safetensors`, the averaged weights of the
last evaluation in the form that the engine loads.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from model.schema import DiffcoderError
from training import layouts, objective
from training.continuations import Continuations
from training.corpus import Corpus
from training.gated import GatedModel, adapter_bytes, as_ids, checkpoint_sha256
from training.noise import rate_ceiling
from training.progress import HeldOut, measure
from training.recipe import Gated

LOG_STEPS = 5
CHECKPOINT_MINUTES = 5.0
EVALUATION_MINUTES = 4.0


@dataclass
class Tally:
    """Sums since the last line of the log."""

    loss: float = 0.0
    weight: float = 0.0
    rows: int = 0
    correct: float = 0.0
    on_policy: int = 0
    steps: int = 0
    since: float = 0.0


class Trainer:
    """One run: a recipe, a base, a corpus and a folder."""

    def __init__(
        self,
        recipe: Gated,
        base: Path,
        corpus: Corpus,
        run: Path,
        held_out: HeldOut,
        written: Continuations | None = None,
        resume: bool = False,
    ):
        torch.manual_seed(recipe.seed)
        self.recipe, self.corpus, self.run, self.held_out, self.written = (
            recipe,
            corpus,
            run,
            held_out,
            written,
        )
        if recipe.generated and written is None:
            raise DiffcoderError(
                "no_continuations",
                "The recipe wants continuations of the base; make them with `diffcoder train write`.",
            )
        run.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(run / "lock")
        try:
            self.lock.acquire(blocking=False)
        except Timeout as error:
            raise DiffcoderError(
                "run_busy", f"Another process trains in {run}: wait for it or stop it."
            ) from error
        self.base_sha256 = checkpoint_sha256(base)
        shares = recipe.languages or {"": 1.0}
        self.shares = np.array(list(shares.values())) / sum(shares.values())
        self.documents = [corpus.indices(held_out=False, languages=[name] if name else []) for name in shares]
        for name, found in zip(shares, self.documents, strict=True):
            if not len(found):
                raise DiffcoderError(
                    "empty_corpus",
                    f"The corpus holds no {name} file to learn from: take {name} out of the recipe.",
                )
        vocab = draft_vocabulary(corpus, recipe.draft_vocab, run)
        self.model = GatedModel(
            base, rank=recipe.rank, scale=recipe.scale, draft_vocab_S=vocab, seed=recipe.seed
        )
        self.names = list(self.model.parameters)
        self.optimizer = torch.optim.AdamW(
            list(self.model.parameters.values()),
            lr=recipe.lr,
            betas=recipe.betas,
            weight_decay=0.0,
            fused=True,
        )
        self.average = {name: value.detach().clone() for name, value in self.model.parameters.items()}
        self.step, self.rows, self.cpu_s = 0, 0, 0.0
        self.stopping = False
        if resume:
            self._restore()
        elif (run / "checkpoint.safetensors").exists():
            raise DiffcoderError(
                "run_exists", f"{run} holds a run already: add --resume to go on, or name another folder."
            )
        write_atomically(run / "recipe.json", msgspec.json.encode(recipe))

    def train(self, minutes: float) -> None:
        """Train until the recipe's last step, `minutes` of processor time per thread, or SIGINT / SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask_to_stop)
        threads = torch.get_num_threads()
        begun, before = time.process_time(), self.cpu_s
        saved = evaluated = 0.0
        tally = Tally(since=time.monotonic())
        while self.step < self.recipe.steps and not self.stopping:
            self._step(tally)
            spent = (time.process_time() - begun) / threads
            self.cpu_s = before + spent
            if tally.steps == LOG_STEPS:
                self._log(tally)
                tally = Tally(since=time.monotonic())
            if spent - saved > CHECKPOINT_MINUTES * 60:
                self.save()
                saved = spent
            if spent - evaluated > EVALUATION_MINUTES * 60:
                self.evaluate()
                evaluated = (time.process_time() - begun) / threads
            if spent > minutes * 60:
                break
        self.save()
        self.evaluate()
        self.lock.release()

    def _ask_to_stop(self, *_: object) -> None:
        self.stopping = True

    def _step(self, tally: Tally) -> None:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step)
        for index in range(recipe.sequences):
            loss, weight = self._sequence(np.random.default_rng([recipe.seed, self.step, index]), tally)
            if weight:
                (loss / (weight * recipe.sequences)).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters.values(), recipe.clip)
        if not math.isfinite(float(norm)):
            raise DiffcoderError(
                "not_finite",
                f"The gradient stopped being a number at step {self.step}: lower lr and resume; the last good"
                f" checkpoint is kept in {self.run}.",
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # Early on an average over the whole past would be mostly the start.
        keep = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.values()), [self.model.parameters[n].data for n in self.average], 1 - keep
            )
        self.step += 1
        tally.steps += 1

    def _sequence(self, rng: np.random.Generator, tally: Tally) -> tuple[Tensor, float]:
        """Weighted loss sum and weight sum over the noisy blocks of one drawn sequence."""
        recipe = self.recipe
        sequence = self._draw(rng)
        cache, hidden_CD = self.model.read(as_ids(sequence.ids))
        argmax_C = self.model.choose(hidden_CD, draft_only=True).numpy()
        agree_C = np.concatenate([[True], argmax_C[:-1] == sequence.ids[1:]])
        block = int(rng.choice(recipe.blocks))
        count = recipe.noisy_rows // block
        anchors_N = objective.choose_anchors(
            rng, agree_C, sequence.first, block, recipe.shift, count, recipe.easy
        )
        blocks = objective.make_blocks(
            rng,
            sequence.ids,
            argmax_C,
            anchors_N,
            block,
            shift=recipe.shift,
            partial=recipe.partial,
            ceiling=rate_ceiling(self.step, recipe.noise_warmup, recipe.noise_initial),
            weights=objective.Weights(
                recipe.first_weight, recipe.decay, recipe.off_weight, recipe.partial_weight
            ),
        )
        hidden_RD = self.model.denoise(
            cache, as_ids(blocks.ids_NB), torch.from_numpy(blocks.mask_NB), as_ids(anchors_N)
        )
        targets_R = self.model.draft_of_V[as_ids(blocks.targets_NB).reshape(-1)]
        weights_R = torch.from_numpy(blocks.weights_NB).reshape(-1)
        kept = ((weights_R > 0) & (targets_R >= 0)).nonzero().squeeze(1)
        logits = self.model.draft_logits(hidden_RD[kept])
        loss_R = F.cross_entropy(logits, targets_R[kept], reduction="none")
        loss, weight = (loss_R * weights_R[kept]).sum(), float(weights_R[kept].sum())
        tally.loss += float(loss.detach())
        tally.weight += weight
        tally.rows += blocks.ids_NB.size
        self.rows += blocks.ids_NB.size
        return loss, weight

    def _draw(self, rng: np.random.Generator) -> layouts.Sequence:
        recipe = self.recipe
        if self.written is not None and rng.random() < recipe.generated:
            return self.written.draw(rng)
        length = int(rng.integers(recipe.length[0], recipe.length[1] + 1))
        documents = self.documents[int(rng.choice(len(self.documents), p=self.shares))]
        document = self.corpus.document(int(rng.choice(documents)))
        if rng.random() < recipe.infill:
            return layouts.infill(rng, document, length, layouts.QWEN, ends=4)
        return layouts.left_to_right(rng, document, length)

    def _log(self, tally: Tally) -> None:
        wall = time.monotonic() - tally.since
        self._write(
            {
                "step": self.step,
                "loss": round(tally.loss / max(1e-9, tally.weight), 4),
                "lr": round(self.recipe.rate(self.step), 6),
                "rows": self.rows,
                "rows_per_s": round(tally.rows / wall, 1),
                "cpu_minutes": round(self.cpu_s / 60, 2),
            }
        )

    def _write(self, line: dict[str, object]) -> None:
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} | line
        text = json.dumps(line)
        print(text, flush=True)
        with (self.run / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(text + "\n")

    def evaluate(self) -> None:
        """Measure the averaged weights on held-out text, log it, and export them as `adapter.safetensors`."""
        live = {name: value.data for name, value in self.model.parameters.items()}
        for name, value in self.model.parameters.items():
            value.data = self.average[name]
        numbers = measure(self.model, self.held_out, self.recipe.shift)
        for name, value in self.model.parameters.items():
            value.data = live[name]
        self._write({"evaluation": self.step, "rows": self.rows} | numbers)
        facts: dict[str, object] = {
            "shift": self.recipe.shift,
            "blocks": self.recipe.blocks,
            "step": self.step,
            "rows": self.rows,
            "held_out": numbers,
        }
        write_atomically(
            self.run / "adapter.safetensors", adapter_bytes(self.model, self.average, facts, self.base_sha256)
        )

    def save(self) -> None:
        tensors: dict[str, Tensor] = {}
        for name, value in self.model.parameters.items():
            tensors["weight." + name] = value.data
            tensors["average." + name] = self.average[name]
            for key, moment in self.optimizer.state.get(value, {}).items():
                tensors[f"{key}.{name}"] = moment
        facts = {"step": str(self.step), "rows": str(self.rows), "cpu_s": repr(self.cpu_s)}
        write_atomically(self.run / "checkpoint.safetensors", save(tensors, facts))

    def _restore(self) -> None:
        path = self.run / "checkpoint.safetensors"
        if not path.is_file():
            raise DiffcoderError(
                "no_checkpoint", f"{self.run} holds no checkpoint to resume from; start without --resume."
            )
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            for name, value in self.model.parameters.items():
                value.data.copy_(file.get_tensor("weight." + name))
                self.average[name].copy_(file.get_tensor("average." + name))
            held = set(file.keys())
            self.optimizer.state.clear()
            for name, value in self.model.parameters.items():
                if f"exp_avg.{name}" in held:
                    self.optimizer.state[value] = {
                        key: file.get_tensor(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")
                    }
        self.step, self.rows, self.cpu_s = int(facts["step"]), int(facts["rows"]), float(facts["cpu_s"])


def draft_vocabulary(corpus: Corpus, size: int, run: Path) -> Tensor:
    """The ids the drafting head knows, sorted; written to the run folder once, so that a grown corpus changes
    nothing.

    All single bytes and the special tokens, then the most frequent ids of the corpus.
    """
    path = run / "draft_vocab.npy"
    if path.is_file():
        return as_ids(np.load(path))
    vocab = json.loads((corpus.folder / "corpus.json").read_text("utf-8"))["vocabulary"]
    counts = corpus.frequencies(vocab["size"])
    always = vocab["always"]
    counts[always] = counts.max() + 1
    ids = np.sort(np.argsort(-counts, kind="stable")[:size])
    np.save(path, ids)
    return as_ids(ids)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, or leave it as it was: a full disk or a kill never costs the last good
    file.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DiffcoderError(
            "disk", f"{path} could not be written ({error.strerror}); the last good one is kept."
        ) from error
