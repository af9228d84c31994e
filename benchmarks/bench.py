"""Speed and memory of the engine against llama.cpp on the same GGUF file and transformers, all in one run.

    python -P -m benchmarks.bench [--rounds 5] [--out FOLDER] [PART ...]

The engine is the real one, over its socket, as an editor would call it; each peer has a process of its own
and is given the same prompt, token for token. They take turns, one prompt at a time, so that a machine that
drifts drifts for all. All times are what a caller waited, by one clock: nobody's own accounting is trusted. A
figure is the median of its rounds, a ratio the median of the rounds' ratios. The bars are those that the
project holds itself to; the status is 1 when one is missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.excerpts import Gap, Rename, gaps, renames
from benchmarks.machine import Machine, describe
from benchmarks.peers import Peer, Reply, resident_bytes
from diffcoder_lsp import engine_process
from diffcoder_lsp.engine_client import EngineClient
from model import layout, profiles, registry, store
from model.generator import EDIT_TOKENS, FILL_TOKENS, WINDOW
from model.prefix_cache import common
from model.schema import EditRequest, EditResponse, FillRequest, FillResponse, Limits, Usage
from model.tokens import encode_text, load_tokenizer

MODEL = "default"
THREADS = 2
CONTEXT, SLACK = 1000, 100  # tokens of a gap's prompt, give or take
SUGGESTION = 16  # tokens
GAPS_A_ROUND = 2
FILLING = 64  # tokens at most
LEAST_FILLING = 24  # a shorter one says little about speed
LONGEST_EDIT = 2048  # tokens
SLOW_TOKENS = 32  # what transformers writes where only its speed is asked
LINES_CHANGED = range(5, 21)  # of 100, for an edit to count as one that changes a tenth


class Figure(msgspec.Struct, kw_only=True):
    """One line of the report, a value a round. `against` names what the ratio divides by."""

    name: str
    unit: str
    bar: float
    at_least: bool
    against: str = "llama.cpp"
    ours: list[float] = []
    llama_cpp: list[float] = []
    transformers: list[float] = []
    ratios: list[float] = []

    def add(
        self, ours: float, llama_cpp: float, transformers: float | None = None, by: float | None = None
    ) -> None:
        """A round's values; the ratio is to llama.cpp's, or to `by`."""
        self.ours.append(ours)
        self.llama_cpp.append(llama_cpp)
        if transformers is not None:
            self.transformers.append(transformers)
        self.ratios.append(ours / (llama_cpp if by is None else by))

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    def passed(self) -> bool:
        return self.ratio >= self.bar if self.at_least else self.ratio <= self.bar


class Report(msgspec.Struct, kw_only=True):
    machine: Machine
    model: str
    rounds: int
    figures: list[Figure] = []
    notes: list[str] = []
    seconds: float = 0.0


@dataclass
class Clock:
    """Tokens read and written in a round, and the time each took in ms."""

    read: int = 0
    read_ms: float = 0.0
    written: int = 0
    write_ms: float = 0.0
    fillings: int = 0

    def add(self, read: int, read_ms: float, written: int, write_ms: float) -> None:
        self.read, self.read_ms = self.read + read, self.read_ms + read_ms
        self.written, self.write_ms = self.written + written, self.write_ms + write_ms
        self.fillings += 1

    @property
    def read_rate(self) -> float:
        return per_second(self.read, self.read_ms)

    @property
    def write_rate(self) -> float:
        return per_second(self.written, self.write_ms)


class Prompts:
    """The token ids that the engine makes of a request, for the peers."""

    def __init__(self, gguf: Path):
        self._tokenizer = load_tokenizer(gguf)
        added = self._tokenizer.get_added_tokens_decoder()
        self._marks = {token.content: id for id, token in added.items()}
        self._profile = profiles.find(registry.find(MODEL).profile, "qwen2", self._marks)

    def of(self, request: FillRequest | EditRequest) -> list[int]:
        if isinstance(request, FillRequest):
            pieces = layout.infill(self._profile, request.prefix, request.suffix, (), FILL_TOKENS)
        else:
            pieces = layout.edit(self._profile, request, layout.Selection.of(request), EDIT_TOKENS)
        ids: list[int] = []
        for piece in pieces:
            ids += [self._marks[piece.name]] if isinstance(piece, layout.Mark) else self.ids(piece)
        return ids

    def ids(self, text: str) -> list[int]:
        return encode_text(self._tokenizer, text)


class Bench:
    """The engine, its peers, and the report that grows."""

    def __init__(
        self, engine: EngineClient, llama_cpp: Peer, transformers: Peer, prompts: Prompts, report: Report
    ):
        self.engine, self.llama_cpp, self.transformers = engine, llama_cpp, transformers
        self.prompts, self.report = prompts, report
        self.resident: list[int] = []

    def warm_up(self) -> None:
        """Start everything, so that nobody's first answer holds the loading of weights."""
        request = FillRequest(prefix="def add(a, b):\n    ", limits=Limits(max_tokens=8))
        ids = self.prompts.of(request)
        for _ in range(2):
            self.engine.fill(request)
            self.llama_cpp.ask(ids, 8)
            self.transformers.ask(ids, 8)

    def suggestions(self) -> None:
        """The wait for a suggestion in a file not seen before, and for the next one a keystroke later."""
        cold = self.figure(name="cold suggestion", unit="ms", bar=1 / 3, at_least=False)
        typed = self.figure(
            name="one keystroke later", unit="ms", bar=1 / 5, at_least=False, against="our cold suggestion"
        )
        limits = Limits(max_tokens=SUGGESTION, verify="ar")
        short = 0
        for gap in self.gaps(seed=1):
            first, second = fill_of(gap, limits), fill_of(after_keystroke(gap), limits)
            ours, ms = self.fill(first)
            ours_typed, typed_ms = self.fill(second)
            if min(ours.usage.tokens, ours_typed.usage.tokens) < SUGGESTION:
                short += 1  # it saw an end sooner: less work than the peers would be given
                continue
            ids = self.same_prompt(first, ours.usage)
            theirs = self.llama_cpp.ask(ids, SUGGESTION)
            theirs_typed = self.llama_cpp.ask(self.prompts.of(second), SUGGESTION, reuse=True)
            slow = self.transformers.ask(ids, SUGGESTION)
            cold.add(ms, theirs.ms, slow.ms)
            typed.add(typed_ms, theirs_typed.ms, by=ms)
            say(f"{gap.name}: {len(ids)} tokens, cold {ms:.0f} and {theirs.ms:.0f} ms")
            if len(cold.ours) == self.report.rounds:
                break
        self.report.notes.append(
            f"Suggestions have {SUGGESTION} tokens; {short} files where ours ended sooner are left out."
            f" Prompts of gaps have {CONTEXT} tokens, give or take {SLACK}."
        )

    def infills(self) -> None:
        """Where functions break off. A cold request for one token times the prefill; the same request for a
        filling, its prompt now in the cache, times the decoding. Only tokens of the returned text count.
        """
        prefill = self.figure(name="prefill", unit="tokens/s", bar=4, at_least=True)
        decode = self.figure(name="decode, code infills", unit="tokens/s", bar=1.2, at_least=True)
        found = self.gaps(seed=2)
        written = forwards = 0
        same: list[float] = []  # share of our text with which llama.cpp's begins, too
        for _ in range(self.report.rounds):
            ours, theirs, slow = Clock(), Clock(), Clock()
            while ours.fillings < GAPS_A_ROUND:
                gap = next(found)
                one, whole = (fill_of(gap, Limits(max_tokens=n, verify="ar")) for n in (1, FILLING))
                first, first_ms = self.fill(one)
                filling, ms = self.fill(whole)
                tokens = len(self.prompts.ids(filling.text))
                if tokens < LEAST_FILLING:
                    continue
                ids = self.same_prompt(one, first.usage)
                reply, again = self.cold_and_warm(ids, tokens)
                ours.add(len(ids), first_ms, tokens, ms)
                theirs.add(len(ids), reply.ms, again.tokens, again.ms)
                if not slow.fillings:
                    reply = self.transformers.ask(ids, SLOW_TOKENS)
                    slow.add(len(ids), reply.prefill_ms, reply.tokens, reply.decode_ms)
                written, forwards = written + tokens, forwards + filling.usage.forwards
                same.append(common(again.text, filling.text) / len(filling.text))
            prefill.add(ours.read_rate, theirs.read_rate, slow.read_rate)
            decode.add(ours.write_rate, theirs.write_rate, slow.write_rate)
            say(
                f"prefill {ours.read_rate:.0f} and {theirs.read_rate:.0f} tokens/s,"
                f" infills {ours.write_rate:.1f} and {theirs.write_rate:.1f} tokens/s"
            )
        self.report.notes.append(
            f"Infills: {self.report.rounds} rounds of {GAPS_A_ROUND} gaps, {written / forwards:.2f} tokens of"
            f" text a forward; llama.cpp's text begins as ours for {median(same):.0%} of it (median)."
        )

    def edits(self) -> None:
        """Where most of 100 lines stay: the same two requests, and the tokens of the replacement."""
        decode = self.figure(name="decode, edits that change a tenth", unit="tokens/s", bar=3, at_least=True)
        tried = right = written = forwards = 0
        for rename in renames(seed=3):
            if len(self.prompts.ids(rename.before)) > WINDOW // 4:
                continue  # more than the engine takes as a selection
            tried += 1
            one, whole = (edit_of(rename, Limits(max_tokens=n, verify="ar")) for n in (1, LONGEST_EDIT))
            first, _ = self.edit(one)
            ours, ms = self.edit(whole)
            if changed(rename.before, ours.replacement) not in LINES_CHANGED:
                continue
            tokens = len(self.prompts.ids(ours.replacement))
            _, theirs = self.cold_and_warm(self.same_prompt(one, first.usage), tokens)
            decode.add(per_second(tokens, ms), per_second(theirs.tokens, theirs.ms))
            right += ours.replacement.strip() == rename.after.strip()
            written, forwards = written + tokens, forwards + ours.usage.forwards
            say(f"{rename.name}: {decode.ours[-1]:.1f} and {decode.llama_cpp[-1]:.1f} tokens/s")
            if len(decode.ours) == self.report.rounds:
                break
        self.report.notes.append(
            f"Edits: of {tried} renames of a variable in 100 lines, those {len(decode.ours)} count where the"
            f" model changed {LINES_CHANGED.start} to {LINES_CHANGED.stop - 1} lines, {right} of them exactly"
            f" as asked; {written / forwards:.1f} tokens of text a forward."
        )

    def memory(self) -> None:
        """The most that the engine held after any request of this run; llama.cpp's after its last."""
        resident = self.figure(
            name="resident memory of the engine", unit="GB", bar=1.4, at_least=False, against="1 GB"
        )
        resident.add(max(self.resident) / 1e9, self.llama_cpp.ask([0], 1).rss_bytes / 1e9, by=1.0)

    def figure(
        self, *, name: str, unit: str, bar: float, at_least: bool, against: str = "llama.cpp"
    ) -> Figure:
        figure = Figure(name=name, unit=unit, bar=bar, at_least=at_least, against=against)
        self.report.figures.append(figure)
        return figure

    def fill(self, request: FillRequest) -> tuple[FillResponse, float]:
        """The answer, and what its caller waited in ms."""
        begin = time.perf_counter()
        response = self.engine.fill(request)
        return response, self._waited(begin)

    def edit(self, request: EditRequest) -> tuple[EditResponse, float]:
        begin = time.perf_counter()
        response = self.engine.edit(request)
        return response, self._waited(begin)

    def _waited(self, begin: float) -> float:
        ms = (time.perf_counter() - begin) * 1000
        self.resident.append(resident_bytes(self.engine.health().pid))
        return ms

    def cold_and_warm(self, ids: list[int], tokens: int) -> tuple[Reply, Reply]:
        """llama.cpp's one token after a prompt it has not seen, and `tokens` after one that it has."""
        return self.llama_cpp.ask(ids, 1), self.llama_cpp.ask(ids, tokens, reuse=True)

    def gaps(self, seed: int) -> Iterator[Gap]:
        """Gaps whose prompt has about CONTEXT tokens."""
        for gap in gaps(seed, before=3200, after=900):
            if abs(len(self.prompts.of(fill_of(gap, Limits()))) - CONTEXT) <= SLACK:
                yield gap

    def same_prompt(self, request: FillRequest | EditRequest, cold: Usage) -> list[int]:
        """The ids for the peers. The engine must have read as many, and nearly all of them anew."""
        ids = self.prompts.of(request)
        ours = cold.prefill_tokens + cold.cached_tokens
        # It may write a prompt's last token again with the answer, and always knows the first marks.
        assert abs(ours - len(ids)) <= 1, f"the engine's prompt has {ours} tokens, the peers' {len(ids)}"
        assert cold.cached_tokens < len(ids) / 10, f"the engine knew {cold.cached_tokens} tokens beforehand"
        return ids


def per_second(count: int, ms: float) -> float:
    return count / ms * 1000


def fill_of(gap: Gap, limits: Limits) -> FillRequest:
    return FillRequest(prefix=gap.prefix, suffix=gap.suffix, language="python", limits=limits)


def edit_of(rename: Rename, limits: Limits) -> EditRequest:
    return EditRequest(
        before=rename.before,
        start=1,
        end=len(rename.before.splitlines()),
        instruction=rename.instruction,
        language="python",
        limits=limits,
    )


def after_keystroke(gap: Gap) -> Gap:
    """The same gap when the next character of the real text has been typed."""
    return Gap(gap.name, gap.prefix + gap.cut[0], gap.cut[1:], gap.suffix)


def changed(before: str, after: str) -> int:
    """Lines that differ, of two texts whose lines stand side by side."""
    old, new = before.splitlines(), after.splitlines()
    return sum(a != b for a, b in zip(old, new, strict=False)) + abs(len(old) - len(new))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(report: Report) -> str:
    """The report as markdown."""
    machine = report.machine
    vectors = ", ".join(machine.vectors) or "no known vector extension"
    lines = [
        f"{machine.processor}, {machine.cores} cores, {machine.threads} threads used, {vectors};"
        f" {machine.memory_gb:.0f} GB of memory, copied at {machine.copy_gb_s:.1f} GB/s; other programs used"
        f" {machine.busy:.0%} of the processors before the run. {machine.system}. Model {report.model};"
        f" {report.rounds} rounds in {report.seconds:.0f} s.",
        "",
        "| figure | diffcoder | llama.cpp | transformers fp32 | ratio | bar | |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in report.figures:
        against = "" if figure.against == "llama.cpp" else f" of {figure.against}"
        cells = [
            f"{figure.name}, {figure.unit}",
            *(middle(values) for values in (figure.ours, figure.llama_cpp, figure.transformers)),
            f"{figure.ratio:.2f}{against}",
            f"{'≥' if figure.at_least else '≤'} {figure.bar:.2f}",
            "PASS" if figure.passed() else "MISS",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in report.notes)]) + "\n"


def middle(values: list[float]) -> str:
    """The median, and how far the rounds lie apart."""
    if not values:
        return ""
    digits = 0 if median(values) >= 100 else 1 if median(values) >= 10 else 2
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{median(values):.{digits}f}{spread}"


@contextmanager
def own_engine() -> Iterator[EngineClient]:
    """An engine that no editor shares: nobody else asks it, and its cache is empty."""
    with tempfile.TemporaryDirectory(prefix="dc-") as home:
        models = store.cache_folder().absolute() / "models"
        (Path(home) / "models").symlink_to(models, target_is_directory=True)
        os.environ["DIFFCODER_HOME"] = home
        try:
            with EngineClient(MODEL, threads=THREADS) as client:
                yield client
        finally:
            engine_process.stop(MODEL)
            del os.environ["DIFFCODER_HOME"]


PARTS = {
    "suggestions": Bench.suggestions,
    "infills": Bench.infills,
    "edits": Bench.edits,
    "memory": Bench.memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -P -m benchmarks.bench", description="Measure against peers."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="where bench.json and bench.md go"
    )
    options = parser.parse_args()
    if not set(options.parts) <= set(PARTS):
        parser.error(f"the parts are {', '.join(PARTS)}")
    begin = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an ended run takes its engine along
    if hasattr(os, "sched_setaffinity"):
        # The same processors for all, however many threads a program would like to start.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    gguf = store.model_path(MODEL)
    report = Report(machine=describe(THREADS), model=gguf.name, rounds=options.rounds)
    if report.machine.busy > 0.05:
        say(f"Other programs use {report.machine.busy:.0%} of the processors: the figures will say little.")
    with ExitStack() as stack:
        bench = Bench(
            stack.enter_context(own_engine()),
            stack.enter_context(Peer("benchmarks.peer_llama_cpp", str(gguf), str(THREADS))),
            stack.enter_context(Peer("benchmarks.peer_transformers", str(gguf), str(THREADS))),
            Prompts(gguf),
            report,
        )
        bench.warm_up()
        for part in options.parts or PARTS:
            PARTS[part](bench)
    report.seconds = time.monotonic() - begin
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bench.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    )
    (options.out / "bench.md").write_text(table(report), encoding="utf-8")
    print(table(report))
    return 0 if all(figure.passed() for figure in report.figures) else 1


if __name__ == "__main__":
    sys.exit(main())
