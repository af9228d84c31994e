"""What a command line of `diffcoder train` names, opened and checked: corpus, examples, the base's marks; and that
nothing of it stands in a benchmark."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from model.checkpoints import open_checkpoint
from model.schema import DiffcoderError
from model.tokens import load_tokenizer, special_ids
from training import corpus as corpora
from training import layouts
from training.decontamination import require_clean
from training.examples import Examples
from training.progress import HeldOut


def corpus_of(options: argparse.Namespace) -> corpora.Corpus:
    """The corpus that is named, if its ids are those of the base's tokenizer."""
    corpus = corpora.Corpus(options.corpus)
    tokenizer = corpus.facts.get("tokenizer")
    if tokenizer is not None and tokenizer != digest_of(load_tokenizer(open_checkpoint(options.base))):
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
        fits = examples.tokenizer == digest_of(load_tokenizer(checkpoint))
    if not fits:
        raise DiffcoderError(
            "other_examples",
            f"{folder} was made with another tokenizer than {options.base}'s: make one for this base with"
            f" `diffcoder train {command}`.",
        )
    return examples


def digest_of(tokenizer: Tokenizer) -> str:
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


def decoder_of(base: Path) -> Callable[[list[int]], str]:
    tokenizer = load_tokenizer(open_checkpoint(base))
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))


def require_clean_data(options: argparse.Namespace, corpus: corpora.Corpus) -> None:
    """Of the corpus and of whatever else is learnt from."""
    decode = decoder_of(options.base)

    def documents() -> Iterator[tuple[str, str]]:
        for index, record in enumerate(corpus.records):
            name = f"{record.get('source')}/{record.get('path')}"
            yield name, decode(corpus.document(index).tolist())

    require_clean(corpus.folder, documents, options.benchmarks)
    written = getattr(options, "written", None)
    for folder in [*(getattr(options, "examples", None) or ()), *([written] if written else [])]:
        require_clean_examples(options, folder)


def require_clean_examples(options: argparse.Namespace, folder: Path) -> None:
    examples, decode = Examples(folder, "diffcoder train write"), decoder_of(options.base)

    def texts() -> Iterator[tuple[str, str]]:
        for number, sequence in enumerate(examples):
            yield f"number {number}", decode(sequence.ids.tolist())

    require_clean(folder, texts, options.benchmarks)


def marks_of(base: Path) -> layouts.Marks | None:
    return layouts.marks_of(special_ids(load_tokenizer(open_checkpoint(base))))
