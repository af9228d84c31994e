"""What a repository gives to learn from: a corpus with files held out, and edits out of its history and its functions.

The repository is only read. Knows nothing of models but their tokenizer and the form of their prompts.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from model.profiles import Profile
from model.schema import DiffcoderError
from model.tokens import encode_text
from training import commits, transformations
from training.corpus import Document, Source, walk, write
from training.decontamination import SETS, benchmark_ngrams, sets, shares
from training.edits import Edit, sequences
from training.examples import store

HELD_OUT = 1 / 8  # of the files, by the hash of their paths
LEAST_FILES = 4
MOST_EDITS = 1500  # from the history; as many again may come from transformations


def name_of(repository: Path) -> str:
    """Its folder's name as text, whatever bytes the file system allows."""
    return os.fsencode(repository.name).decode("utf-8", "replace")


def prepare(
    repository: Path, folder: Path, model: str, tokenizer: Tokenizer, profile: Profile, seed: int
) -> None:
    """Write `folder`/corpus and, where there are any, `folder`/edits; the corpus's own file says for which `model`.

    Raises DiffcoderError("empty_corpus").
    """
    left_out: Counter[str] = Counter()
    contaminated, checked = _contaminated()
    source = Source(name_of(repository), repository, "the repository's own")
    documents = list(walk([source], contaminated, left_out))
    if len(documents) < LEAST_FILES:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if "(" not in reason)
        raise DiffcoderError(
            "empty_corpus",
            f"{repository} has {len(documents)} source files to learn from, and {LEAST_FILES} are"
            f" needed (left out: {reasons or 'none'}).",
        )
    held = _held_out(documents)
    learnt = [document for document in documents if document.path not in held]
    unread = _unread(repository)
    if unread not in (None, commits.NO_HISTORY):  # there may be one, and nobody would miss its edits
        left_out[f"history: {unread}"] += 1
    edits = _edits(repository, learnt, contaminated, left_out, seed, history=unread is None)
    examples = list(sequences(edits, profile, tokenizer))
    if examples:
        store(folder / "edits", examples)
    settings: dict[str, object] = {
        "repository": name_of(repository),
        "model": model,
        "benchmarks": checked,
        "history": "read" if unread is None else f"not read: {unread}",
        "edits": dict(Counter(edit.origin.split()[0] for edit in edits)) | {"that fit": len(examples)},
    }
    write(
        folder / "corpus",
        documents,
        lambda text: encode_text(tokenizer, text),
        settings,
        left_out,
        lambda document: "file" if document.path in held else None,
    )


def _unread(repository: Path) -> str | None:
    """Why its history is not read, without the machine's path to it; None where it is."""
    reason = commits.obstacle(repository)
    return None if reason is None else reason.replace(f"{repository.parent}{os.sep}", "")


def _edits(
    repository: Path,
    documents: list[Document],
    contaminated: Callable[[str], bool],
    left_out: Counter[str],
    seed: int,
    *,
    history: bool,
) -> list[Edit]:
    """From the history of these files, and made out of them."""
    found: list[Edit] = []
    paths = {document.path for document in documents}
    if history:
        for edit in commits.edits(repository, paths.__contains__, contaminated, left_out):
            found.append(edit)
            if len(found) == MOST_EDITS:
                break
    made = list(transformations.of_documents(documents, seed))
    order = np.random.default_rng(seed).permutation(len(made))
    return found + [made[index] for index in order[: max(len(found), MOST_EDITS // 4)]]


def _held_out(documents: Iterable[Document]) -> frozenset[str]:
    """The paths of the files to hold out: an eighth, by the hash of their paths, at least one."""
    paths = sorted((d.path for d in documents), key=lambda path: hashlib.sha256(path.encode()).hexdigest())
    return frozenset(paths[: max(1, round(len(paths) * HELD_OUT))])


def _contaminated() -> tuple[Callable[[str], bool], str]:
    """Whether a text stands in a benchmark, as far as the sets are here, and what a report says of it."""
    if not os.environ.get(SETS):
        return lambda text: False, f"not checked: {SETS} is not set"
    files = sets(None)
    return partial(shares, benchmark_ngrams(files)), f"checked against {len(files)} files"
