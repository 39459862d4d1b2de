"""Figures of ablations: scores over the values of one setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.style import colours, panels, themed, wrapped
from reports.results.entrants import Entrant
from reports.results.evaluations import Evaluation, evaluations
from reports.results.outcomes import Outcome, outcomes
from reports.tables.ablations import also_varied, block_label


def plot_ablation(
    frame: pd.DataFrame, key: str, groups: Sequence[Sequence[Entrant]]
) -> Figure | None:
    """Scores over the values of one setting: a panel per evaluation, a line per group.

    Args:
        frame: as `reports.load` or `reports.results.collect.collect` makes it.
        key: of the setting, dotted.
        groups: entrants that differ in nothing else, see `reports.tables.ablations.varied_alone`.

    Returns:
        None if no group was scored.
    """
    cells = outcomes(frame, "hash8")
    wanted = {one.hash8 for group in groups for one in group}
    columns = {
        column: heading
        for column, heading in evaluations(frame).items()
        if any((h, column) in cells for h in wanted)
    }
    if not columns:
        return None
    values: list[Any] = []
    for one in (one for group in groups for one in group):
        if one.settings.get(key) not in values:  # a list is no key of a dict
            values.append(one.settings.get(key))
    also = also_varied(key, [list(group) for group in groups])
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    order: list[Any] = sorted(values) if numeric else values  # type: ignore[type-var]
    with themed():
        figure, grid = panels(len(columns), (3.1, 2.6), (0.6, 0.5))
        palette = colours(len(groups))
        for axes, (column, heading) in zip(grid, columns.items(), strict=True):
            for group, colour in zip(groups, palette, strict=True):
                _line(axes, key, order, numeric, group, column, cells, colour)
            axes.set_title(wrapped(f"{heading} on {column.data}", 30))
            axes.set_xlabel(f"{key} with {also}" if also else key)
            axes.locator_params(axis="y", nbins=5)
            if not numeric:
                axes.set_xticks(range(len(order)), [str(value) for value in order])
        grid[0].set_ylabel("percent")
        handles = [
            Line2D([], [], color=colour, label=block_label(group[0], groups))
            for group, colour in zip(groups, palette, strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _line(
    axes: Axes,
    key: str,
    order: Sequence[Any],
    numeric: bool,
    group: Sequence[Entrant],
    column: Evaluation,
    cells: Mapping[tuple[str, Evaluation], Outcome],
    colour: Any,
) -> None:
    xs, means, every = [], [], []
    for one in sorted(group, key=lambda one: order.index(one.settings.get(key))):
        cell = cells.get((one.hash8, column))
        if cell is None or not cell.n:
            continue
        value = one.settings.get(key)
        x = float(value) if numeric else order.index(value)  # type: ignore[arg-type]
        xs.append(x)
        means.append(cell.mean)
        every += [(x, value) for value in cell.by_seed.values()]
    if every:
        axes.plot(*zip(*every, strict=True), "o", color=colour, markersize=3, alpha=0.5)
    axes.plot(xs, means, "-", color=colour, linewidth=1.4)
