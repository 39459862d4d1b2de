"""Figures of scores: every seed visible, and accuracy against what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.style import FAINT, colours, panels, themed, wrapped
from reports.results.entrants import Entrant
from reports.results.evaluations import evaluations
from reports.results.outcomes import Outcome, outcomes

MOST_ROWS = 24  # of a panel of points, and of a legend; the methods that come first
_MARKERS = "osD^vPX*<>"


def plot_points(frame: pd.DataFrame) -> Figure:
    """A panel for each evaluation: each seed a point, mean and 95% t interval beside them.

    Args:
        frame: as `reports.load` or `reports.results.collect.collect` makes it; the first
            ``MOST_ROWS`` rows are drawn.

    Raises:
        ValueError: if there is no score.
    """
    columns = evaluations(frame)
    cells = outcomes(frame)
    labels = list(frame.sort_values("control", key=pd.notna, kind="stable")["label"].unique())
    labels = labels[:MOST_ROWS]
    if not columns:
        raise ValueError("there is no score to draw")
    with themed():
        figure, grid = panels(len(columns), (3.1, 0.24 * len(labels) + 0.9), (1.6, 0.0))
        for axes, (column, heading) in zip(grid, columns.items(), strict=True):
            _points(axes, [cells.get((label, column)) for label in labels])
            axes.set_title(wrapped(f"{heading} on {column.data}", 30))
            axes.set_xlabel("percent")
            # Labels beside the first panel of a row alone: ticks take most of the time to draw.
            first = axes.get_subplotspec().is_first_col()  # type: ignore[union-attr]
            if first:
                axes.set_yticks(range(len(labels)), labels)
            else:
                axes.set_yticks([])
    return figure


def _points(axes: Axes, cells: Sequence[Outcome | None]) -> None:
    palette = colours(max(len(cells), 1))
    scored = [(row, cell) for row, cell in enumerate(cells) if cell is not None and cell.n]
    told = [(row, *cell.interval) for row, cell in scored if cell.n > 1]
    rows, lows, highs = zip(*told, strict=True) if told else ((), (), ())
    bars = [(*palette[row], 0.35) for row in rows]
    axes.hlines(rows, lows, highs, colors=bars, linewidth=4)
    for marker, size, points in (
        ("|", 120, [(cell.mean, row) for row, cell in scored]),
        ("o", 16, [(score, row) for row, cell in scored for score in cell.by_seed.values()]),
    ):
        x, y = zip(*points, strict=True) if points else ((), ())
        width = 2 if marker == "|" else 0
        axes.scatter(x, y, s=size, c=[palette[row] for row in y], marker=marker, linewidths=width)
    axes.set_ylim(len(cells) - 0.4, -0.6)
    # An interval of two or three seeds may be wider than all scores: it does not set the scale.
    seen = [score for _, cell in scored for score in cell.by_seed.values()]
    if seen:
        margin = max(0.25 * (max(seen) - min(seen)), 0.5)
        axes.set_xlim(min(seen) - margin, max(seen) + margin)
    axes.locator_params(axis="x", nbins=5)


def plot_compute(frame: pd.DataFrame, entrants: Mapping[str, Entrant]) -> Figure | None:
    """Score against the operations of pretraining: a panel per evaluation, with its Pareto front.

    Args:
        frame: as `reports.load` or `reports.results.collect.collect` makes it.
        entrants: by hash8.

    Returns:
        None if no operations are known.
    """
    known = {h: one for h, one in entrants.items() if one.control is None and one.flops > 0}
    cells = outcomes(frame[frame["hash8"].isin(list(known))], "hash8")
    columns = {
        c: heading for c, heading in evaluations(frame).items() if any(k == c for _, k in cells)
    }
    if not columns:
        return None
    palette = dict(zip(known, colours(len(known)), strict=True))
    markers = {h: _MARKERS[k % len(_MARKERS)] for k, h in enumerate(known)}
    scale, unit = _unit(max(one.flops for one in known.values()))
    with themed():
        legend = 0.25 * math.ceil(min(len(known), MOST_ROWS) / 3)
        figure, grid = panels(len(columns), (3.1, 2.7), (0.6, legend))
        for axes, (column, heading) in zip(grid, columns.items(), strict=True):
            own = {h: cells[h, column] for h in known if (h, column) in cells}
            _against_compute(axes, {h: known[h].flops / scale for h in own}, own, palette, markers)
            axes.set_title(wrapped(f"{heading} on {column.data}", 30))
            axes.set_xlabel(f"operations, {unit}")
            axes.locator_params(nbins=5)
        grid[0].set_ylabel("percent")
        handles = [
            Line2D([], [], color=palette[h], marker=markers[h], linestyle="", label=one.label)
            for h, one in list(known.items())[:MOST_ROWS]
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _against_compute(
    axes: Axes,
    costs: Mapping[str, float],
    cells: Mapping[str, Outcome],
    palette: Mapping[str, Any],
    markers: Mapping[str, str],
) -> None:
    # A call for each marker, not for each of what may be hundreds of rows.
    for marker in dict.fromkeys(markers.values()):
        own = [h for h in costs if markers[h] == marker and cells[h].n]
        seeds = [(costs[h], score, h) for h in own for score in cells[h].by_seed.values()]
        means = [(costs[h], cells[h].mean, h) for h in own]
        for points, size, alpha in ((seeds, 10, 0.5), (means, 45, 1.0)):
            x, y = [point[0] for point in points], [point[1] for point in points]
            colour = [palette[h] for _, _, h in points]
            axes.scatter(x, y, s=size, c=colour, marker=marker, alpha=alpha, linewidths=0)
    front = pareto_front([(costs[h], cells[h].mean) for h in costs if cells[h].n])
    axes.plot(*zip(*front, strict=True), color=FAINT, linewidth=1, linestyle=":", zorder=0)


def _unit(flops: float) -> tuple[float, str]:
    """The largest unit of which there is one at least."""
    units = {1e18: "EFLOP", 1e15: "PFLOP", 1e12: "TFLOP", 1e9: "GFLOP"}
    return next(((scale, name) for scale, name in units.items() if flops >= scale), (1.0, "FLOP"))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no cheaper or as cheap one reaches, by cost."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front
