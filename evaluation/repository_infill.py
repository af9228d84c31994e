"""Held-out repository infill, our own: gaps of five kinds in the files of a folder that no model here was
trained on.

Gaps are chosen by a hash of path and place, so the same folder gives the same gaps everywhere. Without
tests, an answer is right when it equals the text that stood there, white space at line ends apart; edit
similarity and the model's bits for the true text go with it. Bits are per token and per byte: only the
latter compare across tokenizers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evaluation.sandbox import Sandbox
from evaluation.similarity import edit_similarity
from evaluation.task import Control, Item, Request, Style, Task
from evaluation.verdicts import Verdict
from model.schema import DiffcoderError, FillRequest, ScoreRequest
from model.schema import Limits as Budget

if TYPE_CHECKING:
    from model.generator import Generator

_SUFFIXES = {
    "python": ".py .pyi",
    "javascript": ".js .mjs .cjs .jsx",
    "typescript": ".ts .mts .cts .tsx",
    "java": ".java",
    "rust": ".rs",
    "c": ".c",
    "cpp": ".cpp .cc .cxx .hpp .hh .hxx .h",
    "go": ".go",
    "bash": ".sh",
    "lua": ".lua",
}
SUFFIXES = {suffix: language for language, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
KINDS = ("line", "line end", "lines", "span", "block")
MOST_BYTES = 200_000


class RepositoryInfill(Task):
    name = "repository-infill"
    title = "Held-out repository infill (exact match)"
    origin = "any folder of source files that is not training data"
    completion = "the text of the gap"
    by_path = True

    def items(self, data: Path | None = None) -> list[Item]:
        if data is None or not data.is_dir():
            raise DiffcoderError("data_missing", "Give a folder of source files with --data.")
        found = [item for path in sources(data) for item in gaps(data, path)]
        if not found:
            raise DiffcoderError("data_damaged", f"{data} has no source files of 20 lines or more.")
        return found

    def kin(self, item: Item) -> str:
        return item.id.partition(":")[0]  # the file

    def request(self, item: Item, style: Style) -> Request:
        row = item.row
        limits = Budget(max_tokens=256, single_line=row["kind"] in ("line", "line end"))
        return FillRequest(
            prefix=row["prefix"], suffix=row["suffix"], language=row["language"], limits=limits
        )

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        passed = lines(completion) == lines(item.row["gap"])
        return Verdict(passed, "passed" if passed else "another text", 0.0)

    def measures(self, item: Item, completion: str, verdict: Verdict, sandbox: Sandbox) -> dict[str, float]:
        gap = item.row["gap"]
        return {
            "edit_similarity": edit_similarity(completion, gap),
            "gap_lines": float(len(gap.strip("\n").split("\n"))),
            "gap_characters": float(len(gap)),
        }

    def model_measures(self, model: Generator, item: Item) -> dict[str, float]:
        """Bits of the true text, as the model's autoregressive side (or, without one, its diffusion side)
        sees it."""
        row = item.row
        mode: Literal["ar", "diffusion"] = "ar" if model.network.speaks_ar else "diffusion"
        request = ScoreRequest(text=row["gap"], prefix=row["prefix"], suffix=row["suffix"], mode=mode)
        scores = model.score(request).tokens
        bits = -math.fsum(token.logprob for token in scores) / math.log(2)
        return {"bits_per_token": bits / len(scores), "bits_per_byte": bits / len(row["gap"].encode())}

    def controls(self, item: Item) -> Iterable[Control]:
        yield Control("true text", item.row["gap"], True)
        yield Control("empty", "", False)


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").split("\n")]


def sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in SUFFIXES and not hidden and path.is_file() and path.stat().st_size <= MOST_BYTES:
            yield path


def draw(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6], "big")


def gaps(folder: Path, path: Path) -> Iterator[Item]:
    """One gap of each kind that fits the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    rows = text.split("\n")
    name = str(path.relative_to(folder))
    if len(rows) < 20:
        return
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row) + 1)
    full = [number for number, row in enumerate(rows[:-8]) if len(row.strip()) >= 8]
    if not full:
        return
    for kind in KINDS:
        at = full[draw(name, kind) % len(full)]
        size = {"lines": 2 + draw(name, kind, "n") % 4, "block": block_length(rows, at)}.get(kind, 1)
        start, end = starts[at], starts[at + size] - (kind == "line end")
        if kind == "line end":
            start += len(rows[at]) - len(rows[at].lstrip()) + len(rows[at].strip()) // 2
        elif kind == "span":
            start += draw(name, kind, "s") % len(rows[at])
            end = start + 5 + draw(name, kind, "e") % 120
        gap = text[start:end]
        if len(gap.strip()) >= 3:
            around = {"prefix": text[:start], "gap": gap, "suffix": text[end:]}
            fields = around | {"kind": kind, "language": SUFFIXES[path.suffix]}
            yield Item(f"{name}:{at + 1}:{kind}", fields)


def block_length(rows: list[str], at: int) -> int:
    """Lines from `at` that stand as deep as it does or deeper, 8 at most."""
    depth = len(rows[at]) - len(rows[at].lstrip())
    count = 1
    while count < 8 and at + count < len(rows) - 1:
        row = rows[at + count]
        if row.strip() and len(row) - len(row.lstrip()) < depth:
            break
        count += 1
    return count
