"""Commands of `diffcoder train` that make or check what recipes learn from: corpus, edits, answers, continuations."""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from model.checkpoints import open_checkpoint
from model.schema import DiffcoderError
from model.tokens import encode_text, load_tokenizer
from training import chats, commits, layouts, transformations
from training import corpus as corpora
from training.continuations import write_on
from training.decontamination import WORDS, benchmark_ngrams, remember, sets, shares
from training.drafting import draft_vocabulary
from training.duplicates import Duplicates
from training.edits import Edit, profile_of, sequences
from training.examples import store as store_examples
from training.gated import GatedModel
from training.given import (
    corpus_of,
    decoder_of,
    digest_of,
    marks_of,
    require_clean_data,
    require_clean_examples,
)
from training.recipe import Gated, load
from training.sources import discover


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
        "tokenizer": digest_of(tokenizer),
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
    facts = corpora.write(
        options.corpus, documents, lambda text: encode_text(tokenizer, text), settings, left_out
    )
    print(f"{facts['tokens']:,} tokens in {facts['documents']:,} files: {options.corpus}")
    for reason, files in sorted(facts["left_out"].items(), key=lambda pair: -pair[1]):
        print(f"{files:8,} {reason}")


def write(options: argparse.Namespace) -> None:
    recipe = load(options.recipe)
    if not isinstance(recipe, Gated):
        raise DiffcoderError("bad_recipe", f"{options.recipe} trains no drafter: name a gated recipe.")
    corpus, marks = corpus_of(options), marks_of(options.base)
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
    decode, digest = decoder_of(options.base), digest_of(load_tokenizer(open_checkpoint(options.base)))
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


def decontaminate(options: argparse.Namespace) -> None:
    require_clean_data(options, corpora.Corpus(options.corpus))
    print(f"{options.corpus} shares no {WORDS} words in a row with the benchmarks")


def mine_commits(options: argparse.Namespace) -> None:
    commits.require_history(options.repository)
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
    made = transformations.of_documents(documents, seed=0)
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
    store_examples(options.folder, examples, digest_of(tokenizer))
    require_clean_examples(options, options.folder)
