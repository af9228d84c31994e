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
        best = max(range(len(shared)), key=lambda i: shared[i], default=None)
        if best is not None and shared[best] * 2 >= min(len(self._held[best][1]), len(ids)):
            cache, _ = self._held.pop(best)
            cache.truncate(shared[best])
            return cache, shared[best]
        if len(self._held) < self._buffers:
            cache = KVCache(self._config, self.capacity)
        else:
            at = 0 if best != 0 or shared[best] == 0 or len(self._held) == 1 else 1
            cache, _ = self._held.pop(at)
            if best is not None:
                best = None if best == at else best - (at < best)
        cache.length = 0
        if best is None or not shared[best]:
            return cache, 0
        length = max(shared)
        cache.keys[:, :, :length] = self._held[best][0].keys[:, :, :length]
        cache.values[:, :, :length] = self._held[best][0].values[:, :, :length]
        cache.keep(length)
        return cache, length

    def give(self, cache: KVCache, ids: Sequence[int]) -> None:
        """Return a cache; `ids` are the tokens whose keys and values it was given, in order."""
        self._held.append((cache, list(ids[: cache.length])))


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)
