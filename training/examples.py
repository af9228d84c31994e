"""Sequences on disk of which a part is to be learnt: the base's own continuations, edits, answers.

The folder holds `tokens.npy` (all ids in a row), `starts.npy` (where each sequence begins, and the end) and
`firsts.npy` (the position in each from which on the next token is learnt). Knows nothing of where they come from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from model.schema import DiffcoderError
from training.layouts import Sequence


class Examples:
    """The sequences of a folder that `store` wrote; `command` is what makes one, for who has none."""

    def __init__(self, folder: Path, command: str):
        if not (folder / "firsts.npy").is_file():
            raise DiffcoderError(
                "no_examples", f"{folder} holds no sequences to learn from: make some with `{command}`."
            )
        self.tokens, self.starts = np.load(folder / "tokens.npy"), np.load(folder / "starts.npy")
        self.firsts = np.load(folder / "firsts.npy")

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


def store(folder: Path, sequences: Iterable[Sequence]) -> None:
    """Write a folder that `Examples` reads; there is at least one sequence."""
    kept = list(sequences)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", np.concatenate([s.ids for s in kept]).astype(np.uint32))
    np.save(folder / "starts.npy", np.cumsum([0, *(len(s.ids) for s in kept)]))
    np.save(
        folder / "firsts.npy", np.array([s.first for s in kept])
    )  # last: its presence marks the folder complete
