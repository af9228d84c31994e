"""How well a model fills gaps in files it never saw: asked through the engine's own generator, before and after tuning.

Gaps are whole lines, ends of lines and runs of two to four lines, chosen by a hash of path and place, so that two
measurements ask the same; drafts are planned so that they count alike too. An answer is exact when it equals what stood
there, white space at line ends apart. Prompts are those of the editor, cut to a few hundred tokens around the gap.
Differences are judged in pairs, gap by gap.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from model.drafters import REFERENCE_COST, Beliefs, CostCurve
from model.generator import Generator, OnDraft, never
from model.prefix_cache import PrefixCache
from model.sampler import PREFILL_ROWS
from model.schema import FillRequest, FillResponse, Limits, ScoreRequest

BEFORE, BEHIND = 2000, 800  # characters of context that a gap keeps
KINDS = ("line", "line end", "line", "lines")
_BOOTSTRAP = 2000
LEAST_FILES = 5  # to draw files and not gaps


@dataclass(frozen=True)
class Gap:
    """`text` stood between `prefix` and `suffix`."""

    name: str
    kind: str
    language: str
    prefix: str
    text: str
    suffix: str


@dataclass(frozen=True)
class Outcome:
    """What a model made of one gap. `bits` is of the whole true text, `scored` its tokens; `tokens` and `forwards` are
    the answer's (the prompt's forwards left out); `similarity` from 0 to 1."""

    name: str
    kind: str
    exact: bool
    similarity: float
    bits: float
    scored: int
    tokens: int
    forwards: int
    ms: float
    answer: str


def gaps(files: Iterable[tuple[str, str, str]], count: int) -> list[Gap]:
    """At most `count` gaps in files of (path, language, text), spread over them as evenly as their lines allow."""
    queues = []
    for path, language, text in files:
        rows = text.split("\n")
        places = [n for n, row in enumerate(rows[:-2]) if n > 4 and len(row.strip()) >= 8]
        places.sort(key=lambda n: _draw(path, n))
        queues.append((path, language, rows, places))
    queues.sort(key=lambda queue: _draw(queue[0], 0))
    found: list[Gap] = []
    while len(found) < count and any(places for *_, places in queues):
        for path, language, rows, places in queues:
            if places and len(found) < count:
                found.append(_gap(path, language, rows, places.pop(), KINDS[len(found) % len(KINDS)]))
    return found


def _gap(path: str, language: str, rows: list[str], at: int, kind: str) -> Gap:
    size = 2 + _draw(path, at, "n") % 3 if kind == "lines" else 1
    size = min(size, len(rows) - 1 - at)
    start = sum(len(row) + 1 for row in rows[:at])
    text = "\n".join(rows)
    indent = len(rows[at]) - len(rows[at].lstrip())
    begin = start + indent + (len(rows[at].strip()) // 2 if kind == "line end" else 0)
    end = start + len("\n".join(rows[at : at + size]))
    prefix, suffix = text[max(0, begin - BEFORE) : begin], text[end : end + BEHIND]
    if begin > BEFORE:
        prefix = prefix[prefix.find("\n") + 1 :]
    return Gap(f"{path}:{at + 1}", kind, language, prefix, text[begin:end], suffix)


def _draw(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6], "big")


class Filler(Generator):
    """The engine's generator, whose counts do not depend on the machine's load nor on what it was asked before: one fixed
    cost curve, and with every gap new beliefs and nothing cached. So a measurement can be stopped anywhere."""

    def _measure(self) -> CostCurve:
        return CostCurve(REFERENCE_COST)

    def fill(
        self, request: FillRequest, on_draft: OnDraft | None = None, cancelled: Callable[[], bool] = never
    ) -> FillResponse:
        self._beliefs = Beliefs(self.cost)
        self._cache = PrefixCache(self.network.decoder.config, self._window, 1)
        return super().fill(request, on_draft, cancelled)


def measure(generator: Generator, asked: Sequence[Gap]) -> Iterator[tuple[float, Outcome]]:
    """Fill and score every gap: the seconds that took, and what came of it."""
    for gap in asked:
        begun = time.monotonic()
        limits = Limits(max_tokens=96, single_line=gap.kind != "lines")
        filled = generator.fill(
            FillRequest(prefix=gap.prefix, suffix=gap.suffix, language=gap.language, limits=limits)
        )
        scores = generator.score(ScoreRequest(text=gap.text, prefix=gap.prefix, suffix=gap.suffix)).tokens
        answer, usage = filled.text, filled.usage
        outcome = Outcome(
            gap.name,
            gap.kind,
            _lines(answer) == _lines(gap.text),
            Levenshtein.normalized_similarity(answer.strip(), gap.text.strip()),
            -math.fsum(score.logprob for score in scores) / math.log(2),
            len(scores),
            usage.tokens,
            usage.forwards - (usage.prefill_tokens - 1) // PREFILL_ROWS,
            usage.ms - usage.prefill_ms,
            answer,
        )
        yield time.monotonic() - begun, outcome


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").split("\n")]


def table(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The means that a report shows."""
    return {
        "gaps": len(outcomes),
        "bits_per_token": sum(o.bits for o in outcomes) / sum(o.scored for o in outcomes),
        "exact": sum(o.exact for o in outcomes) / len(outcomes),
        "similarity": sum(o.similarity for o in outcomes) / len(outcomes),
        "tokens_per_forward": sum(o.tokens for o in outcomes) / sum(o.forwards for o in outcomes),
        "ms_per_token": sum(o.ms for o in outcomes) / max(1, sum(o.tokens for o in outcomes)),
    }


def compare(before: Sequence[Outcome], after: Sequence[Outcome]) -> dict[str, float]:
    """Paired differences, after minus before: of bits a token with a 95 % interval over files (gaps of one file are
    alike, so files are drawn; with fewer than 5 files, gaps), of exact answers with McNemar's exact p-value."""
    files: dict[str, list[tuple[float, int]]] = {}
    for first, second in zip(before, after, strict=True):
        assert first.name == second.name, (first.name, second.name)
        files.setdefault(first.name.rpartition(":")[0], []).append((second.bits - first.bits, first.scored))
    rng, groups = random.Random(0), list(files.values())
    if len(groups) < LEAST_FILES:
        groups = [[gap] for group in groups for gap in group]

    def mean(chosen: Sequence[list[tuple[float, int]]]) -> float:
        return sum(d for group in chosen for d, _ in group) / sum(n for group in chosen for _, n in group)

    drawn = sorted(mean(rng.choices(groups, k=len(groups))) for _ in range(_BOOTSTRAP))
    gained = sum(a.exact and not b.exact for b, a in zip(before, after, strict=True))
    lost = sum(b.exact and not a.exact for b, a in zip(before, after, strict=True))
    return {
        "bits": mean(groups),
        "bits_low": drawn[int(0.025 * _BOOTSTRAP)],
        "bits_high": drawn[int(0.975 * _BOOTSTRAP)],
        "gained": gained,
        "lost": lost,
        "p_exact": mcnemar(gained, lost),
        "files": len(files),
    }


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that two models are equally good, from the gaps that only one of them got right."""
    total, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(total, n) for n in range(fewer + 1)) / 2**total)
