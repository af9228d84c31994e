"""`diffcoder train`: recipes run by name, and what they need: corpus, edits, continuations, decontamination.

`diffcoder train NAME` is short for `diffcoder train train NAME`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import platformdirs
import torch

from model import store
from model.checkpoints import open_checkpoint
from model.schema import DiffcoderError
from model.tokens import encode_text, load_tokenizer
from training import commits, layouts, transformations
from training import corpus as corpora
from training.continuations import write_on
from training.decontamination import SETS, WORDS, benchmark_ngrams, require_clean, sets, shares
from training.diffusion import DiffusionTask
from training.drafting import Drafting, draft_vocabulary, export_checkpoint
from training.edits import Edit, profile_of, sequences
from training.examples import Examples
from training.examples import store as store_examples
from training.gated import GatedModel, load_adapter
from training.parallel import join
from training.progress import HeldOut, measure
from training.recipe import Diffusion, Gated, Team, load
from training.sources import discover
from training.team import TeamTask
from training.trainer import Task, Trainer


def home() -> Path:
    """Where runs and corpora are kept: DIFFCODER_HOME, or the user's cache folder."""
    return Path(os.environ.get("DIFFCODER_HOME") or platformdirs.user_cache_path("diffcoder"))


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        arguments.insert(0, "train")
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        if options.base is None:
            options.base = store.model_path("default")
        options.run(options)
    except DiffcoderError as error:
        print(f"diffcoder train: {error.message}", file=sys.stderr)
        return 1
    return 0


COMMANDS = ("corpus", "commits", "decontaminate", "write", "train", "export", "evaluate")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffcoder train", description=__doc__)
    parser.add_argument("--base", type=Path, help="checkpoint to start from (default: the default model's)")
    parser.add_argument("--corpus", type=Path, default=home() / "training" / "corpus")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser("corpus", help="read folders of source code into a corpus of token ids")
    add.add_argument("--source", action="append", nargs=3, metavar=("NAME", "FOLDER", "LICENCE"), default=[])
    add.add_argument("--packages", action="append", type=Path, default=[], help="folder of licensed packages")
    add.add_argument("--most", type=int, help="most files of one package; a --source is read whole")
    _benchmarks(add)
    add.set_defaults(run=make_corpus)
    add = commands.add_parser("commits", help="edits out of a repository's history and made from its files")
    add.add_argument("repository", type=Path)
    add.add_argument("folder", type=Path, help="where the examples go")
    add.add_argument("--most", type=int, default=1500, help="examples of either kind (%(default)s)")
    _benchmarks(add)
    add.set_defaults(run=mine_commits)
    add = commands.add_parser(
        "decontaminate", help="check a corpus against the benchmarks, 13 words at a time"
    )
    _benchmarks(add)
    add.set_defaults(run=decontaminate)
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
    add.add_argument("recipe", help="a name in training/recipes, or a .toml file")
    add.add_argument("--run", dest="run_folder", type=Path, help="folder of the run (default: by the name)")
    add.add_argument("--held-out", type=Path, help="folder of the base's continuations of held-out prompts")
    add.add_argument("--written", type=Path, help="folder of the base's continuations to learn from")
    add.add_argument("--examples", type=Path, help="folder of edits or answers to learn from")
    add.add_argument("--minutes", type=float, default=1e9)
    add.add_argument("--resume", action="store_true")
    add.add_argument(
        "--start", type=Path, help="adapter file to start from (gated recipes), with a fresh optimiser"
    )
    _benchmarks(add)
    add.set_defaults(run=train)
    add = commands.add_parser("export", help="write the adapter of a stopped run's last checkpoint")
    add.add_argument("--run", dest="run_folder", type=Path, required=True)
    add.set_defaults(run=lambda options: print(export_checkpoint(options.base, options.run_folder)))
    add = commands.add_parser("evaluate", help="held-out numbers of an adapter file")
    add.add_argument("adapter", type=Path)
    add.add_argument("--held-out", type=Path, help="folder of the base's continuations of held-out prompts")
    add.add_argument("--files", type=int, default=12, help="held-out files of each language (%(default)s)")
    add.set_defaults(run=evaluate)
    assert set(commands.choices) == set(COMMANDS)
    return parser


def _benchmarks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--benchmarks", type=Path, help=f"folder of the benchmark sets to stay clear of (default: {SETS})"
    )


def make_corpus(options: argparse.Namespace) -> None:
    sources = [corpora.Source(name, Path(folder), licence) for name, folder, licence in options.source]
    refused: dict[str, str] = {}
    packages = [source for folder in options.packages for source in discover(folder, refused)]
    said = f": {', '.join(sorted(refused))}" if refused else ""
    print(f"{len(packages)} packages; {len(refused)} without a permissive licence{said}", flush=True)
    tokenizer = load_tokenizer(open_checkpoint(options.base))
    vocab = tokenizer.get_vocab_size()
    singles = [
        token for text, token in tokenizer.get_vocab().items() if len(text) == 1 or token >= layouts.QWEN.end
    ]
    left_out: Counter[str] = Counter()
    settings: dict[str, object] = {
        "sources": [[source.name, source.licence] for source in sources + packages],
        "refused": refused,
        "vocabulary": {
            "size": max(vocab, open_checkpoint(options.base).config.vocab),
            "always": sorted(singles),
        },
    }
    contaminated = partial(shares, benchmark_ngrams(sets(options.benchmarks)))
    documents = chain(
        corpora.walk(sources, contaminated, left_out),
        corpora.walk(packages, contaminated, left_out, most=options.most),
    )
    corpora.write(options.corpus, documents, lambda text: encode_text(tokenizer, text), settings, left_out)
    facts = json.loads((options.corpus / "corpus.json").read_text("utf-8"))
    print(f"{facts['tokens']:,} tokens in {facts['documents']:,} files: {options.corpus}")
    for reason, files in sorted(facts["left_out"].items(), key=lambda pair: -pair[1]):
        print(f"{files:8,} {reason}")


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
        store_examples(options.folder, sequences)


def held_out_set(
    corpus: corpora.Corpus,
    written: Path | None,
    marks: layouts.Marks | None,
    languages: Iterable[str] = (),
    files: int = 12,
) -> HeldOut:
    """The same sequences for every run over this corpus; every other one in the infill layout, if the base has marks."""
    rng = np.random.default_rng(123)
    documents = rng.permutation(corpus.indices(held_out=True, languages=languages, least=256))[:files]
    text = []
    for index, document in enumerate(documents):
        ids = corpus.document(int(document))
        text.append(
            layouts.infill(rng, ids, 256, marks, ends=0)
            if index % 2 and marks is not None
            else layouts.left_to_right(rng, ids, 256)
        )
    continued = list(Examples(written, "diffcoder train write")) if written else []
    return HeldOut(text, [s for s in continued if len(s.ids) - s.first > 12][::2])


def decontaminate(options: argparse.Namespace) -> None:
    require_clean(corpora.Corpus(options.corpus), _decoder(options.base), options.benchmarks)
    print(f"{options.corpus} shares no {WORDS} words in a row with the benchmarks")


def _decoder(base: Path) -> Callable[[list[int]], str]:
    tokenizer = load_tokenizer(open_checkpoint(base))
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))


def _marks(base: Path) -> layouts.Marks | None:
    ids = load_tokenizer(open_checkpoint(base)).get_added_tokens_decoder().items()
    return layouts.marks_of({token.content: id for id, token in ids})


def mine_commits(options: argparse.Namespace) -> None:
    contaminated = partial(shares, benchmark_ngrams(sets(options.benchmarks)))
    checkpoint = open_checkpoint(options.base)
    tokenizer = load_tokenizer(checkpoint)
    profile = profile_of(checkpoint, tokenizer)
    left_out: Counter[str] = Counter()
    source = corpora.Source(options.repository.resolve().name, options.repository, "")
    documents = list(corpora.walk([source], contaminated, left_out))
    paths = {document.path for document in documents}
    found = islice(commits.edits(options.repository, paths.__contains__, left_out), options.most)
    made = (
        edit
        for document in documents
        if document.language == "python"
        for edit in transformations.edits(document.path, document.text, seed=0)
    )
    origins: Counter[str] = Counter()

    def counted(edits: Iterable[Edit]) -> Iterator[Edit]:
        for edit in edits:
            origins[edit.origin.split()[0]] += 1
            yield edit

    examples = list(sequences(counted(chain(found, islice(made, options.most))), profile, tokenizer))
    if not examples:
        raise DiffcoderError("no_examples", f"{options.repository} gave no edit to learn from.")
    store_examples(options.folder, examples)
    print(json.dumps({"edits": origins, "that fit": len(examples), "left out": left_out}, indent=1))


def train(options: argparse.Namespace) -> None:
    recipe, corpus = load(options.recipe), corpora.Corpus(options.corpus)
    world = join(processor=not isinstance(recipe, Diffusion) or recipe.form == "int8")
    run = options.run_folder or home() / "runs" / Path(options.recipe).stem
    if world.leads:
        require_clean(corpus, _decoder(options.base), options.benchmarks)
    task: Task
    if options.start and not isinstance(recipe, Gated):
        raise DiffcoderError(
            "bad_recipe", f"{options.recipe} cannot start from an adapter: leave out --start."
        )
    examples = Examples(options.examples, "diffcoder train commits") if options.examples else None
    if isinstance(recipe, Gated):
        written = Examples(options.written, "diffcoder train write") if options.written else None
        held_out = held_out_set(corpus, options.held_out, _marks(options.base))
        task = Drafting(recipe, options.base, corpus, run, held_out, written, options.start)
    elif isinstance(recipe, Team):
        task = TeamTask(recipe, options.base, corpus, _marks(options.base), edits=examples)
    else:
        task = DiffusionTask(recipe, options.base, corpus, examples, world)
    Trainer(recipe, task, run, options.resume, world=world).train(options.minutes)
    world.leave()


def evaluate(options: argparse.Namespace) -> None:
    """A line for each language of the corpus, then one for the continuations."""
    from safetensors import safe_open

    if not options.adapter.is_file():
        raise DiffcoderError("no_adapter", f"{options.adapter} is no file: name an adapter file.")
    with safe_open(options.adapter, "pt") as file:
        facts = file.metadata() or {}
        if facts.get("kind") != "gated":
            raise DiffcoderError("bad_adapter", f"{options.adapter} is no gated adapter: name one.")
        rank = file.get_tensor("layers.0.q.lora_A").shape[0]
        chain = file.get_tensor("chain.B").shape[1] if "chain.B" in file.keys() else 0  # noqa: SIM118
        vocab = file.get_tensor("draft_vocab").long()
    corpus, marks = corpora.Corpus(options.corpus), _marks(options.base)
    model = GatedModel(
        options.base, rank=rank, scale=float(facts["scale"]), draft_vocab_S=vocab, seed=0, chain=chain
    )
    load_adapter(model, options.adapter)
    shift, held_out = int(facts["shift"]), corpus.indices(held_out=True, least=256)
    for language in sorted({corpus.records[index]["language"] for index in held_out}):
        numbers = measure(model, held_out_set(corpus, None, marks, [language], options.files), shift)
        print(json.dumps({"language": language} | numbers), flush=True)
    if options.held_out:
        written = held_out_set(corpus, options.held_out, marks).written
        print(json.dumps({"continuations": len(written)} | measure(model, HeldOut([], written), shift)))


if __name__ == "__main__":
    sys.exit(main())
