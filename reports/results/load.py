"""Results as one tidy frame: no more than that is imported, since a notebook waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from reports.results.collect import COLUMNS, collect
from reports.results.found import find
from reports.results.labels import flattened


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
    # As objects: beside a row that lacks the key, pandas would turn whole numbers into floats.
    keys = pd.DataFrame.from_dict(
        {h: flattened(config) for h, config in found.configs.items()}, orient="index", dtype=object
    )
    keys = keys.drop(columns=[key for key in keys if key in COLUMNS or str(key).startswith("run.")])
    problems = [str(problem) for problem in frame["problem"].dropna().unique()]
    frame = frame.join(keys, on="hash8")
    frame.attrs["left_out"] = [*found.left_out, *problems]
    return frame


def settings_of(frame: pd.DataFrame) -> dict[str, Mapping[str, object]]:
    """The settings that the frame's own columns hold, by hash8."""
    keys = [key for key in frame if key not in COLUMNS]
    firsts = frame.drop_duplicates("hash8").set_index("hash8")[keys]
    return {
        str(h): {str(k): v for k, v in line.items() if isinstance(v, list) or pd.notna(v)}
        for h, line in firsts.to_dict("index").items()
    }
