"""Token healing: a text that begins in the middle of a token is asked for from the last token boundary on, and its
first tokens must spell what is already there. Knows bytes and ids, no model.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import torch
from torch import Tensor

from model.tokens import TokenTable


class Spellings:
    """All tokens in the order of their bytes, so that those with a given beginning are one range."""

    def __init__(self, table: TokenTable):
        self._bytes = table.bytes
        self._order = sorted(
            (id for id, piece in enumerate(table.bytes) if piece), key=table.bytes.__getitem__
        )

    def allowed(self, rest: bytes) -> Tensor:
        """Ids that begin with `rest` or that `rest` begins with."""
        found = self._range(rest, len(rest))
        for n in range(1, len(rest)):
            found += self._range(rest[:n], n + 1)
        return torch.tensor(found)

    def _range(self, piece: bytes, length: int) -> list[int]:
        """Ids of the tokens whose first `length` bytes are `piece`."""
        start = bisect_left(self._order, piece, key=self._bytes.__getitem__)
        end = bisect_right(self._order, piece, start, key=lambda id: self._bytes[id][:length])
        return self._order[start:end]

    def bytes_of(self, token: int) -> bytes:
        return self._bytes[token]


class Healing:
    """A sampler constraint: the text must begin with `typed`."""

    def __init__(self, spellings: Spellings, typed: bytes):
        self._spellings, self._rest = spellings, typed

    def allowed(self) -> Tensor | None:
        return self._spellings.allowed(self._rest) if self._rest else None

    def advance(self, token: int) -> None:
        self._rest = self._rest[len(self._spellings.bytes_of(token)) :]
