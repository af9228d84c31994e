"""Token healing: a text that begins in the middle of a token is asked for from the last token boundary on, and its
first tokens must spell what is already there. Knows bytes and ids, no model.
"""

from __future__ import annotations

from bisect import bisect_left

import torch
from torch import Tensor

from model.tokens import TokenTable


class Spellings:
    """All tokens in the order of their bytes, so that those with a given beginning are one range."""

    def __init__(self, table: TokenTable):
        pairs = sorted((piece, id) for id, piece in enumerate(table.bytes) if piece)
        self._pieces = [piece for piece, _ in pairs]
        self._ids = torch.tensor([id for _, id in pairs])
        self._bytes = table.bytes
        self._exact = {piece: id for piece, id in reversed(pairs)}

    def allowed(self, rest: bytes) -> Tensor:
        """Ids that begin with `rest` or that `rest` begins with."""
        start, end = bisect_left(self._pieces, rest), bisect_left(self._pieces, rest + b"\xff" * 64)
        shorter = [self._exact[rest[:n]] for n in range(1, len(rest)) if rest[:n] in self._exact]
        return torch.cat([self._ids[start:end], torch.tensor(shorter, dtype=torch.long)])

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
