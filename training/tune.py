"""`diffcoder tune REPO`: a team's repository in, an adapter for the engine and a report out.

Stages, each of which leaves its product in the run's folder and is not done again on `--resume`: corpus and edits,
what the base makes of held-out gaps, training, what the tuned base makes of them, the report. Ctrl-C keeps the work.
The repository is only read. The engine takes the adapter up when it is asked to use it, without a restart.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from filelock import FileLock, Timeout

from model import loading, registry, store
from model.adapters import read_team_adapter
from model.checkpoints import open_checkpoint
from model.generator import Generator
from model.profiles import Profile
from model.schema import DiffcoderError
from model.tokens import load_tokenizer, special_ids
from training import layouts, report, yardstick
from training.arguments import amount, count, threads
from training.corpus import Corpus
from training.edits import profile_of
from training.examples import Examples
from training.files import read_json, write_atomically
from training.gated import checkpoint_sha256
from training.live import Live
from training.measurement import Measurement
from training.recipe import Team, load
from training.repository import name_of, prepare
from training.team import TeamTask
from training.trainer import Trainer
from training.yardstick import Outcome

_TRIAL_GAPS, _TRIAL_SEQUENCES = 3, 2
_MOST_GAPS, _LEAST_GAPS = 160, 16  # to measure with, where nobody says how many
_MEASURING = 1 / 3  # of the time, at most
_LITTLE = 0.3  # of the repository
_ANEW = "begin anew with another --run"  # what to do about a damaged file


class _Verdict(msgspec.Struct):
    """What putting an adapter to use asks of result.json."""

    better: bool


class _Begun(msgspec.Struct):
    """tune.json: a run folder's mark, and the options that it was begun with and that shape its outcome."""

    options: list[str]


@dataclass(frozen=True)
class Plan:
    """What training will take. Times in seconds; `steps` fit the minutes that were allowed, or are what the recipe's
    epochs take (`whole`)."""

    tokens_an_epoch: int
    step_s: float
    steps: int
    epochs: float
    measuring_s: float
    whole: bool = False

    @property
    def seconds(self) -> float:
        return self.steps * self.step_s + 2 * self.measuring_s


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    tuning: Tuning | None = None
    try:
        if options.off:
            return _off(options.model)
        if options.repository is None:
            raise DiffcoderError("no_repository", "Name the folder of the repository to learn from.")
        tuning = Tuning(options)
        return tuning.use() if options.use and tuning.is_finished and not options.dry_run else tuning.run()
    except DiffcoderError as error:
        print(f"diffcoder tune: {error.message}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"diffcoder tune: {error.filename or 'A file'}: {error.strerror or error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = tuning.kept if tuning is not None and tuning.has_begun else "Nothing was done yet."
        print(f"\nStopped. {kept}", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="diffcoder tune",
        description="Learn a repository: a small adapter for the model, measured on files that it never saw.",
    )
    made.add_argument("repository", type=Path, nargs="?", help="folder of source code, with or without git")
    made.add_argument("--model", default="default", metavar="NAME", help="what to tune (%(default)s)")
    made.add_argument("--minutes", type=amount, default=60.0, help="that all of it may take (%(default)g)")
    made.add_argument(
        "--gaps",
        type=count,
        help=f"held-out gaps to measure with (default: those of a third of the time, at most {_MOST_GAPS})",
    )
    made.add_argument("--resume", action="store_true", help="go on where this repository's run stopped")
    made.add_argument("--finish", action="store_true", help="--resume, but measure what is learnt so far")
    made.add_argument("--dry-run", action="store_true", help="say what would be done and how long it takes")
    made.add_argument(
        "--use",
        action="store_true",
        help="give the adapter to the engine if it is better; learn first if need be",
    )
    made.add_argument("--off", action="store_true", help="take the adapter away from the engine")
    made.add_argument("--run", type=Path, metavar="FOLDER", help="of the run (default: in the cache)")
    made.add_argument("--recipe", default="team", help="name or .toml file (%(default)s)")
    made.add_argument("--threads", type=threads, help="processor threads (default: all)")
    return made


def _off(model: str) -> int:
    path = store.team_path(model)
    was = path.exists()
    path.unlink(missing_ok=True)
    print("The adapter is off: the engine answers with the base." if was else "There was no adapter in use.")
    return 0


class Tuning:
    """One repository's run: its folder and its stages."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.started = options, time.monotonic()
        self.repository: Path = options.repository.expanduser().resolve()
        if not self.repository.is_dir():
            raise DiffcoderError("no_repository", f"{self.repository} is no folder: name a repository.")
        recipe = load(options.recipe)
        if not isinstance(recipe, Team):
            raise DiffcoderError("bad_recipe", f"{options.recipe} tunes no repository: name a team recipe.")
        self.recipe = recipe
        identity = hashlib.sha256(os.fsencode(f"{self.repository}\0{options.model}")).hexdigest()[:8]
        default = store.cache_folder() / "tune" / f"{self.repository.name}-{identity}"
        self.folder: Path = options.run or default
        self.adapter, self.result = self.folder / "adapter.safetensors", self.folder / "result.json"
        self.checkpoint, self.mark = self.folder / "checkpoint.safetensors", self.folder / "tune.json"
        self.goes_on: bool = options.resume or options.finish
        if self.goes_on and self.checkpoint.is_file():
            self.recipe = self._gone_on_with(recipe)
        self.gaps: int = options.gaps or _MOST_GAPS
        self.live = Live()

    @property
    def has_begun(self) -> bool:
        return self.mark.is_file() and (self.folder / "corpus" / "corpus.json").is_file()

    @property
    def is_finished(self) -> bool:
        return self.result.is_file()

    @property
    def kept(self) -> str:
        """What to say at a stop."""
        names = ("model", "run", "recipe", "minutes", "gaps", "threads")
        how = "--finish" if self.options.finish else "--resume"
        return f"What was done is kept; go on with: {self._command(how, *names)}"

    def _gone_on_with(self, named: Team) -> Team:
        """The run's own recipe, or one that is named now (for a lower rate, say) in the run's number of steps."""
        own = read_json(self.folder / "recipe.json", Team, _ANEW)
        if self.options.recipe == "team":
            return own
        schedule = {name: getattr(own, name) for name in ("steps", "decay_steps", "lr_warmup")}
        return msgspec.structs.replace(named, **schedule)

    def _command(self, what: str, *names: str) -> str:
        """What to type about this run, with those of the options that are not the defaults."""
        given = _given(self.options, *names)
        return shlex.join(["diffcoder", "tune", str(self.repository), *given, what])

    def run(self) -> int:
        """All stages that are not done yet, alone in the run's folder."""
        if self.goes_on and not self.has_begun:
            flag = "--finish" if self.options.finish else "--resume"
            raise DiffcoderError(
                "no_run",
                f"{self.folder} holds no run to go on with: name its --run, or begin one without {flag}.",
            )
        if self.options.finish and not self.checkpoint.is_file():
            raise DiffcoderError(
                "nothing_learnt",
                f"The run in {self.folder} has learnt nothing to measure yet: --resume goes on.",
            )
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            alone = FileLock(f"{self.folder}.lock").acquire(blocking=False)
        except Timeout as error:
            raise DiffcoderError(
                "run_busy", f"Another `diffcoder tune` works in {self.folder}: wait for it or stop it."
            ) from error
        with alone:
            return self._run()

    def _run(self) -> int:
        options, say = self.options, self.live.say
        if not self.goes_on and self.checkpoint.exists():
            raise DiffcoderError(
                "run_exists",
                f"{self.folder} holds a run of this repository: go on with --resume, or name another --run.",
            )
        if not self.goes_on:
            self._begin()
        if options.use and not options.dry_run:
            say(f"There is no finished run in {self.folder} to use: first the repository is learnt.")
        corpus = self._prepare()
        gaps = self._gaps(corpus)
        say(self._described(corpus, len(gaps)))
        say(f"Benchmarks: {corpus.facts['benchmarks']}")
        if "not read" in (history := corpus.facts.get("history", "")):
            say(f"History: {history}")
        if options.dry_run:
            plan = self._plan(corpus, self._seconds_a_gap(gaps[:_TRIAL_GAPS]) * len(gaps), self._task(corpus))
            say(self._planned(plan))
            return 0
        before, measuring_s = self._measured("before", gaps)
        stopped = self._train(corpus, measuring_s)
        if stopped:
            say(f"Stopped. {self.kept} (--finish instead measures what is learnt so far)")
            return 130
        after, _ = self._measured("after", gaps)
        better = self._conclude(corpus, before, after)
        if better and (options.use or self.live.asks("Give the adapter to the engine now?")):
            return self.use()
        if better:
            say(f"To use it: {self._command('--use', 'model', 'run', 'recipe')}")
        return 0

    def _begin(self) -> None:
        """Mark the folder as a run's. What an earlier call prepared and never trained on goes; nobody else's files do."""
        if self.folder.is_dir() and any(self.folder.iterdir()) and not self.mark.is_file():
            raise DiffcoderError("run_exists", f"{self.folder} holds something else: name another --run.")
        for name in ("corpus", "edits"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("before.jsonl", "after.jsonl", "trained.json", "log.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        self.folder.mkdir(exist_ok=True)
        shaping = _given(self.options, "model", "minutes", "gaps", "recipe")
        write_atomically(self.mark, msgspec.json.encode(_Begun(shaping)))

    # --- stages

    def _prepare(self) -> Corpus:
        """The corpus; it and the edits are made once."""
        model = self.options.model
        if not self.has_begun:
            self.live.say(f"Reading {self.repository}")
            tokenizer = load_tokenizer(open_checkpoint(store.model_path(model)))
            prepare(self.repository, self.folder, model, tokenizer, self._profile(), self.recipe.seed)
        corpus = Corpus(self.folder / "corpus", _ANEW)
        if (made := corpus.facts.get("model")) != model:
            raise DiffcoderError(
                "other_run", f"{self.folder} is a run of the model {made}: name it, or another --run."
            )
        return corpus

    def _profile(self) -> Profile:
        checkpoint = open_checkpoint(store.model_path(self.options.model))
        return profile_of(checkpoint, load_tokenizer(checkpoint), registry.find(self.options.model).profile)

    def _gaps(self, corpus: Corpus) -> list[yardstick.Gap]:
        tokenizer = load_tokenizer(open_checkpoint(store.model_path(self.options.model)))
        files = []
        for index in corpus.indices(held_out=True, least=16):
            record = corpus.records[index]
            text = tokenizer.decode(corpus.document(int(index)).tolist(), skip_special_tokens=False)
            files.append((record["path"], record["language"], text))
        # A run that goes on asks what it asked before.
        found = yardstick.gaps(files, self._measurement("before").gaps)
        if not found:
            raise DiffcoderError("empty_corpus", "No held-out file has a line to measure with: add files.")
        if self.options.gaps is None and not (self.folder / "before.jsonl").is_file():
            fit = self.options.minutes * 60 * _MEASURING / 2 / self._seconds_a_gap(found[:_TRIAL_GAPS])
            self.gaps = min(_MOST_GAPS, max(_LEAST_GAPS, int(fit)))
            found = found[: self.gaps]
        return found

    def _task(self, corpus: Corpus) -> TeamTask:
        model = self.options.model
        path = store.model_path(model)
        profile = self._profile()
        drafting = loading.shipped_adapter(model) if profile.weights == "gated" else None
        edits = self.folder / "edits"
        found = layouts.marks_of(special_ids(load_tokenizer(open_checkpoint(path))))
        recipe = self.recipe if found is not None else msgspec.structs.replace(self.recipe, infill=0.0)
        examples = Examples(edits, "diffcoder tune") if edits.is_dir() else None
        return TeamTask(recipe, path, corpus, found, drafting, examples)

    def _seconds_a_gap(self, gaps: list[yardstick.Gap]) -> float:
        generator = self._generator(None)
        begun = time.monotonic()
        for _ in yardstick.measure(generator, gaps):
            pass
        return (time.monotonic() - begun) / len(gaps)

    def _generator(self, team: Path | None) -> Generator:
        return yardstick.Filler.load(self.options.model, threads=torch.get_num_threads(), team=team)

    def _measurement(self, when: str) -> Measurement:
        return Measurement(self.folder / f"{when}.jsonl", self.gaps)

    def _measured(self, when: str, gaps: list[yardstick.Gap]) -> tuple[list[Outcome], float]:
        """Outcomes of the base ("before") or of the tuned one ("after"), and the seconds they took; what an earlier call
        measured is read back."""
        done = self._measurement(when)
        if left := done.left(gaps):
            generator = self._generator(self.adapter if when == "after" else None)
            with self.live.counting(f"held-out gaps, {when}", len(gaps)) as report_count:
                for number in done.keep(yardstick.measure(generator, left)):
                    report_count(number)
            del generator
            gc.collect()
            numbers = yardstick.table(done.outcomes)
            self.live.say(
                f"{when}: {numbers['bits_per_token']:.3f} bits a token, {numbers['exact']:.1%} exact,"
                f" similarity {numbers['similarity']:.3f}, {numbers['tokens_per_forward']:.2f} tokens a forward"
            )
        return done.outcomes, done.seconds

    def _plan(self, corpus: Corpus, measuring_s: float, task: TeamTask) -> Plan:
        """Measure a few sequences and fit the steps into the time that is left."""
        for index in range(_TRIAL_SEQUENCES):  # the first one finds everything cold
            begun = time.monotonic()
            loss = task.loss(np.random.default_rng([99, index]), 0, index)
            loss.total.backward()
            row_s = (time.monotonic() - begun) / loss.rows
        for parameter in task.parameters.values():
            parameter.grad = None
        recipe = self.recipe
        tokens = task.tokens()
        noisy = recipe.noisy_rows if task.model.drafts is not None else 0
        step_s = row_s * (tokens / len(task.windows) + noisy) * recipe.sequences * 1.05
        to_measure = 2 if self.options.dry_run else 1  # a real run has the base's numbers by now
        spent_s = time.monotonic() - self.started + to_measure * measuring_s
        left = self.options.minutes * 60 * 0.97 - spent_s
        steps_an_epoch = len(task.windows) / recipe.sequences / (1 - (recipe.edits if task.edits else 0.0))
        most = recipe.epochs * steps_an_epoch
        steps = max(1, int(min(most, left / step_s)))
        return Plan(tokens, step_s, steps, steps / steps_an_epoch, measuring_s, most * step_s <= left)

    def _train(self, corpus: Corpus, measuring_s: float) -> bool:
        """Train to the plan's end; whether it was stopped on the way."""
        done = self.folder / "trained.json"
        if done.is_file():
            return False
        resume = self.checkpoint.is_file()
        if not self.options.finish:  # what an earlier --finish measured is of fewer steps
            for path in (self.folder / "after.jsonl", self.result):
                path.unlink(missing_ok=True)
        task = self._task(corpus)
        if resume:
            recipe = task.recipe
        else:
            plan = self._plan(corpus, measuring_s, task)
            self.live.say(self._planned(plan))
            recipe = msgspec.structs.replace(
                task.recipe,
                steps=plan.steps,
                decay_steps=max(1, plan.steps * 2 // 3),
                lr_warmup=max(1, min(task.recipe.lr_warmup, plan.steps // 8)),
            )
        with self.live.training(recipe.steps) as line:
            trainer = Trainer(recipe, task, self.folder, resume, report=line, log_steps=1)
            if not resume:
                trainer.evaluate()
            try:
                if self.options.finish:
                    trainer.finish()
                else:
                    trainer.train(1e9)
            except DiffcoderError as error:
                if error.code != "not_finite":
                    raise
                way = "(A lower lr is a recipe's: --recipe FILE; --finish measures what was saved.)"
                raise DiffcoderError(error.code, f"{error.message} {way}") from error
        if trainer.step == recipe.steps and not trainer.stopping:
            write_atomically(done, json.dumps({"step": trainer.step}).encode())
        return trainer.stopping

    def _conclude(self, corpus: Corpus, before: list[Outcome], after: list[Outcome]) -> bool:
        """Write result and report; whether the tuned model is better."""
        difference = yardstick.compare(before, after)
        better = difference["bits_high"] < 0 and (
            difference["gained"] >= difference["lost"] or difference["p_exact"] > 0.05
        )
        begun = read_json(self.mark, _Begun, _ANEW)
        result = {
            "repository": name_of(self.repository),
            "model": self.options.model,
            "better": better,
            "before": yardstick.table(before),
            "after": yardstick.table(after),
            "difference": difference,
            "corpus": corpus.facts,
            "recipe": read_json(self.folder / "recipe.json", dict[str, Any], _ANEW),
            "adapter_bytes": self.adapter.stat().st_size,
            "threads": torch.get_num_threads(),
            "command": shlex.join(["diffcoder", "tune", name_of(self.repository), *begun.options]),
        }
        write_atomically(self.result, json.dumps(result, indent=1).encode())
        page = report.page(result, before, after, report.log_lines(self.folder / "log.jsonl"))
        write_atomically(self.folder / "report.html", page.encode())
        self.live.say(
            f"bits a token {difference['bits']:+.3f} (95 %: {difference['bits_low']:+.3f} to"
            f" {difference['bits_high']:+.3f}); exact: {difference['gained']:.0f} gained,"
            f" {difference['lost']:.0f} lost, p = {difference['p_exact']:.3g}"
        )
        self.live.say("The tuned model is better." if better else "The tuned model is not measurably better.")
        self.live.say(f"Report: {self.folder / 'report.html'}")
        return better

    def use(self) -> int:
        """Put the adapter where the engine looks before its next request, if it is better and for this model."""
        if not read_json(self.result, _Verdict, "delete it, and --resume writes it again").better:
            raise DiffcoderError(
                "not_better", "The tuned model was not measurably better, so the engine goes on without it."
            )
        base = store.model_path(self.options.model)
        read_team_adapter(self.adapter, open_checkpoint(base).config, checkpoint_sha256(base))
        path = store.team_path(self.options.model)
        store.write_atomically(path, lambda part: shutil.copyfile(self.adapter, part))
        off = shlex.join(["diffcoder", "tune", *_given(self.options, "model"), "--off"])
        self.live.say(f"In use from the engine's next request on. `{off}` takes it away.")
        return 0

    # --- what is said

    def _described(self, corpus: Corpus, gaps: int) -> str:
        facts = corpus.facts
        held = int(sum(record["held_out"] for record in corpus.records))
        left_out = sum(
            count for reason, count in facts["left_out"].items() if ":" not in reason and "(" not in reason
        )
        return (
            f"{facts['tokens']:,} tokens in {facts['documents']} files ({left_out} left out), {held} of them held"
            f" out with {gaps} gaps; {facts['edits'].get('that fit', 0)} edits"
        )

    def _planned(self, plan: Plan) -> str:
        more = "the recipe's epochs allow no more" if plan.whole else "allow more --minutes"
        few = f"; that is little: {more}" if plan.epochs < _LITTLE else ""
        return (
            f"{plan.steps} steps of {plan.step_s:.1f} s, {plan.epochs:.2f} times {plan.tokens_an_epoch:,} tokens;"
            f" measuring twice {plan.measuring_s / 60:.1f} minutes; about {plan.seconds / 60:.0f} minutes in all{few}"
        )


def _given(options: argparse.Namespace, *names: str) -> list[str]:
    """Those of a command line's options that are not the defaults."""
    defaults = {"model": "default", "minutes": 60.0, "recipe": "team"}
    return [
        text
        for name in names
        if (value := getattr(options, name)) != defaults.get(name)
        for text in (f"--{name}", f"{value:g}" if isinstance(value, float) else str(value))
    ]


if __name__ == "__main__":
    sys.exit(main())
