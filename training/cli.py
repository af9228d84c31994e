"""The commands of the training package: `python -P -m training.cli corpus | write | train | evaluate`."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import platformdirs
import torch

from model.checkpoints import open_checkpoint
from model.schema import DiffcoderError
from model.tokens import encode_text, load_tokenizer
from training import corpus as corpora
from training import layouts
from training.continuations import Continuations, store, write_on
from training.diffusion import DiffusionTask
from training.drafting import Drafting, draft_vocabulary, export_checkpoint
from training.gated import GatedModel, load_adapter
from training.progress import HeldOut, measure
from training.recipe import Gated, load
from training.sources import discover
from training.trainer import Task, Trainer


def home() -> Path:
    """Where runs and corpora are kept: DIFFCODER_HOME, or the user's cache folder."""
    return Path(os.environ.get("DIFFCODER_HOME") or platformdirs.user_cache_path("diffcoder"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -P -m training.cli")
    parser.add_argument("--base", type=Path, required=True, help="checkpoint of the frozen base")
    parser.add_argument("--corpus", type=Path, default=home() / "training" / "corpus")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    commands = parser.add_subparsers(required=True)
    add = commands.add_parser("corpus", help="read folders of source code into a corpus of token ids")
    add.add_argument("--source", action="append", nargs=3, metavar=("NAME", "FOLDER", "LICENCE"), default=[])
    add.add_argument("--packages", action="append", type=Path, default=[], help="folder of licensed packages")
    add.add_argument("--most", type=int, help="most files of one package")
    add.add_argument(
        "--benchmarks", type=Path, required=True, help="folder of the benchmark sets to stay clear of"
    )
    add.set_defaults(run=make_corpus)
    add = commands.add_parser("write", help="let the base continue real prompts")
    add.add_argument("folder", type=Path)
    add.add_argument("--humaneval", type=Path, help="prompts from this benchmark file, for evaluation only")
    add.add_argument("--recipe", default="gated")
    add.add_argument("--run", dest="run_folder", type=Path, required=True)
    add.add_argument("--count", type=int, default=40)
    add.add_argument("--tokens", type=int, default=64)
    add.add_argument("--seed", type=int, default=1)
    add.set_defaults(run=write)
    add = commands.add_parser("train", help="train by a recipe")
    add.add_argument("recipe")
    add.add_argument("--run", dest="run_folder", type=Path, required=True)
    add.add_argument("--held-out", type=Path, help="folder of the base's continuations of held-out prompts")
    add.add_argument("--written", type=Path, help="folder of the base's continuations to learn from")
    add.add_argument("--minutes", type=float, default=1e9)
    add.add_argument("--resume", action="store_true")
    add.set_defaults(run=train)
    add = commands.add_parser("export", help="write the adapter of a stopped run's last checkpoint")
    add.add_argument("--run", dest="run_folder", type=Path, required=True)
    add.set_defaults(run=lambda options: print(export_checkpoint(options.base, options.run_folder)))
    add = commands.add_parser("evaluate", help="held-out numbers of an adapter file")
    add.add_argument("adapter", type=Path)
    add.add_argument("--run", dest="run_folder", type=Path, required=True)
    add.add_argument("--held-out", type=Path)
    add.set_defaults(run=evaluate)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        options.run(options)
    except DiffcoderError as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    return 0


def make_corpus(options: argparse.Namespace) -> None:
    sources = [corpora.Source(name, Path(folder), licence) for name, folder, licence in options.source]
    packages = [source for folder in options.packages for source in discover(folder)]
    tokenizer = load_tokenizer(open_checkpoint(options.base))
    vocab = tokenizer.get_vocab_size()
    singles = [
        token for text, token in tokenizer.get_vocab().items() if len(text) == 1 or token >= layouts.QWEN.end
    ]
    left_out: Counter[str] = Counter()
    settings: dict[str, object] = {
        "sources": [[source.name, source.licence] for source in sources + packages],
        "vocabulary": {
            "size": max(vocab, open_checkpoint(options.base).config.vocab),
            "always": sorted(singles),
        },
    }
    benchmark = corpora.benchmark_ngrams(options.benchmarks)
    documents = chain(
        corpora.walk(sources, benchmark, left_out),
        corpora.walk(packages, benchmark, left_out, most=options.most),
    )
    corpora.write(options.corpus, documents, lambda text: encode_text(tokenizer, text), settings, left_out)
    print((options.corpus / "corpus.json").read_text("utf-8")[-600:])


def write(options: argparse.Namespace) -> None:
    recipe = load(options.recipe)
    if not isinstance(recipe, Gated):
        raise DiffcoderError("bad_recipe", f"{options.recipe} trains no drafter: name a gated recipe.")
    corpus = corpora.Corpus(options.corpus)
    rng = np.random.default_rng(options.seed)
    prompts = []
    if options.humaneval:
        tokenizer = load_tokenizer(open_checkpoint(options.base))
        with gzip.open(options.humaneval, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["prompt"] for line in lines]
        for index in rng.choice(len(texts), options.count, replace=False):
            prompts.append(np.array(encode_text(tokenizer, texts[index].rstrip("\n") + "\n")))
    else:
        documents = corpus.indices(held_out=False, least=256)
        while len(prompts) < options.count:
            document = corpus.document(int(rng.choice(documents)))
            length = int(rng.integers(64, 256))
            if rng.random() < recipe.infill:
                prompts.append(layouts.infill(rng, document, length, layouts.QWEN, ends=0).ids)
            else:
                prompts.append(layouts.left_to_right(rng, document, length).ids)
    vocab = draft_vocabulary(corpus, recipe.draft_vocab, options.run_folder)
    model = GatedModel(options.base, rank=1, scale=1.0, draft_vocab_S=vocab, seed=0)
    sequences = []
    prompts.sort(key=len)
    for start in range(0, len(prompts), 48):
        sequences += write_on(model, prompts[start : start + 48], options.tokens, layouts.QWEN.end)
        print(f"{len(sequences)} of {len(prompts)}", flush=True)
        store(options.folder, sequences)


def held_out_set(corpus: corpora.Corpus, written: Path | None) -> HeldOut:
    """The same sequences for every run over this corpus."""
    rng = np.random.default_rng(123)
    documents = rng.permutation(corpus.indices(held_out=True, least=256))[:12]
    text = []
    for index, document in enumerate(documents):
        ids = corpus.document(int(document))
        text.append(
            layouts.infill(rng, ids, 256, layouts.QWEN, ends=0)
            if index % 2
            else layouts.left_to_right(rng, ids, 256)
        )
    continued = list(Continuations(written)) if written else []
    return HeldOut(text, [s for s in continued if len(s.ids) - s.first > 12][::2])


def train(options: argparse.Namespace) -> None:
    recipe, corpus, run = load(options.recipe), corpora.Corpus(options.corpus), options.run_folder
    task: Task
    if isinstance(recipe, Gated):
        written = Continuations(options.written) if options.written else None
        held_out = held_out_set(corpus, options.held_out)
        task = Drafting(recipe, options.base, corpus, run, held_out, written)
    else:
        task = DiffusionTask(recipe, options.base, corpus)
    Trainer(recipe, task, run, options.resume).train(options.minutes)


def evaluate(options: argparse.Namespace) -> None:
    from safetensors import safe_open

    with safe_open(options.adapter, "pt") as file:
        facts = file.metadata() or {}
        rank = file.get_tensor("layers.0.q.lora_A").shape[0]
        chain = file.get_tensor("chain.B").shape[1] if "chain.B" in file.keys() else 0  # noqa: SIM118
    corpus = corpora.Corpus(options.corpus)
    vocab = draft_vocabulary(corpus, 32768, options.run_folder)
    model = GatedModel(
        options.base,
        rank=rank,
        scale=float(facts.get("scale", 2.0)),
        draft_vocab_S=vocab,
        seed=0,
        chain=chain,
    )
    load_adapter(model, options.adapter)
    print(json.dumps(measure(model, held_out_set(corpus, options.held_out), int(facts.get("shift", 0)))))


if __name__ == "__main__":
    sys.exit(main())
