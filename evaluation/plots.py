"""The report's figures as SVG text, by matplotlib. Plain numbers in; knows no runs and no files."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from model.schema import DiffcoderError


class Bar(NamedTuple):
    """A share (0..1) with its interval, in a group (task) under a label (run). `theirs`: a published figure."""

    group: str
    label: str
    value: float
    low: float
    high: float
    theirs: bool = False


def figure(width: float = 8.0, height: float = 4.0) -> tuple[Any, Any]:
    try:
        import matplotlib
    except ImportError:
        raise DiffcoderError(
            "missing_library", "The report needs matplotlib: install diffcoder with its eval extra."
        ) from None
    matplotlib.use("svg")
    from matplotlib import pyplot

    # the same runs give the same bytes
    matplotlib.rcParams.update({"svg.hashsalt": "diffcoder", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3})
    return pyplot.subplots(figsize=(width, height), layout="constrained")


def svg(drawn: Any) -> str:
    from matplotlib import pyplot

    out = io.StringIO()
    drawn.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(drawn)
    text = out.getvalue()
    return re.sub(r"^.*?(<svg )", r"\1", text, flags=re.S)


def bars(data: Sequence[Bar], title: str) -> str:
    """Grouped bars in percent with their intervals; published figures hatched."""
    groups = list(dict.fromkeys(bar.group for bar in data))
    labels = list(dict.fromkeys(bar.label for bar in data))
    drawn, axes = figure(max(6.0, 1.0 + 0.5 * len(data)), 4.2)
    shade = {label: f"C{i % 10}" for i, label in enumerate(labels)}
    place, ticks, named = 0.0, [], set()
    for group in groups:
        mine = [bar for bar in data if bar.group == group]
        ticks.append(place + (len(mine) - 1) / 2)
        for bar in mine:
            error = [[100 * (bar.value - bar.low)], [100 * (bar.high - bar.value)]]
            axes.bar(
                place,
                100 * bar.value,
                color="white" if bar.theirs else shade[bar.label],
                edgecolor=shade[bar.label],
                hatch="///" if bar.theirs else None,
                yerr=None if bar.theirs else error,
                ecolor="#444",
                capsize=2,
                label=bar.label + (" (theirs)" if bar.theirs else "") if bar.label not in named else None,
            )
            named.add(bar.label)
            place += 1
        place += 0.8
    axes.set_xticks(ticks, groups, rotation=20, ha="right")
    axes.set_ylim(0, 100)
    axes.set_ylabel("passed, %")
    axes.set_title(title, loc="left")
    axes.legend(fontsize=7, ncols=2)
    return svg(drawn)


def lines(
    series: Mapping[str, Sequence[tuple[float, float, str]]],
    title: str,
    across: str,
    up: str,
    joined: bool = True,
) -> str:
    """One line (or cloud) a name, of points (x, y, note); notes stand beside the points."""
    drawn, axes = figure(7.0, 4.2)
    for number, (name, points) in enumerate(series.items()):
        ordered = sorted(points)
        style = "o-" if joined else "o"
        axes.plot(
            [p[0] for p in ordered], [p[1] for p in ordered], style, label=name, color=f"C{number % 10}"
        )
        for x, y, note in ordered:
            if note:
                axes.annotate(note, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(title, loc="left")
    axes.margins(0.12)
    axes.legend(fontsize=7)
    return svg(drawn)
