"""What the benchmarks share: interleaved repeats, and the rows that `suite.py` prints."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        part: what is measured, the same for rows that belong together.
        case: the variant.
        value: median, or the one number that there is; None for "not measured".
        low, high: smallest and largest repeat; None if there was one.
        unit: of the three.
        note: what is asked for, or why there is no number.
    """

    part: str
    case: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    note: str = ""


def summary(part: str, case: str, values: Sequence[float], unit: str, note: str = "") -> Row:
    """Median, minimum and maximum of repeats as a row."""
    return Row(part, case, statistics.median(values), unit, min(values), max(values), note)


def interleaved(
    cases: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every case in every repeat, one case after the other so that all share the noise.

    The first ``warm_up`` rounds do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(warm_up + repeats):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Ratio within each repeat."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]
