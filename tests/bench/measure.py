"""What the benchmarks share: interleaved repeats, and rows with the table that shows them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table


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
    import torch  # here, as a part's process is to import no more than the part does

    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(warm_up + repeats):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            # Only a case that runs here has started the device, and others need not wait for it.
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if repeat >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Ratio within each repeat."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


def write_rows(part: str, file: str) -> None:
    """Measure a part, a module by its name, and leave its rows as JSON; NaN is refused."""
    rows = [asdict(row) for row in import_module(part).rows()]
    Path(file).write_text(json.dumps(rows, allow_nan=False))


def print_rows(rows: Sequence[Row], title: str = "", console: Console | None = None) -> None:
    """Show rows as a table, those of a part together; ranges are of the repeats."""
    # A pipe has no width of its own; 80 columns would break most cells.
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    table = Table(title=title, title_justify="left")
    for name in ("part", "case"):
        table.add_column(name)
    for name in ("median", "range"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("unit", "asked for, or why not measured"):
        table.add_column(name)
    for part, members in groupby(rows, key=lambda row: row.part):
        for place, row in enumerate(members):
            single = row.low is None or row.high is None
            span = "" if single else f"{_figure(row.low)} to {_figure(row.high)}"
            name = "" if place else part
            table.add_row(name, row.case, _figure(row.value), span, row.unit, row.note)
        table.add_section()
    console.print(table, markup=False)


def _figure(value: float | None) -> str:
    """Three figures, and all of whole numbers above."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
