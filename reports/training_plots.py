"""Figures of training: the online probe and the loss over time, and how much slots overlap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.entrants import Entrant
from reports.figures import INK, colours, themed, wrapped
from reports.training_log import read_log

_MOST_CURVES = 10


def plot_curves(entrants: Mapping[str, Entrant], x: str = "step") -> Figure | None:
    """Online probe and loss over training: mean over seeds, with a band from the lowest to highest.

    Args:
        entrants: by hash8; the first ten with logs are shown.
        x: "step", "epoch", "flops" or "seconds", which the log tells for each line.

    Returns:
        None if nothing was logged.
    """
    logs: dict[str, list[list[dict[str, Any]]]] = {}
    for one in entrants.values():
        runs = [read_log(Path(folder)) for folder in one.runs.values()]
        runs = [lines for lines in runs if any("loss" in line for line in lines)]
        if runs:
            logs[one.label] = runs
        if len(logs) == _MOST_CURVES:
            break
    if not logs:
        return None
    with themed():
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        grid = figure.subplots(1, 2)
        palette = colours(len(logs))
        for runs, colour in zip(logs.values(), palette, strict=True):
            for axes, key in zip(grid, ("probe", "loss"), strict=True):
                _band(axes, runs, x, key, colour)
        grid[0].set_ylabel("online probe, accuracy in percent")
        grid[1].set_ylabel("loss")
        for axes in grid:
            axes.set_xlabel(x)
        handles = [
            Line2D([], [], color=colour, label=label)
            for label, colour in zip(logs, palette, strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _band(
    axes: Axes, runs: Sequence[Sequence[Mapping[str, Any]]], x: str, key: str, colour: Any
) -> None:
    curves = []
    for lines in runs:
        points = [(line[x], line[key]) for line in lines if x in line and key in line]
        if points:
            xs, ys = (np.array(values, dtype=float) for values in zip(*points, strict=True))
            curves.append((xs, _smooth(ys)))
    if not curves:
        return
    start, end = max(xs[0] for xs, _ in curves), min(xs[-1] for xs, _ in curves)
    common = np.linspace(start, end, 200) if end > start else np.array([end])
    values = np.stack([np.interp(common, xs, ys) for xs, ys in curves])
    axes.fill_between(common, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    marker = "" if len(common) > 1 else "o"
    axes.plot(common, values.mean(0), marker=marker, color=colour, linewidth=1.4)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Averages over a twentieth of training: single batches jump."""
    window = 2 * (len(values) // 40) + 1
    rolled = pd.Series(values).rolling(window, min_periods=1, center=True).mean()
    return np.asarray(rolled)


def plot_overlap(overlaps: Mapping[str, np.ndarray]) -> Figure:
    """How much the slots of each method hide the same pixels, a heat map each.

    Args:
        overlaps: by label, cosine between slots k and l, mean over images. (k, k)
    """
    across = min(5, len(overlaps))
    down = math.ceil(len(overlaps) / across)
    with themed():
        figure = Figure(figsize=(2.0 * across + 0.9, 2.25 * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        image = None
        for axes, (label, overlap) in zip(grid.flat, overlaps.items(), strict=False):
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
        for axes in grid.flat[len(overlaps) :]:
            axes.set_visible(False)
        if image is not None:
            figure.colorbar(image, ax=grid, shrink=0.8, label="cosine of two slots")
    return figure
