"""Commands of `diffcoder train` that run a recipe, export what came of it and measure it."""

from __future__ import annotations

import argparse
import json
import operator
import sys
from functools import reduce
from pathlib import Path

import msgspec
from safetensors import safe_open

from model import loading
from model.adapters import read_adapter
from model.checkpoints import open_checkpoint
from model.disk import cache_folder
from model.schema import DiffcoderError
from model.tokens import load_tokenizer
from training import diffusion, drafting
from training.diffusion import DiffusionTask
from training.drafting import Drafting
from training.edits import profile_of
from training.files import reading
from training.gated import GatedModel, checkpoint_sha256, load_adapter
from training.given import corpus_of, examples_of, held_out_set, marks_of, require_clean_data
from training.parallel import join
from training.progress import HeldOut, Hits, difference, hits, with_intervals
from training.recipe import Diffusion, Gated, Kinds, Team, load
from training.team import TeamTask
from training.trainer import REWRITTEN, Task, Trainer


def train(options: argparse.Namespace) -> int:
    recipe, corpus = load(options.recipe), corpus_of(options)
    _refuse_what_is_not_taken(recipe, options)
    world = join(processor=not isinstance(recipe, Diffusion) or recipe.form == "int8")
    run = options.run_folder or cache_folder() / "runs" / Path(options.recipe).stem
    parts = [examples_of(options, folder, "commits") for folder in options.examples or ()]
    examples = reduce(operator.add, parts) if parts else None
    written = examples_of(options, options.written, "write")
    if world.leads:
        require_clean_data(options, corpus)
    task: Task
    marks = marks_of(options.base)
    if isinstance(recipe, Gated):
        held_out = held_out_set(corpus, examples_of(options, options.held_out, "write"), marks)
        task = Drafting(
            recipe, options.base, corpus, run, held_out, written, options.start, marks, examples, world
        )
    elif isinstance(recipe, Team):
        task = TeamTask(recipe, options.base, corpus, marks, _drafting(options.base), examples)
    else:
        recipe = _with_tokens(recipe, options.base)
        task = DiffusionTask(recipe, options.base, corpus, examples, world, marks)
    trainer = Trainer(recipe, task, run, options.resume, world=world)
    trainer.train(options.minutes)
    world.leave()
    if trainer.stopping:
        print(f"Stopped at step {trainer.step}; --resume goes on.", file=sys.stderr)
        return 130
    return 0


def _refuse_what_is_not_taken(recipe: Kinds, options: argparse.Namespace) -> None:
    """Options that this kind of recipe would pass over in silence."""
    not_taken = [] if isinstance(recipe, Gated) else ["start", "written", "held_out"]
    if isinstance(recipe, Diffusion) and recipe.data == "files":
        not_taken.append("examples")
    given = [f"--{name.replace('_', '-')}" for name in not_taken if getattr(options, name)]
    if given:
        raise DiffcoderError("bad_recipe", f"{options.recipe} has no use for {given[0]}: leave it out.")


def export(options: argparse.Namespace) -> None:
    """A drafter's adapter; of a diffusion recipe the model, with low-rank weights added to their base's."""
    base, run, path = options.base, options.run_folder, options.run_folder / "recipe.json"
    if not path.is_file():
        raise DiffcoderError("no_checkpoint", f"{run} holds no checkpoint: train first.")
    with reading(path, REWRITTEN):
        recipe: Kinds = msgspec.json.decode(path.read_bytes(), type=Kinds)
    match recipe:
        case Diffusion():
            print(diffusion.export_checkpoint(recipe, base, run))
        case Gated():
            print(drafting.export_checkpoint(recipe, base, run))
        case Team():
            raise DiffcoderError(
                "bad_run", f"{run} trains no drafter: what it made is exported whenever it is measured."
            )


def _drafting(base: Path) -> Path | None:
    """The drafting adapter that comes with diffcoder, if it is this base's."""
    adapter = loading.shipped_adapter("default")
    if adapter is None:
        return None
    with safe_open(adapter, "pt") as file:
        return adapter if file.metadata().get("base_sha256") == checkpoint_sha256(base) else None


def _with_tokens(recipe: Diffusion, base: Path) -> Diffusion:
    """The recipe with the mask and end token of the base's family where it names none. Text may not stand for a mask or
    an end: the engine could not tell them apart."""
    checkpoint = open_checkpoint(base)
    tokenizer = load_tokenizer(checkpoint)
    profile = profile_of(checkpoint, tokenizer)
    named = {"mask_token": profile.mask, "end_token": profile.ends[0] if profile.ends else None}
    ids = {
        field: tokenizer.token_to_id(token)
        for field, token in named.items()
        if getattr(recipe, field) is None and token is not None
    }
    recipe = msgspec.structs.replace(recipe, **ids)
    specials = tokenizer.get_added_tokens_decoder()
    for field in ("mask_token", "end_token"):
        if (id := getattr(recipe, field)) is not None and id not in specials:
            raise DiffcoderError(
                "bad_recipe",
                f"{field} {id} is none of the base's special tokens: name one of them in the recipe.",
            )
    return recipe


def evaluate(options: argparse.Namespace) -> None:
    """A line for each language of the corpus, one for the continuations, and one for the mean over languages."""
    corpus, marks = corpus_of(options), marks_of(options.base)
    drafters = [_drafter(options.base, path) for path in (options.adapter, options.against) if path]
    held_out = corpus.indices(held_out=True, least=256)
    written = examples_of(options, options.held_out, "write")
    groups = []

    def hits_of(files: HeldOut) -> list[Hits]:
        return [hits(model, files, shift) for model, shift in drafters]

    def said(what: dict[str, object], groups: list[list[Hits]]) -> str:
        own, *other = [list(of_one) for of_one in zip(*groups, strict=True)]
        compared = {"difference": with_intervals(list(map(difference, own, *other)))} if other else {}
        return json.dumps(what | with_intervals(own) | compared)

    for language in sorted({corpus.records[index]["language"] for index in held_out}):
        groups.append(hits_of(held_out_set(corpus, None, marks, [language], options.files)))
        print(said({"language": language}, groups[-1:]), flush=True)
    if written is not None:
        continued = HeldOut([], held_out_set(corpus, written, marks).written)
        if not continued.written:
            raise DiffcoderError(
                "no_examples",
                f"{options.held_out} holds no continuation of more than 12 tokens: write some with more --tokens.",
            )
        print(said({"continuations": len(continued.written)}, [hits_of(continued)]), flush=True)
    if groups:
        print(said({"languages": len(groups)}, groups))


def _drafter(base: Path, path: Path) -> tuple[GatedModel, int]:
    """The model with an adapter file's weights, and the file's shift."""
    if not path.is_file():
        raise DiffcoderError("no_adapter", f"{path} is no file: name an adapter file.")
    found = read_adapter(path, open_checkpoint(base).config, checkpoint_sha256(base))
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    model = GatedModel(
        base,
        rank=int(facts["rank"]),
        scale=float(facts["scale"]),
        draft_vocab_S=found.draft_vocab_S,
        seed=0,
        chain=len(found.chain[0]) if found.chain else 0,
    )
    load_adapter(model, path)
    return model, int(facts["shift"])
