"""What a benchmark is to this package: items, a request for the model, a verdict on its answer.

One subclass a benchmark, in a file of its own. A task knows its data's published format, its harness's
prompts and stop rules and how an answer is scored; it knows nothing of models, of runs or of the command
line.
"""

from __future__ import annotations

import ast
import functools
import gzip
import importlib.util
import json
import os
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from evaluation.sandbox import Sandbox
from evaluation.verdicts import Verdict
from model.schema import DiffcoderError, EditRequest, FillRequest

if TYPE_CHECKING:
    from model.generator import Generator

EVALS = "DIFFCODER_EVALS"
Style = Literal["completion", "chat"]


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """A request in the model's own chat layout: what the user says, and how the answer begins.

    `stop` ends the answer; `opening` is text of the assistant's turn that is given, not generated.
    """

    user: str
    opening: str = ""
    system: str | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 512


class Continuation(msgspec.Struct, frozen=True, kw_only=True):
    """A request to write on after `prompt`, with no marks and no rules but these: as harnesses ask base models."""

    prompt: str
    stop: tuple[str, ...] = ()
    max_tokens: int = 512


Request = FillRequest | EditRequest | Chat | Continuation


class Item(msgspec.Struct, frozen=True):
    """One problem: its id, unique in the task, and its row as published."""

    id: str
    row: dict[str, Any]


class Control(msgspec.Struct, frozen=True):
    """A known answer for the self-check. `passes` is what the scorer must say; None where it varies by
    item."""

    kind: str
    completion: str
    passes: bool | None


class Task:
    """A benchmark. `files` lie in the evaluation data folder (the first is needed); `origin` says where
    they are published; `completion` says what an answer to score must contain."""

    name: str
    title: str
    files: tuple[str, ...] = ()
    origin: str = ""
    completion: str = "the text that continues the prompt"
    styles: tuple[Style, ...] = ("completion",)
    by_path: bool = False  # the data is not in the usual folder: it needs --data
    group: str = ""  # what a user may name to mean all tasks of a family

    def items(self, data: Path | None = None) -> list[Item]:
        """All problems, in the order of the file. Raises DiffcoderError for missing or damaged data."""
        raise NotImplementedError

    def kin(self, item: Item) -> str:
        """Problems that follow each other with the same one have prompts that begin alike."""
        return item.id

    def request(self, item: Item, style: Style) -> Request:
        raise NotImplementedError

    def extract(self, item: Item, text: str, style: Style) -> str:
        """The completion in a model's text."""
        return text

    def score(self, item: Item, completion: str, sandbox: Sandbox) -> Verdict:
        raise NotImplementedError

    def controls(self, item: Item) -> Iterable[Control]:
        return ()

    def unavailable(self) -> str | None:
        """Why nothing can be scored on this machine (a toolchain, a library), or None."""
        return None

    def missing(self, item: Item) -> str | None:
        """What this one problem needs and this environment lacks (libraries), or None."""
        return None

    def measures(self, item: Item, completion: str, verdict: Verdict, sandbox: Sandbox) -> dict[str, float]:
        """Figures of an answer besides its verdict, such as edit similarity."""
        return {}

    def model_measures(self, model: Generator, item: Item) -> dict[str, float]:
        """Figures that need the model itself, such as bits of the true text. Taken once a problem."""
        return {}


def data_file(name: str, data: Path | None, origin: str) -> Path:
    """The path of a benchmark's file: `data` itself, in it, or in the folder that DIFFCODER_EVALS names."""
    if data is not None:
        if data.is_file():
            return data
        for place in (data / name, data / Path(name).name):
            if place.is_file():
                return place
        raise DiffcoderError(
            "data_missing", f"There is no {Path(name).name} at {data}; it comes from {origin}."
        )
    folder = os.environ.get(EVALS)
    if not folder:
        raise DiffcoderError(
            "data_missing",
            f"The data of this benchmark ({name}, from {origin}) is needed: give its path with --data, or "
            f"the folder of all evaluation data in {EVALS}.",
        )
    place = Path(folder) / name
    if not place.is_file():
        raise DiffcoderError(
            "data_missing",
            f"There is no {name} in {folder} ({EVALS}); it comes from {origin}, or give --data.",
        )
    return place


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl or .json file (a list, or an object of rows), gzipped or not."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        text = raw.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DiffcoderError("data_damaged", f"{path} cannot be read ({error}); fetch it again.") from error
    name = path.name.removesuffix(".gz")
    rows: list[dict[str, Any]] = []
    number = 0
    try:
        if name.endswith(".json"):
            whole = json.loads(text)
            rows = list(whole.values()) if isinstance(whole, dict) else whole
        else:
            # not splitlines(): a JSON string may hold other line separators
            for line in text.split("\n"):
                number += 1
                if line.strip():
                    rows.append(json.loads(line))
    except ValueError as error:
        where = "" if name.endswith(".json") else f" at line {number}"
        raise DiffcoderError(
            "data_damaged", f"{path} is no valid JSON{where} ({error}); fetch it again."
        ) from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DiffcoderError("data_damaged", f"{path} holds no rows; fetch it again.")
    return rows


def field(row: dict[str, Any], name: str, path: Path) -> Any:
    if name not in row:
        raise DiffcoderError("data_damaged", f"A row of {path} has no {name!r}: is it the published file?")
    return row[name]


def to_items(rows: list[dict[str, Any]], path: Path, *, key: str, needs: Iterable[str]) -> list[Item]:
    """Rows as items named by `key`, each with the fields it `needs`."""
    needed = [key, *needs]
    for row in rows:
        for name in needed:
            field(row, name, path)
    items = [Item(str(row[key]), row) for row in rows]
    if len({item.id for item in items}) != len(items):
        raise DiffcoderError("data_damaged", f"{path} names a problem twice; fetch it again.")
    return items


def absent(modules: Iterable[str]) -> str | None:
    """The first modules of these that cannot be imported here, as a sentence's end; None where all can."""
    lacking = sorted({name for name in modules if not importable(name.split(".")[0])})
    return f"needs {', '.join(lacking)}, not installed" if lacking else None


def imports(source: str) -> set[str]:
    """The top-level modules that Python source imports, wherever it does; none where it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escape sequences in a benchmark's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@functools.cache
def importable(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def cut_at(text: str, stops: Iterable[str]) -> str:
    """`text` up to the first of the stop strings."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


def fenced(text: str) -> str:
    """The first Markdown code block of a text; the text itself where there is none."""
    lines, inside = text.split("\n"), False
    block: list[str] = []
    for line in lines:
        if line.lstrip().startswith("```"):
            if inside:
                return "\n".join(block) + "\n"
            inside = True
        elif inside:
            block.append(line)
    return "\n".join(block) + "\n" if inside else text
