"""Documents joined into sequences of one length, each exactly once an epoch.

After every document stand 1 to 4 end tokens, so that a model learns to end a text and to go on ending it (a block
may be longer than what is left to say). The order is a permutation of its own for each epoch; sequence `index` is found
without reading those before it, so a resumed run needs to remember a number only. Knows nothing of noise.

Shape suffixes: L tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
_OPEN = 64  # sequences that a document may still join


@dataclass(frozen=True)
class Pack:
    """`documents_L` numbers the documents of this sequence from 0, for masks that keep them apart. `learnt_L` is False
    in prompts and behind the last document: they are never masked, nor predicted."""

    ids_L: Ints
    documents_L: Ints
    learnt_L: NDArray[np.bool_]


class Packing:
    """One document behind the other: one that does not fit goes on in the next sequence.

    `read(n)` gives the ids of document n; `lengths`, known beforehand, are their numbers of tokens.
    """

    def __init__(
        self,
        read: Callable[[int], Ints],
        lengths: Ints,
        length: int,
        end: int,
        seed: int,
        most_ends: int = 4,
    ):
        self.read, self.length, self.end, self.seed = read, length, end, seed
        self.ends = np.random.default_rng([seed, 0]).integers(1, most_ends + 1, len(lengths))
        self.sizes = np.asarray(lengths) + self.ends
        self.total = int(self.sizes.sum())

    @lru_cache(maxsize=2)  # noqa: B019  (one packing lives as long as its run)
    def _epoch(self, epoch: int) -> tuple[Ints, Ints]:
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.sizes))
        return order, np.concatenate([[0], np.cumsum(self.sizes[order])])

    def __getitem__(self, index: int) -> Pack:
        ids, documents = [], []
        at, wanted, count = index * self.length, self.length, 0
        while wanted:
            epoch, offset = divmod(at, self.total)
            order, starts = self._epoch(epoch)
            place = int(np.searchsorted(starts, offset, side="right")) - 1
            number = int(order[place])
            whole = np.concatenate([self.read(number), np.full(self.ends[number], self.end)])
            begin = offset - starts[place]
            piece = whole[begin:][:wanted]
            ids.append(piece)
            documents.append(np.full(len(piece), count))
            at, wanted, count = at + len(piece), wanted - len(piece), count + 1
        ids_L = np.concatenate(ids).astype(np.int64)
        return Pack(ids_L, np.concatenate(documents), np.ones(len(ids_L), dtype=np.bool_))


class WholePacking:
    """Documents that are never cut, so that no answer stands without its prompt: one that does not fit begins another
    sequence. What is left of one is filled with end tokens, as a document that is not learnt; a document longer than a
    sequence loses its end. Which documents stand together is drawn once.

    `prompts` are the numbers of tokens of the documents' prompts.
    """

    def __init__(
        self,
        read: Callable[[int], Ints],
        lengths: Ints,
        prompts: Ints,
        length: int,
        end: int,
        seed: int,
        most_ends: int = 4,
    ):
        self.read, self.prompts, self.length, self.end, self.seed = read, prompts, length, end, seed
        rng = np.random.default_rng([seed, 0])
        self.ends = rng.integers(1, most_ends + 1, len(lengths))
        self.packs: list[list[int]] = []
        room: list[int] = []
        for number in rng.permutation(len(lengths)).tolist():
            size = min(length, int(lengths[number] + self.ends[number]))
            fits = (index for index in range(max(0, len(room) - _OPEN), len(room)) if room[index] >= size)
            index = next(fits, len(room))
            if index == len(room):
                self.packs.append([])
                room.append(length)
            self.packs[index].append(number)
            room[index] -= size

    def __getitem__(self, index: int) -> Pack:
        epoch, place = divmod(index, len(self.packs))
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.packs))
        pieces, learnt = [], []
        for number in self.packs[order[place]]:
            whole = np.concatenate([self.read(number), np.full(self.ends[number], self.end)])[: self.length]
            pieces.append(whole)
            learnt.append(np.arange(len(whole)) >= self.prompts[number])
        if left := self.length - sum(map(len, pieces)):
            pieces.append(np.full(left, self.end))
            learnt.append(np.zeros(left, dtype=np.bool_))
        documents_L = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
        return Pack(np.concatenate(pieces).astype(np.int64), documents_L, np.concatenate(learnt))
