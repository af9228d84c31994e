"""A program to measure against, in a process of its own, asked one thing at a time over lines of JSON.

`Peer` is the end that asks, `serve` the end that answers. Both speak of token ids, so that every program is
given the very same prompt. It knows neither what is measured nor which programs there are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import msgspec


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """Write `tokens` tokens after `ids`, greedily, past any end token; with `reuse`, earlier KV may serve."""

    ids: tuple[int, ...]
    tokens: int
    reuse: bool = False


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """`prefill_ms` ends when the first token can be chosen; `ms` is what the caller waited."""

    text: str
    tokens: int
    prefill_tokens: int
    prefill_ms: float
    decode_ms: float
    ms: float
    rss_bytes: int


def serve(answer: Callable[[Ask], Reply]) -> None:
    """Answer standard input line by line until it ends. What libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        out.write(msgspec.json.encode(answer(msgspec.json.decode(line, type=Ask))) + b"\n")
        out.flush()


class Peer:
    """The program behind `python -P -m MODULE ARGUMENTS`; raises RuntimeError when it ends early."""

    def __init__(self, module: str, *arguments: str):
        self.module = module
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, ids: list[int], tokens: int, *, reuse: bool = False) -> Reply:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(
            msgspec.json.encode(Ask(ids=tuple(ids), tokens=tokens, reuse=reuse)) + b"\n"
        )
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.module} ended with status {self._process.wait()}; its message is above"
            )
        return msgspec.json.decode(line, type=Reply)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process now (Linux: VmRSS); 0 where the system does not tell."""
    try:
        with open(f"/proc/{pid or 'self'}/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return 0
