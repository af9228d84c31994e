"""Keys and values kept from one request to the next, found again by token ids.

A few buffers of fixed capacity; a request takes the one that shares the longest beginning with its prompt, cuts it
there and goes on. The least recently used gives way. Since the decoder is batch invariant, a reused beginning gives the
very numbers that a recomputed one would. Memory is bounded by `buffers * capacity` tokens. Knows no text.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.decoder import Config, KVCache


class PrefixCache:
    """`take` lends a cache; `give` notes what it holds once the request is done."""

    def __init__(self, config: Config, capacity: int, buffers: int = 4):
        self.capacity = capacity
        self._config, self._buffers = config, buffers
        self._held: list[tuple[KVCache, list[int]]] = []  # least recently used first

    def take(self, ids: Sequence[int]) -> tuple[KVCache, int]:
        """A cache that holds a beginning of `ids`, shorter than all of it, and that beginning's length in tokens."""
        shared = [min(common(held, ids), len(ids) - 1) for _, held in self._held]
        best = max(range(len(shared)), key=lambda i: (shared[i], i), default=None)  # the newest of equals
        if best is None:
            return KVCache(self._config, self.capacity), 0
        length, (source, held) = shared[best], self._held[best]
        if 2 * length >= min(len(held), len(ids)) or self._buffers == 1:
            del self._held[best]
            source.truncate(length)
            return source, length
        # Most of what that buffer holds would be lost: it stays, and the beginning is copied to another one.
        full = len(self._held) == self._buffers
        cache = self._held.pop(int(best == 0))[0] if full else KVCache(self._config, self.capacity)
        cache.keys[:, :, :length] = source.keys[:, :, :length]
        cache.values[:, :, :length] = source.values[:, :, :length]
        cache.length = length
        return cache, length

    def give(self, cache: KVCache, ids: Sequence[int]) -> None:
        """Return a cache; `ids` are the tokens whose keys and values it was given, in order."""
        self._held.append((cache, list(ids[: cache.length])))


def common(a: Sequence[object], b: Sequence[object]) -> int:
    """Length of the longest common beginning."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)
