"""The report's figures as SVG text, by matplotlib. Plain numbers in; knows no runs and no files."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Bar(NamedTuple):
    """A share (0..1) with its interval, in a group (task) under a label (run). `theirs`: a published figure."""

    group: str
    label: str
    value: float
    low: float
    high: float
    theirs: bool = False


def figure(width: float = 8.0, height: float = 4.0) -> tuple[Any, Any]:
    import matplotlib

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
    """Bars in percent with their intervals, one below the other by group; published figures hatched."""
    groups = list(dict.fromkeys(bar.group for bar in data))
    labels = list(dict.fromkeys(bar.label for bar in data if not bar.theirs))
    shade = {label: f"C{i % 10}" for i, label in enumerate(labels)}
    drawn, axes = figure(9.0, 0.8 + 0.2 * (len(data) + len(groups)))
    place, ticks, names = 0.0, [], []
    for group in groups:
        names.append(group)
        ticks.append(place)
        for bar in (bar for bar in data if bar.group == group):
            place += 1
            error = [[100 * (bar.value - bar.low)], [100 * (bar.high - bar.value)]]
            axes.barh(
                place,
                100 * bar.value,
                color="white" if bar.theirs else shade[bar.label],
                edgecolor="#888" if bar.theirs else shade[bar.label],
                hatch="///" if bar.theirs else None,
                xerr=None if bar.theirs else error,
                ecolor="#444",
                capsize=2,
            )
            names.append(f"{bar.label} (theirs)" if bar.theirs else bar.label)
            ticks.append(place)
        place += 1.4
    axes.set_yticks(ticks, names, fontsize=7)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name in groups else "normal")
    axes.set_ylim(place, -1)
    axes.set_xlim(0, 100)
    axes.set_xlabel("passed, %")
    axes.set_title(title, loc="left")
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
