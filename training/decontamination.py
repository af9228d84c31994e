"""No training on the benchmarks: 13 words in a row that also stand in one of their sets keep a file out.

Words are runs of letters, digits and underscores, lower case; punctuation and layout do not count. The check runs when
a corpus, edits or continuations are made and, as `decontaminated.json` in their folder remembers, once more for every
such folder and collection of sets before anything trains on it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from model.schema import DiffcoderError
from training.files import read_json, write_atomically

WORDS = 13
SETS = "DIFFCODER_EVALS"
_MARKER = "decontaminated.json"
_WORD = re.compile(r"\w+")
_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")


def ngrams(text: str) -> Iterator[int]:
    """Hashes of every run of 13 words; the same within one process only."""
    words = _WORD.findall(text.lower())
    for start in range(len(words) - WORDS + 1):
        yield hash(tuple(words[start : start + WORDS]))


def sets(folder: Path | None) -> list[Path]:
    """The files of the benchmark sets in `folder`, or in the folder that DIFFCODER_EVALS names."""
    place = folder or (Path(os.environ[SETS]) if os.environ.get(SETS) else None)
    paths = [] if place is None else place.rglob("*")
    found = [path for path in paths if path.name.endswith(_ENDINGS) and path.is_file()]
    if not found:
        where = f"in {place}" if place is not None else f"here: {SETS} is not set"
        raise DiffcoderError(
            "no_benchmarks",
            f"There are no benchmark sets {where}; set {SETS} to their folder, or name it to `diffcoder train` with"
            " --benchmarks.",
        )
    return sorted(found)


def benchmark_ngrams(files: list[Path]) -> frozenset[int]:
    """The 13-grams of every string of the sets."""
    grams: set[int] = set()
    for file in files:
        try:
            data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            lines = [line for line in data.splitlines() if line.strip()] if ".jsonl" in file.name else [data]
            for row in map(json.loads, lines):
                for text in _strings(row):
                    grams.update(ngrams(text))
        except (EOFError, OSError, ValueError, zlib.error) as error:
            raise DiffcoderError(
                "bad_benchmarks", f"{file} cannot be read ({error}): fetch it again."
            ) from error
    return frozenset(grams)


def shares(grams: frozenset[int], text: str) -> bool:
    """Whether a text has 13 words in a row in common with the benchmarks that `grams` are of."""
    return not grams.isdisjoint(ngrams(text))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def require_clean(
    folder: Path, texts: Callable[[], Iterator[tuple[str, str]]], benchmarks: Path | None = None
) -> None:
    """Refuse a folder of token ids (a corpus, examples) that shares text with a benchmark, or that nothing can be said
    of. `texts` gives each text with a name for it.

    A folder that was found clean of the same sets is not read again; without any sets here, what was found stands.
    """
    marker = folder / _MARKER
    again = "remove it, and the check is run again"
    known = read_json(marker, dict[str, Any], again) if marker.is_file() else {}
    if known.get("corpus") == _stamp(folder) and benchmarks is None and not os.environ.get(SETS):
        return
    files = sets(benchmarks)
    if known == _state(folder, files):
        return
    grams = benchmark_ngrams(files)
    found = [name for name, text in texts() if shares(grams, text)]
    if found:
        raise DiffcoderError(
            "contaminated",
            f"{len(found)} texts in {folder} share {WORDS} words in a row with a benchmark, the first is {found[0]}:"
            " make them again with these sets.",
        )
    remember(folder, files)


def remember(folder: Path, files: list[Path]) -> None:
    """Note that all of a folder was found clean of these sets."""
    write_atomically(folder / _MARKER, json.dumps(_state(folder, files)).encode())


def _state(folder: Path, files: list[Path]) -> dict[str, object]:
    names = [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    return {"corpus": _stamp(folder), "sets": names}


def _stamp(folder: Path) -> list[int]:
    status = (folder / "tokens.npy").stat()
    return [status.st_size, status.st_mtime_ns]
