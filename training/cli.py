"""`diffcoder train`: recipes run by name, and what they need: corpus, edits, continuations, decontamination.

`diffcoder train NAME` is short for `diffcoder train train NAME`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import operator
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial, reduce
from itertools import chain, islice
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from model import loading, store
from model.adapters import read_adapter
from model.checkpoints import open_checkpoint
from model.disk import cache_folder
from model.schema import DiffcoderError
from model.tokens import encode_text, load_tokenizer, special_ids
from training import chats, commits, diffusion, drafting, layouts, transformations
from training import corpus as corpora
from training.arguments import amount, count
from training.continuations import write_on
from training.decontamination import SETS, WORDS, benchmark_ngrams, remember, require_clean, sets, shares
from training.diffusion import DiffusionTask
from training.drafting import Drafting, draft_vocabulary
from training.duplicates import Duplicates
from training.edits import Edit, profile_of, sequences
from training.examples import Examples
from training.examples import store as store_examples
from training.files import reading
from training.gated import GatedModel, checkpoint_sha256, load_adapter
from training.parallel import join
from training.progress import HeldOut, Hits, difference, hits, with_intervals
from training.recipe import Diffusion, Gated, Kinds, Team, load
from training.sources import discover
from training.team import TeamTask
from training.trainer import REWRITTEN, Task, Trainer


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    common = _common()
    options, rest = common.parse_known_args(arguments)  # they may stand anywhere
    if rest and not rest[0].startswith("-") and rest[0] not in COMMANDS:
        rest.insert(0, "train")
    options = _parser(common).parse_args(rest, options)
    torch.set_num_threads(options.threads)
    try:
        if options.base is None:
            options.base = store.model_path("default")
        return int(options.run(options) or 0)
    except DiffcoderError as error:
        print(f"diffcoder train: {error.message}", file=sys.stderr)
    except OSError as error:
        print(f"diffcoder train: {error.filename or 'A file'}: {error.strerror or error}.", file=sys.stderr)
    except KeyboardInterrupt:
        print("diffcoder train: stopped.", file=sys.stderr)
        return 130
    return 1


COMMANDS = ("corpus", "commits", "chat", "decontaminate", "write", "train", "export", "evaluate")


def _common() -> argparse.ArgumentParser:
    """What every command takes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--base", type=Path, help="checkpoint to start from (default: the default model's)")
    parser.add_argument("--corpus", type=Path, default=cache_folder() / "training" / "corpus")
    parser.add_argument("--threads", type=count, default=torch.get_num_threads())
    return parser


def _parser(common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffcoder train", description=__doc__, parents=[common])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser("corpus", help="read folders of source code into a corpus of token ids")
    add.add_argument("--source", action="append", nargs=3, metavar=("NAME", "FOLDER", "LICENCE"), default=[])
    add.add_argument("--packages", action="append", type=Path, default=[], help="folder of licensed packages")
    add.add_argument("--most", type=count, help="most files of one package; a --source is read whole")
    _benchmarks(add)
    add.set_defaults(run=make_corpus)
    add = commands.add_parser("commits", help="edits out of a repository's history and made from its files")
    add.add_argument("repository", type=Path)
    add.add_argument("folder", type=Path, help="where the examples go")
    add.add_argument("--most", type=count, default=1500, help="examples of either kind (%(default)s)")
    _benchmarks(add)
    add.set_defaults(run=mine_commits)
    add = commands.add_parser("chat", help="answers out of conversations, as examples to learn from")
    add.add_argument("file", type=Path, help='JSON lines: {"messages": [{"role": ..., "content": ...}, ...]}')
    add.add_argument("folder", type=Path, help="where the examples go")
    _benchmarks(add)
    add.set_defaults(run=read_chats)
    add = commands.add_parser(
        "decontaminate", help="check a corpus against the benchmarks, 13 words at a time"
    )
    _benchmarks(add)
    add.set_defaults(run=decontaminate)
    add = commands.add_parser("write", help="let the base continue real prompts")
    add.add_argument("folder", type=Path)
    prompts = add.add_mutually_exclusive_group()
    prompts.add_argument(
        "--humaneval", type=Path, help="prompts from this benchmark file, for evaluation only"
    )
    prompts.add_argument(
        "--of-held-out",
        action="store_true",
        help="prompts from the corpus's held-out files, for evaluation only",
    )
    add.add_argument("--recipe", default="gated")
    add.add_argument("--run", dest="run_folder", type=Path, required=True)
    add.add_argument("--count", type=count, default=40)
    add.add_argument("--tokens", type=count, default=64)
    add.add_argument("--seed", type=partial(count, least=0), default=1)
    _benchmarks(add)
    add.set_defaults(run=write)
    add = commands.add_parser("train", help="train by a recipe")
    add.add_argument("recipe", help="a name in training/recipes, or a .toml file")
    add.add_argument("--run", dest="run_folder", type=Path, help="folder of the run (default: by the name)")
    add.add_argument("--held-out", type=Path, help="folder of the base's continuations of held-out prompts")
    add.add_argument("--written", type=Path, help="folder of the base's continuations to learn from")
    add.add_argument(
        "--examples",
        type=Path,
        action="append",
        help="folder of edits or answers to learn from; again for more",
    )
    add.add_argument("--minutes", type=amount, default=1e9)
    add.add_argument("--resume", action="store_true")
    add.add_argument(
        "--start", type=Path, help="adapter file to start from (gated recipes), with a fresh optimiser"
    )
    _benchmarks(add)
    add.set_defaults(run=train)
    add = commands.add_parser("export", help="write the adapter or model of a run's last checkpoint")
    add.add_argument("--run", dest="run_folder", type=Path, required=True)
    add.set_defaults(run=export)
    add = commands.add_parser("evaluate", help="held-out numbers of an adapter file")
    add.add_argument("adapter", type=Path)
    add.add_argument("--held-out", type=Path, help="folder of the base's continuations of held-out prompts")
    add.add_argument(
        "--against", type=Path, help="another adapter file: differences in pairs, this one's less its"
    )
    add.add_argument("--files", type=count, default=12, help="held-out files of each language (%(default)s)")
    add.set_defaults(run=evaluate)
    assert set(commands.choices) == set(COMMANDS)
    return parser


def _benchmarks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--benchmarks", type=Path, help=f"folder of the benchmark sets to stay clear of (default: {SETS})"
    )


def make_corpus(options: argparse.Namespace) -> None:
    sources = [corpora.Source(name, Path(folder), licence) for name, folder, licence in options.source]
    for folder in [*(source.folder for source in sources), *options.packages]:
        if not folder.is_dir():
            raise DiffcoderError("no_folder", f"{folder} is no folder of source code: name another.")
    refused: dict[str, str] = {}
    packages = [source for folder in options.packages for source in discover(folder, refused)]
    said = f": {', '.join(sorted(refused))}" if refused else ""
    print(f"{len(packages)} packages; {len(refused)} without a permissive licence{said}", flush=True)
    tokenizer = load_tokenizer(open_checkpoint(options.base))
    vocab = tokenizer.get_vocab_size()
    added = tokenizer.get_added_tokens_decoder()
    singles = [token for text, token in tokenizer.get_vocab().items() if len(text) == 1 or token in added]
    left_out: Counter[str] = Counter()
    settings: dict[str, object] = {
        "tokenizer": _digest_of(tokenizer),
        "sources": [[source.name, source.licence] for source in sources + packages],
        "refused": refused,
        "vocabulary": {
            "size": max(vocab, open_checkpoint(options.base).config.vocab),
            "always": sorted(singles),
        },
    }
    contaminated = partial(shares, benchmark_ngrams(sets(options.benchmarks)))
    duplicates = Duplicates()
    documents = chain(
        corpora.walk(sources, contaminated, left_out, duplicates=duplicates),
        corpora.walk(packages, contaminated, left_out, most=options.most, duplicates=duplicates),
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
    corpus, marks = corpus_of(options), _marks(options.base)
    if marks is None:
        raise DiffcoderError("bad_base", f"{options.base} has no marks for infill: name another base.")
    rng = np.random.default_rng(options.seed)
    prompts = []
    if options.humaneval:
        tokenizer = load_tokenizer(open_checkpoint(options.base))
        with gzip.open(options.humaneval, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["prompt"] for line in lines]
        for index in rng.permutation(len(texts))[: options.count]:
            prompts.append(np.array(encode_text(tokenizer, texts[index].rstrip("\n") + "\n")))
    else:
        documents = corpus.indices(held_out=options.of_held_out, least=256)
        if not len(documents):
            kind = "held-out file" if options.of_held_out else "file"
            raise DiffcoderError("empty_corpus", f"The corpus has no {kind} of 256 tokens or more: add some.")
        while len(prompts) < options.count:
            document = corpus.document(int(rng.choice(documents)))
            length = int(rng.integers(64, 256))
            if rng.random() < recipe.infill:
                prompts.append(layouts.infill(rng, document, length, marks, ends=0).ids)
            else:
                prompts.append(layouts.left_to_right(rng, document, length).ids)
    vocab = draft_vocabulary(corpus, recipe.draft_vocab, options.run_folder)
    model = GatedModel(options.base, rank=1, scale=1.0, draft_vocab_S=vocab, seed=0)
    sequences, written = [], 0
    benchmarks = [] if options.humaneval else sets(options.benchmarks)
    grams = benchmark_ngrams(benchmarks)
    decode, digest = _decoder(options.base), _digest_of(load_tokenizer(open_checkpoint(options.base)))
    prompts.sort(key=len)
    # In any order of batches, so that who stops it has prompts of all lengths.
    for start in rng.permutation(range(0, len(prompts), 48)).tolist():
        batch = write_on(model, prompts[start : start + 48], options.tokens, marks.end)
        written += len(batch)
        sequences += [made for made in batch if not shares(grams, decode(made.ids.tolist()))]
        print(f"{written} of {len(prompts)}, {written - len(sequences)} left out", flush=True)
        if sequences:
            store_examples(options.folder, sequences, digest)
    if sequences and not options.humaneval:
        remember(options.folder, benchmarks)


def corpus_of(options: argparse.Namespace) -> corpora.Corpus:
    """The corpus that is named, if its ids are those of the base's tokenizer."""
    corpus = corpora.Corpus(options.corpus)
    facts = json.loads((corpus.folder / "corpus.json").read_text("utf-8"))
    if "tokenizer" in facts and facts["tokenizer"] != _digest_of(
        load_tokenizer(open_checkpoint(options.base))
    ):
        raise DiffcoderError(
            "other_corpus",
            f"{corpus.folder} was made with another tokenizer than {options.base}'s: make one for this base.",
        )
    return corpus


def examples_of(options: argparse.Namespace, folder: Path | None, command: str) -> Examples | None:
    """The sequences of a folder that is named, if their ids are those of the base's tokenizer."""
    if folder is None:
        return None
    examples, checkpoint = Examples(folder, f"diffcoder train {command}"), open_checkpoint(options.base)
    if examples.tokenizer is None:  # an older folder, which does not say
        fits = examples.tokens.max(initial=0) < checkpoint.config.vocab
    else:
        fits = examples.tokenizer == _digest_of(load_tokenizer(checkpoint))
    if not fits:
        raise DiffcoderError(
            "other_examples",
            f"{folder} was made with another tokenizer than {options.base}'s: make one for this base with"
            f" `diffcoder train {command}`.",
        )
    return examples


def _digest_of(tokenizer: Tokenizer) -> str:
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()


def held_out_set(
    corpus: corpora.Corpus,
    written: Examples | None,
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
    return HeldOut(text, [s for s in written or () if len(s.ids) - s.first > 12][::2])


def decontaminate(options: argparse.Namespace) -> None:
    _require_clean(options, corpora.Corpus(options.corpus))
    print(f"{options.corpus} shares no {WORDS} words in a row with the benchmarks")


def _decoder(base: Path) -> Callable[[list[int]], str]:
    tokenizer = load_tokenizer(open_checkpoint(base))
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))


def _require_clean(options: argparse.Namespace, corpus: corpora.Corpus) -> None:
    """Of the corpus and of whatever else is learnt from."""
    decode = _decoder(options.base)

    def documents() -> Iterator[tuple[str, str]]:
        for index, record in enumerate(corpus.records):
            name = f"{record.get('source')}/{record.get('path')}"
            yield name, decode(corpus.document(index).tolist())

    require_clean(corpus.folder, documents, options.benchmarks)
    written = getattr(options, "written", None)
    for folder in [*(getattr(options, "examples", None) or ()), *([written] if written else [])]:
        _require_clean_examples(options, folder)


def _require_clean_examples(options: argparse.Namespace, folder: Path) -> None:
    examples, decode = Examples(folder, "diffcoder train write"), _decoder(options.base)

    def texts() -> Iterator[tuple[str, str]]:
        for number, sequence in enumerate(examples):
            yield f"number {number}", decode(sequence.ids.tolist())

    require_clean(folder, texts, options.benchmarks)


def _marks(base: Path) -> layouts.Marks | None:
    return layouts.marks_of(special_ids(load_tokenizer(open_checkpoint(base))))


def mine_commits(options: argparse.Namespace) -> None:
    contaminated = partial(shares, benchmark_ngrams(sets(options.benchmarks)))
    checkpoint = open_checkpoint(options.base)
    tokenizer = load_tokenizer(checkpoint)
    profile = profile_of(checkpoint, tokenizer)
    left_out: Counter[str] = Counter()
    source = corpora.Source(options.repository.resolve().name, options.repository, "")
    documents = list(corpora.walk([source], contaminated, left_out))
    paths = {document.path for document in documents}
    edits = commits.edits(options.repository, paths.__contains__, contaminated, left_out)
    found = islice(edits, options.most)
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
    _keep(options, examples, tokenizer, f"{options.repository} gave no edit")
    print(json.dumps({"edits": origins, "that fit": len(examples), "left out": left_out}, indent=1))


def read_chats(options: argparse.Namespace) -> None:
    contaminated = partial(shares, benchmark_ngrams(sets(options.benchmarks)))
    checkpoint = open_checkpoint(options.base)
    tokenizer = load_tokenizer(checkpoint)
    counts: Counter[str] = Counter()
    profile = profile_of(checkpoint, tokenizer)
    examples = list(chats.sequences(options.file, profile, tokenizer, contaminated, counts))
    _keep(options, examples, tokenizer, f"{options.file} gave no answer")
    print(json.dumps({"answers": len(examples)} | counts, indent=1))


def _keep(
    options: argparse.Namespace, examples: list[layouts.Sequence], tokenizer: Tokenizer, without: str
) -> None:
    """Write what was found into the folder that is named, and check it against the benchmarks."""
    if not examples:
        raise DiffcoderError("no_examples", f"{without} to learn from.")
    store_examples(options.folder, examples, _digest_of(tokenizer))
    _require_clean_examples(options, options.folder)


def train(options: argparse.Namespace) -> int:
    recipe, corpus = load(options.recipe), corpus_of(options)
    world = join(processor=not isinstance(recipe, Diffusion) or recipe.form == "int8")
    run = options.run_folder or cache_folder() / "runs" / Path(options.recipe).stem
    parts = [examples_of(options, folder, "commits") for folder in options.examples or ()]
    examples = reduce(operator.add, parts) if parts else None
    written = examples_of(options, options.written, "write")
    if world.leads:
        _require_clean(options, corpus)
    task: Task
    if options.start and not isinstance(recipe, Gated):
        raise DiffcoderError(
            "bad_recipe", f"{options.recipe} cannot start from an adapter: leave out --start."
        )
    marks = _marks(options.base)
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
    corpus, marks = corpus_of(options), _marks(options.base)
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


if __name__ == "__main__":
    sys.exit(main())
