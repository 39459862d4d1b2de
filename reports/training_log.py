"""What runs noted while they trained, thinned out: a long training has more lines than a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import numpy as np

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


def _uneven(lines: list[dict[str, Any]]) -> str | None:
    """The list of the lines that is not equally long in all of them."""
    for key in _SLOTS:
        if len({len(line[key]) for line in lines if key in line}) > 1:
            return f"{key} is not equally long in all lines"
    return None
