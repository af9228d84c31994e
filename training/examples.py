"""Sequences on disk of which a part is to be learnt: the base's own continuations, edits, answers.

The folder holds `tokens.npy` (all ids in a row), `starts.npy` (where each sequence begins, and the end) and
`firsts.npy` (the position in each from which on the next token is learnt), and `tokenizer.json` (the digest of the
tokenizer that made the ids), which older folders lack. Knows nothing of where they come from.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from model.schema import DiffcoderError
from training.files import reading, save_array, write_atomically
from training.layouts import Sequence

_ARRAYS = (
    "tokens",
    "starts",
    "firsts",
)  # as they are written: the last one's presence marks the folder complete


class Examples:
    """The sequences of a folder that `store` wrote; `command` is what makes one, for who has none."""

    def __init__(self, folder: Path, command: str):
        if not (folder / "firsts.npy").is_file():
            raise DiffcoderError(
                "no_examples", f"{folder} holds no sequences to learn from: make some with `{command}`."
            )
        with reading(folder, f"make it again with `{command}`"):
            self.tokens, self.starts, self.firsts = (np.load(folder / f"{name}.npy") for name in _ARRAYS)
            known = folder / "tokenizer.json"
            self.tokenizer: str | None = json.loads(known.read_bytes()) if known.is_file() else None

    def __len__(self) -> int:
        return len(self.firsts)

    def __getitem__(self, index: int) -> Sequence:
        ids = self.tokens[self.starts[index] : self.starts[index + 1]]
        return Sequence(ids.astype(np.int64), int(self.firsts[index]))

    def __iter__(self) -> Iterator[Sequence]:
        return (self[index] for index in range(len(self)))

    def __add__(self, other: Examples) -> Examples:
        """The sequences of both."""
        both = copy.copy(self)
        both.tokens = np.concatenate([self.tokens, other.tokens])
        both.starts = np.concatenate([self.starts, other.starts[1:] + len(self.tokens)])
        both.firsts = np.concatenate([self.firsts, other.firsts])
        return both

    def draw(self, rng: np.random.Generator) -> Sequence:
        return self[int(rng.integers(len(self)))]


def store(folder: Path, sequences: Iterable[Sequence], tokenizer: str | None = None) -> None:
    """Write a folder that `Examples` reads; there is at least one sequence. `tokenizer`: the digest of its tokenizer."""
    kept = list(sequences)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "tokenizer.json", json.dumps(tokenizer).encode())
    tokens, starts = np.concatenate([s.ids for s in kept]), np.cumsum([0, *(len(s.ids) for s in kept)])
    arrays = tokens.astype(np.uint32), starts, np.array([s.first for s in kept])
    for name, array in zip(_ARRAYS, arrays, strict=True):
        save_array(folder / f"{name}.npy", array)
