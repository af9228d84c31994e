"""The loop that every recipe shares: steps, checkpoints, held-out numbers, exact resume.

Everything drawn at a step comes from a generator seeded with (seed, step, sequence), and the optimiser's state is in
the checkpoint: a run that was stopped and resumed goes on exactly as one that was not. Schedules count steps, never
time, so a paused process loses nothing. A run folder holds `recipe.json`, `checkpoint.safetensors`, `log.jsonl` and
what the task exports. Knows nothing of what is learnt: that is the task's (`drafting.py`, `diffusion.py`).
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from model.schema import DiffcoderError
from training.files import read_json, reading, write_atomically
from training.optimiser import Optimiser, Zero
from training.parallel import World
from training.recipe import Recipe

LOG_STEPS = 5
CHECKPOINT_MINUTES = 5.0
EVALUATION_MINUTES = 7.0
# What to do about a damaged file of a run.
AGAIN = "put a copy in its place, or train again in another folder"
REWRITTEN = "remove it, and --resume writes it anew"


class Loss(NamedTuple):
    """The weighted sum of one sequence's losses, the sum of its weights, and the rows that it cost."""

    total: Tensor
    weight: float
    rows: int


class Task(Protocol):
    """What a run learns. `parameters` are trained; the task computes with them in place."""

    parameters: dict[str, nn.Parameter]
    base_sha256: str
    """Of the base that is trained, or that low-rank weights belong to."""

    def loss(self, rng: np.random.Generator, step: int, number: int) -> Loss:
        """The loss of one sequence, drawn with `rng`; `number` counts the sequences of the whole run."""

    def measure(self) -> dict[str, object]:
        """Held-out numbers of the weights as they are."""

    def export(self, run: Path, weights: dict[str, Tensor], facts: dict[str, object]) -> None:
        """Write what others load into the run folder."""


@dataclass
class Tally:
    """Sums since the last line of the log."""

    since: float
    loss: float = 0.0
    weight: float = 0.0
    rows: int = 0
    steps: int = 0


class Trainer:
    """One run: a recipe, a task made for it, and a folder, which is this run's alone while it trains.

    `report` gets every line of the log; `log_steps` is how many steps lie between two lines.
    """

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        run: Path,
        resume: bool = False,
        *,
        world: World | None = None,
        report: Callable[[dict[str, object]], None] = lambda line: print(json.dumps(line), flush=True),
        log_steps: int = LOG_STEPS,
    ):
        self.recipe, self.task, self.run, self.parameters = recipe, task, run, task.parameters
        self.world, self.report, self.log_steps = world or World(), report, log_steps
        if self.world.shares and recipe.sequences % self.world.size:
            raise DiffcoderError(
                "bad_launch",
                f"{self.world.size} processes cannot share {recipe.sequences} sequences a step evenly, as FSDP"
                " and DeepSpeed need: change sequences, or num_processes.",
            )
        run.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(run / "lock")
        try:
            if self.world.leads:
                self.lock.acquire(blocking=False)
        except Timeout as error:
            raise DiffcoderError(
                "run_busy", f"Another process trains in {run}: wait for it or stop it."
            ) from error
        self.optimiser = (Zero if self.world.zero else Optimiser)(recipe, self.parameters, self.world)
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.step, self.rows, self.cpu_s, self.norm = 0, 0, 0.0, 0.0
        self.stopping = False
        self.saved: int | None = None  # the checkpoint's step
        if resume:
            self._restore()
            self._note_changes()
        elif (run / "checkpoint.safetensors").exists():
            raise DiffcoderError(
                "run_exists", f"{run} holds a run already: add --resume to go on, or name another folder."
            )
        if self.world.leads:
            write_atomically(run / "recipe.json", msgspec.json.encode(recipe))

    def train(self, minutes: float) -> None:
        """Train until the recipe's last step, `minutes` of processor time per thread (on a GPU: by the clock), or
        SIGINT / SIGTERM.

        A signal ends the run after the step in work, with a checkpoint.
        """
        handlers = {
            number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self._steps(minutes)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.lock.release()

    def finish(self) -> None:
        """Measure and export what there is, with no step more."""
        try:
            self.evaluate()
        finally:
            self.lock.release()

    def _steps(self, minutes: float) -> None:
        # What a GPU does takes no processor time.
        on_gpu = self.world.device.type != "cpu"
        clock, threads = (time.monotonic, 1) if on_gpu else (time.process_time, torch.get_num_threads())
        begun, before = clock(), self.cpu_s
        saved = evaluated = 0.0
        tally = Tally(time.monotonic())
        while self.step < self.recipe.steps and not self.world.any(self.stopping):
            self._step(tally)
            spent = (clock() - begun) / threads
            if self.world.size > 1:  # what is decided by time, all must decide alike
                spent = self.world.total([spent if self.world.leads else 0.0])[0]
            self.cpu_s = before + spent
            if tally.steps == self.log_steps:
                self._log(tally)
                tally = Tally(time.monotonic())
            if spent - saved > CHECKPOINT_MINUTES * 60:
                self.save()
                saved = spent
            if spent - evaluated > EVALUATION_MINUTES * 60:
                self.evaluate()
                evaluated = (clock() - begun) / threads
            if spent > minutes * 60:
                break
        self.save()
        if not self.world.any(self.stopping):
            self.evaluate()

    def _ask_to_stop(self, *_: object) -> None:
        self.stopping = True

    def _step(self, tally: Tally) -> None:
        recipe = self.recipe
        rows = tally.rows
        mine = range(self.world.rank, recipe.sequences, self.world.size)
        for index in mine:
            rng = np.random.default_rng([recipe.seed, self.step, index])
            loss = self.task.loss(rng, self.step, self.step * recipe.sequences + index)
            # Also where nothing was asked for: sharded weights take a backward pass of all processes.
            mean = loss.total / ((loss.weight or 1.0) * recipe.sequences)
            self.optimiser.backward(mean, last=index == mine[-1])
            tally.loss += float(loss.total.detach())
            tally.weight += loss.weight
            tally.rows += loss.rows
        self.rows += int(self.world.total([tally.rows - rows])[0])
        self.norm = self.optimiser.step(recipe.rate(self.step))
        if not math.isfinite(self.norm):
            self._fail()
        # Early on an average over the whole past would be mostly the start.
        keep = min(recipe.ema, (1 + self.step) / (10 + self.step))
        averages = [self.world.local(value) for value in self.average.values()]
        live = [self.world.local(self.parameters[name].data) for name in self.average]
        torch._foreach_lerp_(averages, live, 1 - keep)
        self.step += 1
        tally.steps += 1

    def _fail(self) -> None:
        """Say that the step in work gave no number, and what there is to go on from.

        A checkpoint is left as it is although the weights are newer: with the same sequences they fail again, whatever
        the rate, while a lower one leads elsewhere from further back.
        """
        if self.saved is None and self.step and not self.world.zero:  # DeepSpeed has taken the step already
            self.save()
        if self.saved is None:
            way = ", with nothing saved: begin anew, with a lower lr, or another base if it fails at step 0"
        elif self.saved == self.step:
            way = (
                f"; the weights before it are kept in {self.run}, but --resume would fail there again: begin anew in"
                " another folder with a lower lr"
            )
        else:
            way = (
                f"; the last good checkpoint, of step {self.saved}, is kept in {self.run}: go on from it with --resume"
                " and a lower lr"
            )
        raise DiffcoderError("not_finite", f"The gradient stopped being a number at step {self.step}{way}.")

    def _log(self, tally: Tally) -> None:
        total, weight, rows = self.world.total([tally.loss, tally.weight, tally.rows])
        self._write(
            {
                "step": self.step,
                "loss": round(total / max(1e-9, weight), 4),
                "gradient": round(self.norm, 4),
                "lr": round(self.recipe.rate(self.step), 6),
                "rows": self.rows,
                "rows_per_s": round(rows / (time.monotonic() - tally.since), 1),
                "cpu_minutes": round(self.cpu_s / 60, 2),
            }
        )

    def _write(self, line: dict[str, object]) -> None:
        if not self.world.leads:
            return
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} | line
        self.report(line)
        path = self.run / "log.jsonl"
        try:
            with path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        except OSError as error:
            if self.world.size == 1 and self.step != (self.saved or 0):
                self.save()
            raise DiffcoderError(
                "disk",
                f"{path} could not be written ({error.strerror}); make room, and --resume goes on from step"
                f" {self.saved or 0}.",
            ) from error

    def evaluate(self) -> None:
        """Measure the averaged weights, log the numbers, and export the weights."""
        self._exchange()
        numbers = self.task.measure()
        self._exchange()
        self._write({"evaluation": self.step, "rows": self.rows} | numbers)
        facts: dict[str, object] = {"step": self.step, "rows": self.rows, "held_out": numbers}
        averages = self._whole(self.average)
        if self.world.leads:
            self.task.export(self.run, averages, facts)

    def _exchange(self) -> None:
        """Exchange the weights and their averages, in place: sharded weights cannot be put elsewhere."""
        for name, value in self.parameters.items():
            live, average = self.world.local(value.data), self.world.local(self.average[name])
            held = live.clone()
            live.copy_(average)
            average.copy_(held)

    def _whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as files hold them, in the process that leads; all take part."""
        whole = ((name, self.world.whole(value)) for name, value in tensors.items())
        return {name: value for name, value in whole if self.world.leads}

    def save(self) -> None:
        """Write the checkpoint; the previous one stays until the new one is whole."""
        tensors = self.optimiser.state()
        for name, value in self.parameters.items():
            tensors |= {f"weight.{name}": value.data, f"average.{name}": self.average[name]}
        tensors = self._whole(tensors)
        if self.world.leads:
            facts = {"step": str(self.step), "rows": str(self.rows), "cpu_s": repr(self.cpu_s)}
            facts["base_sha256"] = self.task.base_sha256
            write_atomically(self.run / "checkpoint.safetensors", save(tensors, facts))
        self.saved = self.step

    def _restore(self) -> None:
        path = self.run / "checkpoint.safetensors"
        if not path.is_file():
            raise DiffcoderError(
                "no_checkpoint", f"{self.run} holds no checkpoint to resume from; start without --resume."
            )
        with reading(path, AGAIN), safe_open(path, "pt") as file:
            facts, held = file.metadata(), set(file.keys())
            shapes = {
                name.removeprefix("weight."): tuple(file.get_slice(name).get_shape())
                for name in held
                if name.startswith("weight.")
            }
            # Empty: an older run's in which every weight is trained.
            same_base = (facts.get("base_sha256") or self.task.base_sha256) == self.task.base_sha256
            if not same_base or shapes != {n: tuple(value.shape) for n, value in self.parameters.items()}:
                raise DiffcoderError(
                    "other_run",
                    f"The checkpoint in {self.run} is of another recipe or base: name another folder.",
                )
            for name, value in self.parameters.items():
                for kind, tensor in (("weight", value.data), ("average", self.average[name])):
                    tensor.copy_(self.world.placed(file.get_tensor(f"{kind}.{name}"), tensor))
            self.optimiser.restore(held, file.get_tensor)
        self.step, self.rows, self.cpu_s = int(facts["step"]), int(facts["rows"]), float(facts["cpu_s"])
        self.saved = self.step
        self._forget_lost_steps()

    def _forget_lost_steps(self) -> None:
        """Take the steps that a kill undid out of the log: they come again."""
        path = self.run / "log.jsonl"
        if not self.world.leads or not path.is_file():
            return
        lines = path.read_bytes().splitlines(keepends=True)
        write_atomically(path, b"".join(line for line in lines if self._stands(line)))

    def _stands(self, line: bytes) -> bool:
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
        except ValueError:  # torn by a kill
            return False
        return all(entry.get(name, 0) <= self.step for name in ("step", "evaluation", "resumed"))

    def _note_changes(self) -> None:
        """Log the fields of the recipe that are others than before the stop."""
        path, now = self.run / "recipe.json", json.loads(msgspec.json.encode(self.recipe))
        before = read_json(path, dict[str, Any], REWRITTEN) if path.is_file() else now
        changed = {
            name: [before.get(name), value] for name, value in now.items() if before.get(name) != value
        }
        if changed:
            self._write({"resumed": self.step, "changed": changed})


def averages(run: Path, base_sha256: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The averaged weights of a run's last checkpoint by name, and the step and rows it stands at.

    `base_sha256`: of the base that they must belong to.
    """
    path = run / "checkpoint.safetensors"
    if not path.is_file():
        raise DiffcoderError("no_checkpoint", f"{run} holds no checkpoint: train first.")
    with reading(path, AGAIN), safe_open(path, "pt") as file:
        facts = file.metadata()
        if (facts.get("base_sha256") or base_sha256) != base_sha256:
            raise DiffcoderError("other_run", f"{run} was trained on another base: name it with --base.")
        names = [name for name in file.keys() if name.startswith("average.")]  # noqa: SIM118
        weights = {name.removeprefix("average."): file.get_tensor(name) for name in names}
    return weights, {key: int(facts[key]) for key in ("step", "rows")}
