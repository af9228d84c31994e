"""Documents joined into sequences of one length, each token exactly once an epoch.

After every document stand 1 to 4 end tokens, so that a model learns to end a text and to go on ending it (a block
may be longer than what is left to say). A document that does not fit goes on in the next sequence. The order is a
permutation of its own for each epoch; sequence `index` is found without reading those before it, so a resumed run
needs to remember a number only. Knows nothing of noise.

Shape suffixes: L tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]


@dataclass(frozen=True)
class Pack:
    """`documents_L` numbers the documents of this sequence from 0, for masks that keep them apart. `learnt_L` is False
    in prompts: they are never masked, nor predicted."""

    ids_L: Ints
    documents_L: Ints
    learnt_L: NDArray[np.bool_]


class Packing:
    """`read(n)` gives the ids of document n; `lengths` are their lengths and `prompts` those of their prompts (default:
    none), known beforehand."""

    def __init__(
        self,
        read: Callable[[int], Ints],
        lengths: Ints,
        length: int,
        end: int,
        seed: int,
        most_ends: int = 4,
        prompts: Ints | None = None,
    ):
        self.read, self.length, self.end, self.seed = read, length, end, seed
        self.prompts = np.zeros(len(lengths), dtype=np.int64) if prompts is None else prompts
        self.ends = np.random.default_rng([seed, 0]).integers(1, most_ends + 1, len(lengths))
        self.sizes = np.asarray(lengths) + self.ends
        self.total = int(self.sizes.sum())

    @lru_cache(maxsize=2)  # noqa: B019  (one packing lives as long as its run)
    def _epoch(self, epoch: int) -> tuple[Ints, Ints]:
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.sizes))
        return order, np.concatenate([[0], np.cumsum(self.sizes[order])])

    def __getitem__(self, index: int) -> Pack:
        ids, documents, learnt = [], [], []
        at, wanted, count = index * self.length, self.length, 0
        while wanted:
            epoch, offset = divmod(at, self.total)
            order, starts = self._epoch(epoch)
            place = int(np.searchsorted(starts, offset, side="right")) - 1
            number = int(order[place])
            whole = np.concatenate([self.read(number), np.full(self.ends[number], self.end)])
            begin = offset - starts[place]
            piece = whole[begin:][:wanted]
            learnt.append(np.arange(begin, begin + len(piece)) >= self.prompts[number])
            ids.append(piece)
            documents.append(np.full(len(piece), count))
            at, wanted, count = at + len(piece), wanted - len(piece), count + 1
        return Pack(np.concatenate(ids).astype(np.int64), np.concatenate(documents), np.concatenate(learnt))
