"""What slots do while they train: areas against budgets, how binary they are, what they cost."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from benchmark.mask_metrics import EMPTY
from reports.figures.style import FAINT, INK, colours, save_sheets
from reports.results.mask_runs import Configuration, origin, sheets
from reports.results.masked_run import MaskedRun

Line = Mapping[str, Any]  # of metrics.jsonl
Reading = Callable[[Line], list[float] | None]
Palette = Sequence[tuple[float, float, float]]

_COLUMNS = 5  # of a picture
_POINTS = 150  # of a curve; more lines than that are averaged in equal parts
_LABEL = 28  # letters in a line of a label
_STYLES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
_BUDGET_STYLE: dict[str, Any] = {"linewidth": 4, "alpha": 0.25}
_BUDGETS = ("budget", "ratio")  # keys of a method that say how much it may hide


def write_curves(configurations: Sequence[Configuration], out: Path) -> list[Path]:
    """Draw a column per configuration, all seeds in it.

    Returns:
        The files written: ``curves.png``, or several for many configurations or data sets.

    Raises:
        ValueError: naming a file that is broken.
    """
    return save_sheets(sheets(configurations, _COLUMNS), _picture, out / "curves")


def series(
    lines: Sequence[Line], reading: Reading
) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t k"]]:
    """Steps and values of the lines that have the reading, averaged to at most ``_POINTS``."""
    pairs = [(line["step"], found) for line in lines if (found := reading(line)) is not None]
    if not pairs:
        return np.empty(0), np.empty((0, 0))
    steps, values = (np.array(part, dtype=float) for part in zip(*pairs, strict=True))
    parts = np.array_split(np.arange(len(steps)), min(len(steps), _POINTS))
    return (
        np.array([steps[part].mean() for part in parts]),
        np.array([values[part].mean(0) for part in parts]),
    )


def added_loss(line: Line) -> list[float] | None:
    """Loss under each mask minus the loss without mask."""
    if "slot_loss" not in line or "unmasked_loss" not in line:
        return None
    return [loss - line["unmasked_loss"] for loss in line["slot_loss"]]


def empty_below(line: Line) -> list[float] | None:
    """Added loss below which a slot counts as empty."""
    if "blank_loss" not in line or "unmasked_loss" not in line:
        return None
    return [EMPTY * (line["blank_loss"] - line["unmasked_loss"])]


def logged(key: str) -> Reading:
    """The reading that a line has under ``key``."""
    return lambda line: line.get(key)


_ROWS: tuple[tuple[str, Reading], ...] = (
    ("area of a slot", logged("slot_area")),
    ("share of binary pixels", logged("slot_binary")),
    ("loss added by hiding", added_loss),
)


def _picture(configurations: Sequence[Configuration]) -> Figure:
    logs = [[(m, m.lines()) for m in c.runs] for c in configurations]
    slots = [_slots([lines for _, lines in runs]) for runs in logs]
    seeds = sorted({masked.run.seed for runs in logs for masked, _ in runs})
    palette = colours(max(slots))
    count = len(configurations)
    figure = Figure(figsize=(max(2.6 * count + 0.8, 6.5), 7.4), layout="constrained")
    grid = figure.subplots(len(_ROWS), count, sharex="col", sharey="row", squeeze=False)
    for column, (configuration, runs) in enumerate(zip(configurations, logs, strict=True)):
        for axes, (_, reading) in zip(grid[:, column], _ROWS, strict=True):
            for masked, lines in runs:
                style = _STYLES[seeds.index(masked.run.seed) % len(_STYLES)]
                _draw(axes, series(lines, reading), slots[column], palette, style)
            if not axes.lines:
                axes.text(
                    0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color=FAINT
                )
        _draw_budget(grid[0, column], configuration.first, runs[0][1], palette)
        for _, lines in runs:
            steps, threshold = series(lines, empty_below)
            if len(steps):
                grid[2, column].plot(steps, threshold, color=FAINT, linewidth=1, linestyle=":")
        grid[0, column].set_title("\n".join(textwrap.wrap(configuration.label, _LABEL)))
        grid[-1, column].set_xlabel("step")
    for axes, (title, _) in zip(grid[:, 0], _ROWS, strict=True):
        axes.set_ylabel(title)
    grid[0, 0].set_ylim(bottom=0)
    grid[1, 0].set_ylim(-0.03, 1.03)
    _explain(figure, configurations, palette, seeds)
    return figure


def _slots(logs: Sequence[Sequence[Line]]) -> int:
    """Number of masks, from the first line that tells."""
    areas = (line["slot_area"] for lines in logs for line in lines if "slot_area" in line)
    return len(next(areas, [0]))


def _draw(
    axes: Axes, curve: tuple[np.ndarray, np.ndarray], slots: int, palette: Palette, style: str
) -> None:
    """One curve per slot, or black ones where the values are not those of the slots: ADIOS-s."""
    steps, values = curve
    if len(steps) and values.shape[1] != slots and not axes.texts:
        axes.annotate(
            "not told apart by slot",
            (0.03, 0.97),
            xycoords="axes fraction",
            va="top",
            fontsize=8,
            color=FAINT,
        )
    marker = "o" if len(steps) == 1 else ""
    for k in range(values.shape[1]):
        colour = palette[k] if values.shape[1] == slots else INK
        axes.plot(steps, values[:, k], style, marker=marker, color=colour, linewidth=1.2)


def _draw_budget(axes: Axes, masked: MaskedRun, lines: Sequence[Line], palette: Palette) -> None:
    """What slots may hide: as logged, or the one number in the configuration."""
    steps, budgets = series(lines, logged("slot_budget"))
    method = masked.config.get("method", {})
    fixed = [method[key] for key in _BUDGETS if isinstance(method.get(key), int | float)]
    if len(steps) and np.allclose(budgets, budgets[:, :1]):
        axes.plot(steps, budgets[:, 0], color=INK, **_BUDGET_STYLE)
    elif len(steps):
        for k in range(budgets.shape[1]):
            axes.plot(steps, budgets[:, k], color=palette[k], **_BUDGET_STYLE)
    elif fixed:
        axes.axhline(fixed[0], color=INK, **_BUDGET_STYLE)


def _explain(
    figure: Figure, configurations: Sequence[Configuration], palette: Palette, seeds: Sequence[int]
) -> None:
    """Title, legend, and where all of it comes from."""
    entries = [Line2D([], [], color=c, label=f"slot {k + 1}") for k, c in enumerate(palette)]
    for k, seed in enumerate(seeds):
        style = _STYLES[k % len(_STYLES)]
        entries.append(Line2D([], [], color=INK, linestyle=style, label=f"seed {seed}"))
    entries.append(Line2D([], [], color=INK, label="budget", **_BUDGET_STYLE))
    entries.append(Line2D([], [], color=FAINT, linewidth=1, linestyle=":", label="empty if below"))
    width, height = figure.get_size_inches()
    columns = int(width / 1.15)
    footer = textwrap.wrap(f"{origin(configurations)}.", round(15 * width))
    # By hand, since the layout would set a legend of its own on the footer.
    foot = 0.14 * (len(footer) + 1) / height
    legend = 0.24 * math.ceil(len(entries) / columns) / height
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, foot + legend, 1, 1 - foot - legend))
    figure.legend(
        handles=entries, loc="lower left", bbox_to_anchor=(0, foot), ncols=columns, frameon=False
    ).set_in_layout(False)
    figure.suptitle(f"Slots during training: {configurations[0].data}", x=0.01, ha="left")
    figure.text(0.01, 0.01, "\n".join(footer), fontsize=7, color=FAINT)
