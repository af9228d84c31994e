"""Files that were seen before, or nearly: exact copies by hash, near ones by MinHash over runs of five words.

A near duplicate shares about four fifths of its runs with an earlier file (datasketch's LSH). Without this a held-out
file may have its twin in training.
"""

from __future__ import annotations

import hashlib
import re

from datasketch import MinHash, MinHashLSH

_WORD = re.compile(r"\w+")
_RUN, _SIMILAR, _PERMUTATIONS = 5, 0.8, 64


class Duplicates:
    """Remembers every text that it let through."""

    def __init__(self) -> None:
        self._exact: set[bytes] = set()
        self._near = MinHashLSH(threshold=_SIMILAR, num_perm=_PERMUTATIONS)

    def reason(self, text: str) -> str | None:
        """Why the text is none to keep; a text without a reason is remembered."""
        digest = hashlib.sha256(text.encode()).digest()
        if digest in self._exact:
            return "exact duplicate"
        words = _WORD.findall(text)
        runs = {" ".join(words[n : n + _RUN]).encode() for n in range(max(1, len(words) - _RUN + 1))}
        sketch = MinHash(num_perm=_PERMUTATIONS)
        sketch.update_batch(list(runs))
        if self._near.query(sketch):
            return "near duplicate"
        self._exact.add(digest)
        self._near.insert(digest.hex(), sketch)
        return None
