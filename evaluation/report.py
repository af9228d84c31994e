"""The report: one self-contained HTML page and a Markdown table from the runs on this disk.

Everything in it can be computed again from the runs' JSON lines; published figures of others stand apart and are
marked as theirs. The page loads nothing from anywhere and runs no script.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from evaluation import plots, published, quiet, statistics, summary
from evaluation.runs import Run, told
from evaluation.summary import Summary
from evaluation.tasks import TASKS
from model.schema import DiffcoderError

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 68em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; }
th, td { padding: .25em .6em; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
tr.theirs td { color: #777; font-style: italic; }
figure { margin: 1.5em 0; } svg { max-width: 100%; height: auto; } code { background: #f4f4f4; padding: 0 .2em; }
@media (prefers-color-scheme: dark) { body { background: #fff; } }
"""
LENGTHS = ((0, 20), (20, 40), (40, 80), (80, 160), (160, 10**9))


class Shown:
    """A run with its figures."""

    def __init__(self, run: Run):
        self.run = run
        self.summary: Summary = summary.of_run(run)
        self.settings = self.summary.settings
        self.task = self.settings.task
        self.label = self.settings.label()
        self.shares = summary.shares(run)
        self.answers = run.completions()
        self.verdicts = run.verdicts()

    @property
    def autoregressive(self) -> bool:
        """Whether the text is that of the autoregressive model, verified or written by it alone."""
        return self.settings.verify != "none"

    @property
    def swept(self) -> bool:
        """One of many that try a rule and its thresholds: in tables, and in one plot of its own."""
        return self.settings.rule is not None

    @property
    def title(self) -> str:
        return TASKS[self.task].title if self.task in TASKS else self.task


def find_runs(places: Iterable[Path]) -> list[Shown]:
    """Every run in or below the places that has verdicts. Raises DiffcoderError where there is none."""
    files = [file for place in places for file in sorted(place.rglob("run.json"))]
    found = []
    for file in dict.fromkeys(files):
        try:
            found.append(Shown(Run.open(file.parent)))
        except DiffcoderError as error:
            if error.code != "empty_run":
                raise
    if not found:
        raise DiffcoderError(
            "no_runs", f"There is no finished run in {', '.join(map(str, places))}: run a task first."
        )
    order = {name: number for number, name in enumerate(TASKS)}
    return sorted(found, key=lambda shown: (order.get(shown.task, len(order)), shown.label))


def write(places: Sequence[Path], out: Path) -> list[Path]:
    """NAME.html with its plots inside, NAME.md with them beside it (NAME-1.svg and so on); the paths."""
    runs = find_runs(places)
    sections = [make(runs) for make in SECTIONS]
    machines = "; ".join(sorted({run.summary.machine for run in runs}))
    intro = (
        "Shares are pass@1 with 95 % intervals (Wilson for one sample a problem, bootstrap over problems otherwise). "
        f"Measured on: {machines}. How each benchmark is scored, and what differs from its own harness, is in "
        "docs/evaluation.md."
    )
    page, parts = [], []
    pictures: dict[Path, str] = {}
    for section in filter(lambda section: section.body, sections):
        shown = "".join(f"<figure>{chart}</figure>" for chart in section.charts)
        page.append(f"<h2>{section.title}</h2>\n{section.body}{shown}")
        part = f"## {section.title}\n\n{section.plain}"
        for chart in section.charts:
            picture = f"{out.name}-{len(pictures) + 1}.svg"
            pictures[out.with_name(picture)] = chart
            part += f"\n\n![{section.title}]({picture})"
        parts.append(part)
    text = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>diffcoder: evaluation</title>\n<style>{STYLE}</style>\n<h1>diffcoder: evaluation</h1>\n"
        f"<p>{html.escape(intro)}</p>\n" + "\n".join(page) + "\n</html>\n"
    )
    plain = f"# diffcoder: evaluation\n\n{intro}\n\n" + "\n\n".join(parts) + "\n"
    files = {out.with_name(out.name + ".html"): text, out.with_name(out.name + ".md"): plain, **pictures}
    with told():
        out.parent.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            path.write_text(content, encoding="utf-8")
    return list(files)


# --- sections: title, HTML, Markdown -----------------------------------------------------------------------


class Section(NamedTuple):
    """`body` is HTML, `plain` Markdown; `charts` are SVG texts that stand behind both."""

    title: str
    body: str = ""
    plain: str = ""
    charts: tuple[str, ...] = ()


Drawn = dict[str, dict[str, list[tuple[float, float, str]]]]
"""Points by task and run."""


def each_task(drawn: Drawn, what: str, across: str, up: str) -> tuple[str, ...]:
    """A plot a task, a line a run."""
    return tuple(plots.lines(series, f"{task}: {what}", across, up) for task, series in drawn.items())


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def table(head: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]]) -> tuple[str, str]:
    """HTML and Markdown; a row is (cells, whether it is theirs)."""
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [f"<table><tr>{cells}</tr>"]
    marks = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row, theirs in rows:
        body = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{' class=theirs' if theirs else ''}>{body}</tr>")
        safe = [cell.replace("|", "\\|") for cell in row]
        marks.append(f"| {' | '.join(f'*{c}*' if theirs and c else c for c in safe)} |")
    return "\n".join([*lines, "</table>"]), "\n".join(marks)


def results(runs: list[Shown]) -> Section:
    """Every run, with the published figures of its task below it."""
    head = (
        "task",
        "run",
        "pass@1 %",
        "95 %",
        "problems",
        "tokens a forward",
        "ms a token",
        "s an answer",
        "other",
    )
    rows: list[tuple[Sequence[str], bool]] = []
    data = []
    for task in dict.fromkeys(run.task for run in runs):
        title = ""
        for run in (r for r in runs if r.task == task):
            result, title = run.summary, run.title
            share, low, high = result.pass_at["1"]
            more = [f"pass@{k} {percent(v[0])}" for k, v in result.pass_at.items() if k != "1"]
            more += [f"{name} {value:.3g}" for name, value in result.measures.items()]
            cost = (
                f"{result.tokens_per_forward:.2f}",
                "" if result.ms_per_token is None else f"{result.ms_per_token:.1f}",
                "" if result.seconds_per_answer is None else f"{result.seconds_per_answer:.2f}",
            )
            interval = f"{percent(low)}-{percent(high)}"
            asked = run.run.facts.items
            problems = f"{result.problems} of {asked}" if result.problems < asked else str(asked)
            row = (title, run.label, percent(share), interval, problems, *cost)
            rows.append(((*row, ", ".join(more)), False))
            if not run.swept:
                data.append(plots.Bar(title, run.label, share, low, high))
        for theirs in published.of(task):
            empty = [""] * 5
            cells = (title, theirs.model, f"{theirs.figure:.1f}", *empty, f"theirs: {theirs.source}")
            rows.append((cells, True))
            data.append(plots.Bar(title, theirs.model, theirs.figure / 100, 0, 0, True))
    body, marks = table(head, rows)
    charts = (plots.bars(data, "Passed, ours and (hatched) published by others"),) if data else ()
    return Section("Results", body, marks, charts)


def comparable(first: Shown, second: Shown) -> bool:
    """Runs that say something about each other: an autoregressive one and another of the same model, or two models."""
    a, b = first.settings, second.settings
    if (a.task, a.style, a.temperature, a.max_tokens) != (b.task, b.style, b.temperature, b.max_tokens):
        return False
    if a.model != b.model:
        return first.autoregressive and second.autoregressive
    return first.autoregressive or second.autoregressive


def pairs(runs: list[Shown]) -> Section:
    """Runs of one task against each other, problem by problem."""
    head = (
        "task",
        "first",
        "second",
        "problems",
        "same text",
        "both",
        "only first",
        "only second",
        "difference, points",
        "95 %",
        "McNemar p",
    )
    rows: list[tuple[Sequence[str], bool]] = []
    for one, other in combinations(runs, 2):
        if not comparable(one, other):
            continue
        first, second = (one, other) if one.autoregressive else (other, one)
        found = statistics.paired(first.shares, second.shares)
        if not found["problems"]:
            continue
        shared = first.answers.keys() & second.answers.keys()
        same = sum(first.answers[key].completion == second.answers[key].completion for key in shared)
        counts = [f"{found[name]:.0f}" for name in ("both", "only_first", "only_second")]
        interval = f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}"
        sizes = (f"{found['problems']:.0f}", f"{same} of {len(shared)}")
        row = (first.title, first.label, second.label, *sizes, *counts)
        rows.append(((*row, f"{100 * found['difference']:+.1f}", interval, f"{found['p']:.3g}"), False))
    if not rows:
        return Section("Problem by problem")
    body, marks = table(head, rows)
    note = (
        "Difference is second minus first over the problems both ran; interval by bootstrap, p-value by McNemar's "
        "exact test. verify-ar and adapter-base are the autoregressive model with the adapter and without: their texts "
        "are the same, counted here. verify-none beside them is diffusion against its autoregressive twin."
    )
    return Section("Problem by problem", f"<p>{note}</p>{body}", f"{note}\n\n{marks}")


def speed(runs: list[Shown]) -> Section:
    """Quality against tokens a forward: a point a run, a line a rule of pure diffusion over its thresholds."""
    rules: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for run in (run for run in runs if run.summary.forwards and not run.settings.temperature):
        settings = run.settings
        across = run.summary.tokens_per_forward
        group = f"{run.title}, {settings.model}" + (f", {settings.limit} problems" if settings.limit else "")
        rule = settings.rule or (f"verify {settings.verify}" if settings.verify else "model's own")
        rule = "autoregressive" if settings.adapter == "base" or settings.plan == "none" else rule
        rule += "" if settings.form == "int8" else f", {settings.form}"
        bar = "" if settings.threshold is None else f"{settings.threshold:g}"
        rules.setdefault((group, rule), []).append((across, 100 * run.summary.pass_at["1"][0], bar))
    if not rules:
        return Section("Quality against speed")
    rows: list[tuple[Sequence[str], bool]] = []
    for (group, rule), points in rules.items():
        span = f"{min(points)[0]:.2f}-{max(points)[0]:.2f}" if len(points) > 1 else f"{points[0][0]:.2f}"
        area = f"{statistics.area_under([p[:2] for p in points]):.1f}"
        rows.append(((group, rule, str(len(points)), span, area), False))
    head = ("task, model", "rule", "runs", "tokens a forward", "area under the curve, mean % over its span")
    body, marks = table(head, rows)
    charts = []
    for group in dict.fromkeys(group for group, _ in rules):
        series = {rule: points for (name, rule), points in rules.items() if name == group}
        if any(len(points) > 1 for points in series.values()):
            charts.append(plots.lines(series, group, "tokens a forward, the prompt's left out", "passed, %"))
    return Section("Quality against speed", body, marks, tuple(charts))


def lengths(runs: list[Shown]) -> Section:
    """Passed by length of the gap, for tasks that say it."""
    drawn: Drawn = {}
    rows: list[tuple[Sequence[str], bool]] = []
    for run in runs:
        lines = [v for v in run.verdicts.values() if "gap_characters" in v.measures]
        if not lines or run.swept:
            continue
        cells = []
        for low, high in LENGTHS:
            inside = [v for v in lines if low <= v.measures["gap_characters"] < high]
            passed = sum(v.passed for v in inside)
            cells.append(f"{percent(passed / len(inside))} ({len(inside)})" if inside else "")
            if inside:
                middle = math.fsum(v.measures["gap_characters"] for v in inside) / len(inside)
                point = (middle, 100 * passed / len(inside), str(len(inside)))
                drawn.setdefault(run.title, {}).setdefault(run.label, []).append(point)
        rows.append(((run.title, run.label, *cells), False))
    if not rows:
        return Section("By length of the gap")
    names = [f"{low}-{high - 1} characters" if high < 10**9 else f"{low} and more" for low, high in LENGTHS]
    body, marks = table(("task", "run", *names), rows)
    charts = each_task(drawn, "by length of the gap", "characters, mean of each class", "passed, %")
    return Section("By length of the gap", body, marks, charts)


def restraint(runs: list[Shown]) -> Section:
    """Wrong suggestions shown against right ones withheld; drawn for gaps, which are what an editor suggests."""
    drawn: Drawn = {}
    rows: list[tuple[Sequence[str], bool]] = []
    for run in runs:
        known = [(a.confidence, run.verdicts[k].passed) for k, a in run.answers.items() if k in run.verdicts]
        separation = quiet.separation(known)
        if run.swept or math.isnan(separation) or len(known) < 20:
            continue
        cells = []
        for most in (0.5, 0.25, 0.1):
            point = quiet.bar_for(known, most)
            cells.append(f"{percent(point.shown)} (bar {point.bar:.2f})" if point else "none")
        rows.append(((run.title, run.label, f"{separation:.3f}", *cells), False))
        if "gap_characters" in run.summary.measures:
            curve = [(100 * p.right_withheld, 100 * p.wrong_shown, "") for p in quiet.curve(known)]
            drawn.setdefault(run.title, {})[run.label] = curve
    if not rows:
        return Section("When to stay quiet")
    head = ("task", "run", "separation", "shown % where half are wrong", "a quarter wrong", "a tenth wrong")
    body, marks = table(head, rows)
    note = (
        "Separation: the chance that a right answer is given more confidence than a wrong one. The other columns: "
        "the largest share of answers that can be shown so that at most that part of them is wrong."
    )
    across, up = "right answers withheld, % of all", "wrong answers shown, % of all"
    charts = each_task(drawn, "when to stay quiet", across, up)
    return Section("When to stay quiet", f"<p>{note}</p>{body}", f"{note}\n\n{marks}", charts)


def commands(runs: list[Shown]) -> Section:
    """How to make every run again."""
    lines = []
    for run in runs:
        settings = run.summary.settings
        words = ["diffcoder eval", settings.task, "--model", settings.model]
        for option, value in (
            ("--form", settings.form if settings.form != "int8" else None),
            ("--adapter", settings.adapter),
            ("--plan", settings.plan if settings.plan != "reference" else None),
            ("--verify", settings.verify),
            ("--rule", settings.rule),
            ("--threshold", settings.threshold),
            ("--style", settings.style if settings.style != "completion" else None),
            ("--temperature", settings.temperature or None),
            ("--n", settings.samples if settings.samples > 1 else None),
            ("--max-tokens", settings.max_tokens),
            ("--limit", settings.limit),
            ("--seed", settings.seed or None),
        ):
            words += [] if value is None else [option, str(value)]
        facts = run.run.facts
        lines.append(
            f"{' '.join(words)}   # {facts.started}, diffcoder {facts.version}, {facts.threads} threads"
        )
    block = "\n".join(lines)
    return Section("Commands", f"<pre>{html.escape(block)}</pre>", f"```\n{block}\n```")


SECTIONS: tuple[Callable[[list[Shown]], Section], ...] = (results, pairs, speed, lengths, restraint, commands)
