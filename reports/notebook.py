"""What a notebook asks for: tables and figures of the frame of `load`."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from reports.figures.ablation_plots import plot_ablation as _plot_ablation
from reports.figures.score_plots import plot_compute as _plot_compute
from reports.figures.score_plots import plot_points as plot_points
from reports.figures.training_plots import plot_curves as _plot_curves
from reports.material import chapters, gather
from reports.results.entrants import Entrant, entrants
from reports.results.load import settings_of
from reports.results.training_log import read_series
from reports.stats import Test
from reports.tables.ablations import varied_alone
from reports.tables.markup import Table


def all_tables(frame: pd.DataFrame, test: Test = "t") -> dict[str, Table]:
    """Every table that a frame of `load`, or a part of it, has something for, by name.

    Files that are broken are passed over; `reports/build.py` names them.
    """
    made = chapters(gather(frame, settings_of(frame)), test=test)
    return {one.name: one for tables in made.values() for one in tables}


def table(frame: pd.DataFrame, name: str = "table1", test: Test = "t") -> Table:
    """One of `all_tables`; a notebook shows it as HTML, ``.styled()`` is a pandas Styler.

    Raises:
        ValueError: if the frame has nothing for it.
    """
    made = all_tables(frame, test)
    if name not in made:
        raise ValueError(f"there is no table {name} of these results; there are {', '.join(made)}")
    return made[name]


def plot_curves(frame: pd.DataFrame, x: str = "step") -> Figure:
    """See `reports.figures.training_plots.plot_curves`; raises ValueError without logs."""
    return _drawn(
        lambda: _plot_curves(_entrants(frame), read_series(frame["run"].unique())[0], x),
        "no run has logged its training",
    )


def plot_compute(frame: pd.DataFrame) -> Figure:
    """See `reports.figures.score_plots.plot_compute`; raises ValueError without operations."""
    return _drawn(lambda: _plot_compute(frame, _entrants(frame)), "no operations are known")


def plot_ablation(frame: pd.DataFrame, key: str) -> Figure:
    """See `reports.figures.ablation_plots`; raises ValueError if ``key`` does not vary."""
    varied = varied_alone(_entrants(frame).values())
    known = ", ".join(varied) or "none"
    return _drawn(
        lambda: _plot_ablation(frame, key, varied[key]) if key in varied else None,
        f"{key} alone varies nowhere in these results; settings that do: {known}",
    )


def _drawn(draw: Callable[[], Figure | None], otherwise: str) -> Figure:
    figure = draw()
    if figure is None:
        raise ValueError(otherwise)
    return figure


def _entrants(frame: pd.DataFrame) -> dict[str, Entrant]:
    return entrants(frame, settings_of(frame))
