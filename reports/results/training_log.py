"""What runs noted while they trained, thinned out: a long training has more lines than a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from jaxtyping import Float

from benchmark.files import parsed_json
from benchmark.type_check import misfit

_SLOTS = ("slot_area", "slot_binary", "slot_budget", "slot_loss")
MOST = 400  # lines that are read of a log


class _Step(TypedDict):
    epoch: int
    step: int


class _Line(_Step, total=False):
    """What is read of a line; lists have an item per slot."""

    slot_area: list[float]
    slot_binary: list[float]
    slot_budget: list[float]
    slot_loss: list[float]
    unmasked_loss: float
    blank_loss: float
    loss: float
    probe: float
    flops: float
    seconds: float


def read_log(folder: Path, most: int | None = MOST) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl, evenly spaced, the last one among them; empty without one.

    Args:
        folder: of the run.
        most: lines to be read; None for all of them.

    Raises:
        ValueError: naming the file, if it is broken.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        texts = path.read_text("utf-8").splitlines()
        if most is not None and len(texts) > most:
            kept = np.linspace(0, len(texts) - 1, most).round().astype(int)
            texts = [texts[k] for k in kept]
        lines: list[Any] = [parsed_json(text) for text in texts]
        if fault := misfit(lines, list[_Line], "lines") or _uneven(lines):
            raise ValueError(fault)
    except ValueError as error:
        raise ValueError(f"{path} is broken ({error}); train that run again") from error
    return lines


Series = Mapping[str, Float[np.ndarray, "t"]]  # by key of `KEYS`, NaN where a line lacks it

KEYS = ("step", "epoch", "seconds", "flops", "loss", "probe")


def read_series(folders: Iterable[str]) -> tuple[dict[str, Series], list[str]]:
    """What reports draw of the logs of some runs.

    Args:
        folders: of the runs.

    Returns:
        Series by folder, for those that have a log; and a sentence for each log that is broken.
    """
    found: dict[str, Series] = {}
    problems = []
    for folder in folders:
        try:
            lines = read_log(Path(folder))
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        if lines:
            found[folder] = {
                key: np.array([line.get(key, math.nan) for line in lines], dtype=float)
                for key in KEYS
            }
    return found, problems


def paired(series: Series, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The values of two keys where both are known, those of y smoothed.

    A value is averaged with its neighbours, over a twentieth of the log: single batches jump.
    """
    both = ~np.isnan(series[x]) & ~np.isnan(series[y])
    values = pd.Series(series[y][both])
    window = 2 * (len(values) // 40) + 1
    return series[x][both], values.rolling(window, min_periods=1, center=True).mean().to_numpy()


def _uneven(lines: list[dict[str, Any]]) -> str | None:
    """The list of the lines that is not equally long in all of them."""
    for key in _SLOTS:
        if len({len(line[key]) for line in lines if key in line}) > 1:
            return f"{key} is not equally long in all lines"
    return None
