"""Held-out gaps filled by the language server and by llama.cpp's infill on the same weights: what fits, and what not.

    python -P -m benchmarks.bench_gaps [--gaps N] [--rows FILE] [--no-peer]

Our fillings come from the real server as ghost text that was asked for, so every rule between model and editor has
its say; llama.cpp's are the text of its own `/infill`. Every filling is kept in FILE, and a run that finds some there
goes on from them. Each figure is printed with its bar; the exit status is 1 when ours misses one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec

from benchmarks.bench_lsp import ready
from benchmarks.fit import balanced, indentation_right, repeats_suffix
from benchmarks.held_out import Gap, gaps
from benchmarks.lsp_client import CAPABILITIES, Client, Failed
from benchmarks.machine import describe
from model import store

OURS, PEER = "diffcoder", "llama.cpp"
MAX_TOKENS = 64
CONTEXT_CHARS = 4500
"""Of the peer's prompt on each side: about what our window holds."""
THRESHOLDS = (0.0, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


class Row(msgspec.Struct, frozen=True):
    """One filling. `confidence` is the model's mean probability of its tokens; the peer has none."""

    who: str
    gap: int
    name: str
    kind: str
    filling: str
    cut: str
    repeats: bool
    indented: bool
    balanced: bool | None
    """None where brackets were not balanced before the filling."""
    first_line: bool
    confidence: float = 0.0
    ms: float = 0.0


def judged(who: str, number: int, gap: Gap, filling: str, confidence: float, ms: float) -> Row:
    """The row of a filling."""
    before = balanced(gap.prefix + gap.suffix)
    return Row(
        who=who,
        gap=number,
        name=gap.name,
        kind=gap.kind,
        filling=filling,
        cut=gap.cut,
        repeats=repeats_suffix(filling, gap.cut, gap.suffix),
        indented=indentation_right(gap.prefix, filling),
        balanced=balanced(gap.prefix + filling + gap.suffix) if before else None,
        first_line=filling.strip().partition("\n")[0].rstrip() == gap.cut.strip().partition("\n")[0].rstrip(),
        confidence=round(confidence, 4),
        ms=round(ms),
    )


def ours(client: Client, number: int, gap: Gap) -> Row:
    """What the server shows at a gap when asked."""
    uri = f"file:///w/{number}/{gap.name.rpartition('/')[2]}"
    client.open(uri, gap.prefix + gap.suffix)
    line, column = gap.prefix.count("\n"), len(gap.prefix.rpartition("\n")[2])
    began = time.perf_counter()
    with contextlib.suppress(Failed):
        answer = client.result(client.inline(uri, line, column, invoked=True), 600)
        items = answer["items"] if answer else []
        ms = (time.perf_counter() - began) * 1000
        confidence = client.request("diffcoder/status", None)["confidence"]
        client.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
        return judged(OURS, number, gap, items[0]["insertText"] if items else "", confidence, ms)
    raise RuntimeError(f"no answer for gap {number}: {client.told[-3:]}")


def peers(address: str, number: int, gap: Gap) -> Row:
    """What llama.cpp's infill writes at a gap."""
    head = gap.prefix[-CONTEXT_CHARS:]
    body = {
        "input_prefix": head[head.find("\n") + 1 :] if len(gap.prefix) > CONTEXT_CHARS else head,
        "input_suffix": gap.suffix[:CONTEXT_CHARS],
        "n_predict": MAX_TOKENS,
        "temperature": 0,
    }
    began = time.perf_counter()
    answer = httpx.post(f"{address}/infill", json=body, timeout=600).raise_for_status().json()
    return judged(PEER, number, gap, answer["content"], 0.0, (time.perf_counter() - began) * 1000)


@contextlib.contextmanager
def our_filler(model: str) -> Iterator[Callable[[int, Gap], Row]]:
    capabilities = CAPABILITIES | {"general": {"positionEncodings": ["utf-32"]}}
    with tempfile.TemporaryDirectory(prefix="dc-") as folder:
        Path(folder, "models").symlink_to(store.cache_folder() / "models")
        with Client("--model", model, DIFFCODER_HOME=folder) as client:
            options: dict[str, Any] = {"alternatives": 1, "maxTokens": MAX_TOKENS}
            client.initialize(None, capabilities, inline=options)
            try:
                ready(client)
                yield lambda number, gap: ours(client, number, gap)
            finally:
                command = [sys.executable, "-P", "-m", "diffcoder_lsp.cli", "engine", "stop"]
                subprocess.run(
                    command, env=os.environ | {"DIFFCODER_HOME": folder}, check=False, capture_output=True
                )


@contextlib.contextmanager
def peer_filler(model: str) -> Iterator[Callable[[int, Gap], Row]]:
    threads = str(os.cpu_count() or 1)
    command = [
        sys.executable,
        "-P",
        "-m",
        "benchmarks.peer_llama_infill",
        str(store.model_path(model)),
        threads,
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"llama.cpp ended with status {process.wait()}; its message is above")
        yield lambda number, gap: peers(address, number, gap)
    finally:
        process.stdin.close()
        process.wait(20)


def collect(
    who: str,
    filler: Callable[[], Any],
    wanted: Sequence[Gap],
    rows: dict[tuple[str, int], Row],
    file: Path | None,
) -> None:
    """Fill what is not in `rows` yet, and keep each in `file` at once."""
    missing = [(number, gap) for number, gap in enumerate(wanted) if (who, number) not in rows]
    if not missing:
        return
    with filler() as fill:
        for number, gap in missing:
            row = rows[who, number] = fill(number, gap)
            if file is not None:
                with file.open("ab") as out:
                    out.write(msgspec.json.encode(row) + b"\n")


def share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 1.0


def report(rows: Sequence[Row], *, explain: bool) -> int:
    """Print the counts of each side by kind of gap; how many of our bars are missed."""
    print(f"{'':34} {'repeats':>8} {'indented':>9} {'brackets':>9} {'1st line':>9} {'empty':>6} {'ms':>7}")
    for who in (OURS, PEER):
        mine = [row for row in rows if row.who == who]
        for kind in (*dict.fromkeys(row.kind for row in mine), *(["all"] if mine else [])):
            some = [row for row in mine if kind in ("all", row.kind)]
            kept = [bool(row.balanced) for row in some if row.balanced is not None]
            times = sorted(row.ms for row in some)
            print(
                f"{who:10} {kind:16} {len(some):6} {sum(row.repeats for row in some):8}"
                f" {share([row.indented for row in some]):9.1%} {share(kept):9.1%}"
                f" {share([row.first_line for row in some]):9.1%} {sum(not row.filling for row in some):6}"
                f" {times[len(times) // 2]:7.0f}"
            )
    mine = [row for row in rows if row.who == OURS]
    kept = [bool(row.balanced) for row in mine if row.balanced is not None]
    bars = [
        ("the suffix is repeated 0 times", not any(row.repeats for row in mine)),
        ("indentation is right in at least 99 %", share([row.indented for row in mine]) >= 0.99),
        ("brackets that were balanced are so in at least 98 %", share(kept) >= 0.98),
    ]
    for text, good in bars:
        print(f"{'ok ' if good else 'BAD'} {text}")
    if explain:
        for row in mine:
            wrong = [
                name
                for name, bad in (
                    ("repeats", row.repeats), ("indentation", not row.indented), ("brackets", row.balanced is False)
                )
                if bad
            ]  # fmt: skip
            if wrong:
                print(
                    f"{', '.join(wrong)} in gap {row.gap}, {row.name}: wrote {row.filling!r} for {row.cut!r}"
                )
    return sum(not good for _, good in bars)


def gate(rows: Sequence[Row]) -> None:
    """Print what the confidence gate would have shown, at several thresholds."""
    mine = [row for row in rows if row.who == OURS]
    print(f"{'gate':>6} {'silent':>7} {'shown':>7} {'right':>7} {'wrong':>7} {'right of shown':>15}")
    for threshold in THRESHOLDS:
        shown = [row for row in mine if row.filling and row.confidence >= threshold]
        right = sum(row.first_line for row in shown)
        print(
            f"{threshold:6.2f} {1 - len(shown) / max(1, len(mine)):7.0%} {len(shown):7} {right:7}"
            f" {len(shown) - right:7} {right / len(shown) if shown else 0:15.0%}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gaps", type=int, default=300)
    parser.add_argument("--model", default="default")
    parser.add_argument("--rows", type=Path, help="keep every filling here, and go on from what is there")
    parser.add_argument("--no-peer", action="store_true", help="without llama.cpp")
    parser.add_argument("--explain", action="store_true", help="show each filling that does not fit")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the engine is stopped on the way out
    machine = describe(os.cpu_count() or 1)
    print(
        f"{machine.processor}, {machine.cores} cores, other programs use {machine.busy:.0%}; {options.model}"
    )
    wanted = gaps(options.gaps)
    rows: dict[tuple[str, int], Row] = {}
    if options.rows is not None and options.rows.exists():
        for line in options.rows.read_bytes().splitlines():
            row = msgspec.json.decode(line, type=Row)
            if row.gap < len(wanted) and (row.name, row.cut) == (wanted[row.gap].name, wanted[row.gap].cut):
                rows[row.who, row.gap] = row
    collect(OURS, lambda: our_filler(options.model), wanted, rows, options.rows)
    if not options.no_peer:
        collect(PEER, lambda: peer_filler(options.model), wanted, rows, options.rows)
    ordered = [rows[key] for key in sorted(rows)]
    missed = report(ordered, explain=options.explain)
    gate(ordered)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
