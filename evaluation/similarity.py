"""How alike two texts are, for tasks without tests."""

from __future__ import annotations

from difflib import SequenceMatcher


def levenshtein(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements of characters that turn one text into the other."""
    if len(first) < len(second):
        first, second = second, first
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (letter != other))
    return row[-1]


def edit_similarity(first: str, second: str) -> float:
    """1 minus the edit distance over the longer length, 0..1; long texts by matching blocks (difflib)."""
    first, second = first.strip(), second.strip()
    longest = max(len(first), len(second))
    if longest == 0:
        return 1.0
    if longest > 2000:
        return SequenceMatcher(None, first, second, autojunk=False).ratio()
    return 1.0 - levenshtein(first, second) / longest
