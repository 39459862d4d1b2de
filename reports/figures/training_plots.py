"""Figures of training: the online probe and the loss over time, and how much slots overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.style import INK, colours, panels, themed, wrapped
from reports.results.entrants import Entrant
from reports.results.training_log import Series, paired

MOST_CURVES = 10


def logged(entrants: Mapping[str, Entrant], logs: Mapping[str, Series]) -> list[Entrant]:
    """Those that have logs."""
    return [one for one in entrants.values() if any(run in logs for run in one.runs.values())]


def plot_curves(
    entrants: Mapping[str, Entrant], logs: Mapping[str, Series], x: str = "step"
) -> Figure | None:
    """Online probe and loss over training: mean over seeds, with a band from the lowest to highest.

    A seed that was stopped, or goes on, is a thin line beside the mean of the others.

    Args:
        entrants: by hash8; the first ``MOST_CURVES`` with logs are shown.
        logs: by run folder.
        x: one of `reports.results.training_log.KEYS`: "step", "epoch", "flops" or "seconds".

    Returns:
        None if nothing was logged.
    """
    shown = logged(entrants, logs)[:MOST_CURVES]
    if not shown:
        return None
    with themed():
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        grid = figure.subplots(1, 2)
        palette = colours(len(shown))
        for one, colour in zip(shown, palette, strict=True):
            own = {folder: logs[folder] for folder in one.runs.values() if folder in logs}
            whole = [series for folder, series in own.items() if folder in one.trained]
            parts = [series for folder, series in own.items() if folder not in one.trained]
            for axes, key in zip(grid, ("probe", "loss"), strict=True):
                _band(axes, [paired(series, x, key) for series in whole], colour)
                for series in parts:
                    axes.plot(*paired(series, x, key), color=colour, linewidth=0.7)
        grid[0].set_ylabel("online probe, accuracy in percent")
        grid[1].set_ylabel("loss")
        for axes in grid:
            axes.set_xlabel(x)
        handles = [
            Line2D([], [], color=colour, label=one.label)
            for one, colour in zip(shown, palette, strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _band(axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]], colour: Any) -> None:
    known = [(xs, ys) for xs, ys in curves if len(xs)]
    if not known:
        return
    start, end = max(xs[0] for xs, _ in known), min(xs[-1] for xs, _ in known)
    common = np.linspace(start, end, 200) if end > start else np.array([end])
    values = np.stack([np.interp(common, xs, ys) for xs, ys in known])
    axes.fill_between(common, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    marker = "" if len(common) > 1 else "o"
    axes.plot(common, values.mean(0), marker=marker, color=colour, linewidth=1.4)


def plot_overlap(overlaps: Mapping[str, np.ndarray]) -> Figure:
    """How much the slots of each method hide the same pixels, a heat map each.

    Args:
        overlaps: by label, cosine between slots k and l, mean over images. (k, k)
    """
    with themed():
        figure, grid = panels(len(overlaps), (2.0, 2.25), (0.9, 0.0), across=5)
        image = None
        for axes, (label, overlap) in zip(grid, overlaps.items(), strict=True):
            image = axes.imshow(overlap, vmin=0, vmax=1, cmap="cividis")
            slots = range(len(overlap))
            axes.set_xticks(slots, [str(k + 1) for k in slots])
            axes.set_yticks(slots, [str(k + 1) for k in slots])
            axes.grid(visible=False)
            axes.set_title(wrapped(label, 22), fontsize=8)
            for k in slots:
                for other in slots:
                    ink = INK if overlap[k, other] > 0.6 else "white"
                    axes.text(
                        other,
                        k,
                        f"{overlap[k, other]:.2f}",
                        ha="center",
                        va="center",
                        fontsize=7,
                        color=ink,
                    )
        if image is not None:
            figure.colorbar(image, ax=grid, shrink=0.8, label="cosine of two slots")
    return figure
