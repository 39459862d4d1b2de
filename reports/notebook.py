"""What a notebook asks for: one tidy frame, tables and figures of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from reports.figures.ablation_plots import plot_ablation as _plot_ablation
from reports.figures.score_plots import plot_compute as _plot_compute
from reports.figures.score_plots import plot_points as plot_points
from reports.figures.training_plots import plot_curves as _plot_curves
from reports.material import chapters, gather
from reports.results.collect import COLUMNS, collect
from reports.results.entrants import Entrant, entrants
from reports.results.found import find
from reports.results.labels import flattened
from reports.results.training_log import read_series
from reports.stats import Test
from reports.tables.ablations import varied_alone
from reports.tables.markup import Table


def load(*folders: str | Path) -> pd.DataFrame:
    """Every result below some folders as one tidy frame.

    Returns:
        One row per run, task, evaluation seed and metric, with the columns that
        `reports.results.collect` has and one for each key of the resolved configurations.
        ``attrs["left_out"]`` names what lies there and is in no row, or cannot be trusted.

    Raises:
        UserError: if a folder is none, or there is no run.
    """
    found = find([Path(folder) for folder in folders])
    frame = collect(found.runs, found.configs)
    keys = pd.DataFrame.from_dict(
        {h: flattened(config) for h, config in found.configs.items()}, orient="index"
    )
    keys = keys.drop(columns=[key for key in keys if key in COLUMNS or str(key).startswith("run.")])
    problems = [str(problem) for problem in frame["problem"].dropna().unique()]
    frame = frame.join(keys, on="hash8")
    frame.attrs["left_out"] = [*found.left_out, *problems]
    return frame


def all_tables(frame: pd.DataFrame, test: Test = "t") -> dict[str, Table]:
    """Every table that a frame of `load`, or a part of it, has something for, by name.

    Files that are broken are passed over; `reports/build.py` names them.
    """
    made = chapters(gather(frame, _configs(frame)), test=test)
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
    return entrants(frame, _configs(frame))


def _configs(frame: pd.DataFrame) -> dict[str, Mapping[str, object]]:
    """The settings that the frame's own columns hold, by hash8."""
    keys = [key for key in frame if key not in COLUMNS]
    firsts = frame.drop_duplicates("hash8").set_index("hash8")[keys]
    return {
        str(h): {str(k): v for k, v in line.items() if isinstance(v, list) or pd.notna(v)}
        for h, line in firsts.to_dict("index").items()
    }
