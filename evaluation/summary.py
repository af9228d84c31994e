"""The figures of one run: pass@k with intervals, cost, and what a task measures besides."""

from __future__ import annotations

import math

import msgspec

from evaluation import quiet, statistics
from evaluation.runs import Completion, Run, Scored, Settings
from model.schema import DiffcoderError


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Shares are 0..1. `pass_at` maps k to (estimate, low, high), 95 %. Tokens a forward are over all answers, reading
    the prompts left out; so do milliseconds a token, which like the seconds (reading included) are the model's, over the
    answers that were asked for one at a time, and None where there is none. `separation`: see `quiet`."""

    settings: Settings
    machine: str
    problems: int
    completions: int
    pass_at: dict[str, tuple[float, float, float]]
    tokens: int
    forwards: int
    tokens_per_forward: float
    ms_per_token: float | None
    seconds_per_answer: float | None
    separation: float | None
    stop_reasons: dict[str, int]
    failures: dict[str, int]
    measures: dict[str, float]


def of_run(run: Run) -> Summary:
    """Raises DiffcoderError for a run without verdicts."""
    answers = run.completions()
    verdicts = [verdict for key, verdict in run.verdicts().items() if key in answers]
    if not verdicts:
        raise DiffcoderError(
            "empty_run", f"The run in {run.folder} has no verdicts yet: go on with --resume."
        )
    done = [answers[v.task_id, v.sample] for v in verdicts]
    tokens, forwards = sum(a.tokens for a in done), sum(a.forwards for a in done)
    apart = quiet.separation([(answers[v.task_id, v.sample].confidence, v.passed) for v in verdicts])
    alone = done if all(a.batch == 1 for a in done) else []  # a few left-overs of batches are no sample
    decoding = math.fsum(a.ms - a.prefill_ms for a in alone)
    timed = sum(a.tokens for a in alone)
    return Summary(
        settings=run.facts.settings,
        machine=run.facts.machine,
        problems=len({v.task_id for v in verdicts}),
        completions=len(verdicts),
        pass_at=estimates(verdicts),
        tokens=tokens,
        forwards=forwards,
        tokens_per_forward=tokens / forwards if forwards else 0.0,
        ms_per_token=decoding / timed if timed else None,
        seconds_per_answer=math.fsum(a.ms for a in alone) / 1000 / len(alone) if alone else None,
        separation=None if math.isnan(apart) else apart,
        stop_reasons=counted(a.stop_reason for a in done),
        failures=counted(v.reason.split(":", 1)[0] for v in verdicts if not v.passed),
        measures=averages(verdicts, done),
    )


def by_problem(verdicts: list[Scored]) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.task_id, []).append(verdict.passed)
    return found


def shares(run: Run) -> dict[str, float]:
    """Problem -> share of its samples that passed."""
    return {name: sum(a) / len(a) for name, a in by_problem(list(run.verdicts().values())).items()}


def estimates(verdicts: list[Scored]) -> dict[str, tuple[float, float, float]]:
    """pass@k for k = 1, 5, 10, 100, as far as every problem has that many samples."""
    problems = list(by_problem(verdicts).values())
    fewest = min(map(len, problems))
    found = {}
    for k in (1, 5, 10, 100):
        if k > fewest:
            continue
        values = [statistics.pass_at_k(len(p), sum(p), k) for p in problems]
        low, high = (
            statistics.wilson(sum(map(sum, problems)), len(problems))
            if max(map(len, problems)) == 1
            else statistics.bootstrap(values)
        )
        found[str(k)] = math.fsum(values) / len(values), low, high
    return found


def counted(names) -> dict[str, int]:  # type: ignore[no-untyped-def]
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def averages(verdicts: list[Scored], answers: list[Completion]) -> dict[str, float]:
    everything = [v.measures for v in verdicts] + [a.measures for a in answers]
    found = {}
    for name in sorted({name for measures in everything for name in measures}):
        values = [measures[name] for measures in everything if name in measures]
        found[name] = math.fsum(values) / len(values)
    return found


def sentence(title: str, result: Summary) -> str:
    lines = []
    for k, (share, low, high) in result.pass_at.items():
        lines.append(f"{title}: pass@{k} {100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
    lines.append(
        f"  {result.problems} problems, {result.completions} answers; {result.tokens} tokens in "
        f"{result.forwards} forwards ({result.tokens_per_forward:.2f} a forward)"
    )
    if result.ms_per_token is not None:
        lines[-1] += f", {result.ms_per_token:.1f} ms a token, {result.seconds_per_answer:.2f} s an answer"
    if result.separation is not None:
        lines[-1] += f"; confidence tells right from wrong in {100 * result.separation:.0f} % of pairs"
    if result.measures:
        lines.append("  " + ", ".join(f"{name} {value:.3g}" for name, value in result.measures.items()))
    return "\n".join(lines)
