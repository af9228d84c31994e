"""A run on disk: settings, every completion, every verdict, as JSON lines that survive an interruption.

A run is a folder with run.json, completions.jsonl and verdicts.jsonl. Lines are appended and flushed one by
one; a line that a crash tore is dropped when the run goes on. Knows nothing of models or of sandboxes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import msgspec

from evaluation.task import Item
from model.disk import cache_folder
from model.schema import DiffcoderError

Planning = Literal["reference", "measured", "none"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What was run. Two runs with equal settings give equal completions on one machine; unless the plan is measured, in
    equally many forwards.
    """

    task: str
    model: str = "default"
    form: str = "int8"
    adapter: str | None = None
    plan: Planning = "reference"
    verify: str | None = None
    rule: str | None = None
    threshold: float | None = None
    style: str = "completion"
    temperature: float = 0.0
    samples: int = 1
    max_tokens: int | None = None
    limit: int | None = None
    seed: int = 0

    def label(self) -> str:
        """A short name that tells runs of a task apart."""
        parts = [self.model.replace("/", "_")]
        if self.form != "int8":
            parts.append(self.form)
        if self.adapter is not None:
            parts.append(f"adapter-{Path(self.adapter).stem}")
        if self.plan != "reference":
            parts.append(f"plan-{self.plan}")
        if self.verify:
            parts.append(f"verify-{self.verify}")
        if self.rule:
            parts.append(self.rule + ("" if self.threshold is None else f"-{self.threshold:g}"))
        if self.style != "completion":
            parts.append(self.style)
        if self.temperature:
            parts.append(f"t{self.temperature:g}-n{self.samples}")
        if self.max_tokens is not None:
            parts.append(f"max{self.max_tokens}")
        if self.limit is not None:
            parts.append(f"first{self.limit}")
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a model. `text` is as it came, `completion` as it is scored; `forwards` are those that wrote it,
    the prompt's are not among them; ms are the model's, and say little of one answer where `batch` is above 1;
    `measures` is what the model says of the true text."""

    task_id: str
    sample: int
    completion: str
    text: str
    tokens: int
    forwards: int
    ms: float
    prefill_ms: float
    prefill_tokens: int
    stop_reason: str
    confidence: float
    batch: int = 1
    measures: dict[str, float] = {}


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict; `measures` holds what a task reports besides."""

    task_id: str
    sample: int
    passed: bool
    reason: str
    seconds: float
    measures: dict[str, float] = {}


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """run.json: the settings and the circumstances. `data` is a digest of the problems."""

    settings: Settings
    version: str
    machine: str
    threads: int
    started: str
    items: int
    data: str = ""


def seed_of(seed: int, task_id: str, sample: int) -> int:
    """The seed of one sample: the same whatever else is run, in whatever order."""
    digest = hashlib.sha256(f"{seed}/{task_id}/{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def chosen(ids: Iterable[str], limit: int | None) -> list[str]:
    """A fixed pseudo-random choice of `limit` ids; a smaller choice is part of a larger one. Order kept."""
    everything = list(ids)
    if limit is None or limit >= len(everything):
        return everything
    kept = set(ranked(everything)[:limit])
    return [name for name in everything if name in kept]


def ranked(ids: Iterable[str]) -> list[str]:
    """The ids in a fixed pseudo-random order, whatever order they come in."""
    return sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())


def digest(items: Iterable[Item]) -> str:
    """A short name of the problems, in whatever order."""
    found = hashlib.sha256()
    for item in sorted(items, key=lambda item: item.id):
        found.update(msgspec.json.encode([item.id, item.row], order="deterministic"))
    return found.hexdigest()[:16]


class Run:
    """A run's folder. Raises DiffcoderError where the disk refuses or the files are not of one run."""

    def __init__(self, folder: Path, facts: Facts):
        self.folder, self.facts = folder, facts
        self._adding = threading.Lock()

    @property
    def settings(self) -> Settings:
        return self.facts.settings

    @classmethod
    def open(cls, folder: Path) -> Run:
        try:
            return cls(folder, msgspec.json.decode((folder / "run.json").read_bytes(), type=Facts))
        except FileNotFoundError:
            raise DiffcoderError("no_run", f"There is no run in {folder}: it has no run.json.") from None
        except (msgspec.DecodeError, OSError) as error:
            raise DiffcoderError("bad_run", f"{folder}/run.json cannot be read ({error}).") from error

    @classmethod
    def start(cls, folder: Path, facts: Facts, resume: bool) -> Run:
        """A new run, or the old one where `resume` is set and its settings are the same."""
        if (folder / "run.json").exists():
            old = cls.open(folder)
            if not resume:
                raise DiffcoderError(
                    "run_exists",
                    f"There is a run in {folder} already: go on with --resume, or name another with --out.",
                )
            if old.facts.settings != facts.settings:
                raise DiffcoderError(
                    "run_differs", f"The run in {folder} has other settings: give another folder with --out."
                )
            if old.facts.data and old.facts.data != facts.data:
                raise DiffcoderError(
                    "data_differs",
                    f"The run in {folder} was made with other problems than the data holds now: give another "
                    "folder with --out, or remove it.",
                )
            return old
        with told():
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f".run.json.{os.getpid()}"
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(facts)) + b"\n")
            temporary.replace(folder / "run.json")
        return cls(folder, facts)

    def completions(self) -> dict[tuple[str, int], Completion]:
        found = self._read("completions.jsonl", Completion)
        return {(line.task_id, line.sample): line for line in found}

    def verdicts(self) -> dict[tuple[str, int], Scored]:
        found = self._read("verdicts.jsonl", Scored)
        return {(line.task_id, line.sample): line for line in found}

    def add(self, line: Completion | Scored) -> None:
        name = "completions.jsonl" if isinstance(line, Completion) else "verdicts.jsonl"
        path = self.folder / name
        with self._adding, told():
            torn = path.exists() and not ends_a_line(path)
            with path.open("ab") as file:
                # a line that a crash tore must not swallow this one
                file.write((b"\n" if torn else b"") + msgspec.json.encode(line) + b"\n")

    def _read(self, name: str, kind: type) -> list[Any]:
        try:
            lines = (self.folder / name).read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        found: list[Any] = []
        for line in filter(None, lines):
            # torn by a crash or a full disk: the item is done again
            with suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(line, type=kind))
        return found


def ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


@contextmanager
def told() -> Iterator[None]:
    """A refusal of the disk as one sentence."""
    try:
        yield
    except OSError as error:
        what = (
            "The disk is full"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else f"The disk refused ({error})"
        )
        raise DiffcoderError(
            "disk", f"{what}; finished work is kept: make room and go on with --resume."
        ) from error


def runs_folder() -> Path:
    return cache_folder() / "evals"


def own_version() -> str:
    """The package's version, and in a checkout the commit: results change between releases too."""
    try:
        found = version("diffcoder")
    except PackageNotFoundError:
        found = "unknown"
    source = Path(__file__).resolve().parents[1]
    if not (source / ".git").exists():
        return found
    try:
        described = subprocess.run(
            ["git", "-C", source, "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return found
    commit = described.stdout.strip()
    return f"{found} at {commit}" if commit and described.returncode == 0 else found


def machine() -> str:
    """The processor and core count, for the report."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"
