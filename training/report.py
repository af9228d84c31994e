"""The report of a tuning run: one HTML file with its plots in it, nothing loaded from anywhere.

Numbers, outcomes and log lines in, text out. Knows no models.
"""

from __future__ import annotations

import contextlib
import html
import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.yardstick import LEAST_FILES, Outcome

SMOOTHED = 20  # steps of a running mean
_SHOWN = 6  # gaps gained and lost that are shown with their answers
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}pre{background:#f6f6f4;padding:.5rem;overflow:auto;font-size:13px}
svg{max-width:100%;height:auto}.good{color:#17602b}.bad{color:#8a1f11}small{color:#666}"""


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; one that was torn by a kill or a full disk is left out."""
    found = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def page(
    result: Mapping[str, Any],
    before: Sequence[Outcome],
    after: Sequence[Outcome],
    log: Sequence[Mapping[str, Any]],
) -> str:
    """The whole report."""
    difference, corpus, recipe = result["difference"], result["corpus"], result["recipe"]
    few = difference["files"] < LEAST_FILES
    drawn = f"gaps, of {difference['files']} files: too few to draw files" if few else "files"
    verdict = "better" if result["better"] else "not measurably better"
    steps = [line for line in log if "loss" in line]
    body = [
        f"<h1>{_text(result['repository'])}: tuned on {_text(result['model'])}</h1>",
        f"<p class={'good' if result['better'] else 'bad'}><b>The tuned model is {verdict}</b> on held-out files:"
        f" {difference['bits']:+.3f} bits a token (95 % interval {difference['bits_low']:+.3f} to"
        f" {difference['bits_high']:+.3f}, over {drawn}); of the exact answers {difference['gained']:.0f} gained and"
        f" {difference['lost']:.0f} lost (McNemar, p = {difference['p_exact']:.3g}).</p>",
        _numbers(result["before"], result["after"], _alike(before, after)),
        "<p><small>Greedy answers of the engine's own generator (<code>verify</code> as the model's default). An answer"
        " is exact when it equals what stood there. Tokens a forward and the clock leave the prompt's forwards out;"
        " drafts are planned by one fixed cost curve.</small></p>",
        "<h2>By kind of gap</h2>",
        _by_kind(before, after),
        "<h2>Training</h2>",
        _curves(log),
        "<h2>Held-out files</h2>",
        _scatter(before, after),
        "<h2>Gained</h2>",
        *_examples(before, after, gained=True),
        "<h2>Lost</h2>",
        *_examples(before, after, gained=False),
        "<h2>What was learnt from</h2>",
        f"<p>{corpus['documents']:,} files with {corpus['tokens']:,} tokens, an eighth of the files held out (near"
        f" duplicates were taken out first). Benchmarks: {_text(corpus['benchmarks'])}.</p>",
        _table(
            ("left out, or noted", "files"), sorted(corpus["left_out"].items(), key=lambda item: -item[1])
        ),
        _table(("edits", "number"), corpus["edits"].items()),
        "<h2>How</h2>",
        f"<p>{recipe['steps']} steps of {recipe['sequences']} sequences, {steps[-1]['rows'] if steps else 0:,} rows,"
        f" {steps[-1]['cpu_minutes'] if steps else 0} minutes of processor time on each of {result['threads']} threads;"
        f" adapter {result['adapter_bytes'] / 1e6:.1f} MB.</p>",
        f"<pre>{_text(result['command'])}</pre>",
        f"<pre>{_text(json.dumps(recipe, indent=1))}</pre>",
    ]
    title = f"{_text(result['repository'])}: tuning report"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        + "\n".join(body)
        + "</html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(head: Sequence[str], rows: Any) -> str:
    cells = "".join(f"<th>{_text(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{lines}</table>"


def _numbers(before: Mapping[str, float], after: Mapping[str, float], alike: Sequence[str] | None) -> str:
    names = {
        "bits_per_token": ("bits a token of the true text", "{:.3f}"),
        "exact": ("exact answers", "{:.1%}"),
        "similarity": ("edit similarity", "{:.3f}"),
        "tokens_per_forward": ("tokens a forward", "{:.2f}"),
        "ms_per_token": ("ms a token, on this machine", "{:.0f}"),
    }
    rows = [[name, form.format(before[key]), form.format(after[key])] for key, (name, form) in names.items()]
    rows[-1:-1] = [[*alike]] if alike else []
    return _table((f"{before['gaps']:.0f} gaps", "base", "tuned"), rows)


def _alike(before: Sequence[Outcome], after: Sequence[Outcome]) -> Sequence[str] | None:
    """Tokens a forward of the gaps that both answer alike: there the text has no part in the difference."""
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b.answer == a.answer and b.tokens]
    if not pairs:
        return None
    ratios = [
        sum(o.tokens for o in side) / sum(o.forwards for o in side) for side in zip(*pairs, strict=True)
    ]
    return f"... in the {len(pairs)} that both answer alike", *map("{:.2f}".format, ratios)


def _by_kind(before: Sequence[Outcome], after: Sequence[Outcome]) -> str:
    rows = []
    for kind in sorted({outcome.kind for outcome in before}):
        pair = [[o for o in side if o.kind == kind] for side in (before, after)]
        exact = [f"{sum(o.exact for o in side)} of {len(side)}" for side in pair]
        bits = [f"{sum(o.bits for o in side) / sum(o.scored for o in side):.3f}" for side in pair]
        rows.append((kind, *exact, *bits))
    return _table(("kind", "exact, base", "exact, tuned", "bits, base", "bits, tuned"), rows)


def _examples(before: Sequence[Outcome], after: Sequence[Outcome], *, gained: bool) -> list[str]:
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if a.exact == gained and b.exact != gained]
    shown = [
        f"<p>{_text(b.name)} <small>({b.kind})</small></p><pre>base   {_text(b.answer)}\ntuned  {_text(a.answer)}</pre>"
        for b, a in pairs[:_SHOWN]
    ]
    return shown or ["<p>None.</p>"]


def _curves(log: Sequence[Mapping[str, Any]]) -> str:
    steps = [line for line in log if "loss" in line]
    held = [line for line in log if line.get("bits_per_token") is not None]
    drawn, (left, right) = figure(1, 2, 9.0, 3.2)
    at, losses = [line["step"] for line in steps], [line["loss"] for line in steps]
    left.plot(at, losses, lw=1, alpha=0.35)
    left.plot(at, smoothed(losses), lw=1.5, color="C0", label=f"mean of the last {SMOOTHED}")
    left.legend(fontsize=8, frameon=False)
    left.set(xlabel="step", ylabel="loss of clean and drafted rows", title="training")
    right.plot([line["evaluation"] for line in held], [line["bits_per_token"] for line in held], "o-")
    right.set(xlabel="step", ylabel="bits a token", title="held-out windows")
    return svg(drawn)


def _scatter(before: Sequence[Outcome], after: Sequence[Outcome]) -> str:
    files: dict[str, list[tuple[float, float, int]]] = {}
    for b, a in zip(before, after, strict=True):
        files.setdefault(b.name.rpartition(":")[0], []).append((b.bits, a.bits, b.scored))
    points = [
        [sum(row[n] for row in rows) / sum(row[2] for row in rows) for n in (0, 1)] for rows in files.values()
    ]
    drawn, axes = figure(1, 1, 4.5, 4.2)
    most = max(map(max, points)) * 1.05
    axes.plot([0, most], [0, most], color="#999", lw=1)
    axes.plot([p[0] for p in points], [p[1] for p in points], "o", alpha=0.7)
    axes.set(
        xlabel="base, bits a token",
        ylabel="tuned, bits a token",
        title="one point a file; below the line: better",
    )
    return svg(drawn)


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, `SMOOTHED` in all."""
    return [statistics.fmean(values[max(0, n - SMOOTHED) : n]) for n in range(1, len(values) + 1)]


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """matplotlib's figure and axes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": "diffcoder", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3})
    return pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained")


def svg(drawn: Any) -> str:
    """The figure as SVG that can stand in a page."""
    from matplotlib import pyplot

    out = io.StringIO()
    drawn.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(drawn)
    return re.sub(r"^.*?(<svg )", r"\1", out.getvalue(), flags=re.S)
