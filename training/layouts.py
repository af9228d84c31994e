"""From a document's token ids to a training sequence: left to right, or infill with the suffix first.

Infill is `PRE SUF suffix MID prefix|middle END`: the gap continues its prefix without a seam, so noisy
blocks may lie over prefix and gap alike. Knows nothing of masks or of noise. A sequence says from which
position on blocks may start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.schema import DiffcoderError

Ids = NDArray[np.integer]
ENDS = 4  # end tokens behind a sequence in the infill layout, where a drafter is to learn them
_FIRST = 8  # tokens of context that the first block has


@dataclass(frozen=True)
class Marks:
    """A family's special tokens for infill."""

    prefix: int
    suffix: int
    middle: int
    end: int


QWEN = Marks(prefix=151659, suffix=151661, middle=151660, end=151643)


def marks_of(ids: Mapping[str, int]) -> Marks | None:
    """A tokenizer's marks in Qwen's spelling, by its special tokens' ids; None where it lacks one."""
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|endoftext|>")
    return Marks(*(ids[name] for name in names)) if all(name in ids for name in names) else None


def require_marks(infill: float, marks: Marks | None) -> None:
    """Refuse a share of infill where the base has no marks for it."""
    if infill and marks is None:
        raise DiffcoderError("bad_recipe", "This base has no marks for infill: set infill = 0 in the recipe.")


@dataclass(frozen=True)
class Sequence:
    """Clean ids, and the first position that may be the anchor of a noisy block."""

    ids: Ids
    first: int


def left_to_right(rng: np.random.Generator, document: Ids, length: int) -> Sequence:
    """A window of at most `length` tokens; one in four starts where the document does."""
    start = 0 if rng.random() < 0.25 else int(rng.integers(max(1, len(document) - length // 2)))
    return Sequence(np.asarray(document[start : start + length], dtype=np.int64), _FIRST)


def infill(rng: np.random.Generator, document: Ids, length: int, marks: Marks, ends: int) -> Sequence:
    """Suffix first, at most a third of the sequence; then prefix and gap in one run, then `ends` end
    tokens.
    """
    window = left_to_right(rng, document, length - 3 - ends).ids
    return turned(rng, window, length // 3, marks, ends)


def turned(rng: np.random.Generator, window: Ids, most: int, marks: Marks, ends: int) -> Sequence:
    """A window with a suffix of less than `most` tokens, and of at most a third of it, put first."""
    window = np.asarray(window, dtype=np.int64)
    after = min(int(rng.integers(8, max(9, most))), len(window) // 3)
    cut = len(window) - after
    opening, closing = np.array([marks.prefix, marks.suffix]), np.full(ends, marks.end)
    ids = np.concatenate([opening, window[cut:], [marks.middle], window[:cut], closing])
    return Sequence(ids.astype(np.int64), after + 3 + 4)


def least_learnt(length: int, ends: int | None) -> int:
    """Tokens from `first` on, at least, of a sequence as long as asked for: left to right, or infilled with `ends`."""
    if ends is None:
        return length - _FIRST
    after = min(max(9, length // 3) - 1, (length - 3 - ends) // 3)
    return min(length - _FIRST, length - after - 3 - 4)


def as_ids(values: Ids) -> Tensor:
    """For indexing in torch."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))
