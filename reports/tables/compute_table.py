"""Methods at equal epochs and at equal compute: the adversary's steps are paid for too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from reports.results.entrants import EQUAL, Entrant, as_dear
from reports.results.labels import SAME
from reports.results.training_log import Series, paired
from reports.tables.markup import Cell, Column, Row, Table, number_cell

# What equal compute changes, beside the method.
_FREE = ("method", "epochs", "pflops", "turns", "mask_optimiser", "update")


def probe_at(series: Series, flops: float) -> float:
    """Accuracy of the online probe after so many operations; NaN beyond the last."""
    spent, accuracy = paired(series, "flops", "probe")
    if not len(spent) or flops > spent[-1] * (1 + 1e-9):
        return math.nan
    return float(np.interp(flops, spent, accuracy))


def comparable(entrants: Mapping[str, Entrant]) -> list[list[Entrant]]:
    """Groups of methods that share everything but the method and how long they train."""
    groups: dict[tuple[str, ...], list[Entrant]] = {}
    for one in entrants.values():
        if one.control is None and one.settings and one.flops > 0:
            rest = tuple(
                f"{key}={value}"
                for key, value in sorted(one.settings.items())
                if key.split(".")[0] not in (*SAME, *_FREE)
            )
            groups.setdefault((one.data, *rest), []).append(one)
    return [group for group in groups.values() if len({one.method for one in group}) > 1]


def compute_table(entrants: Mapping[str, Entrant], logs: Mapping[str, Series]) -> Table | None:
    """What the online probe reached at the end, and with the operations of the cheapest row.

    Args:
        entrants: by hash8.
        logs: by run folder.
    """
    rows: list[Row] = []
    lines: list[dict[str, object]] = []
    for number, group in enumerate(comparable(entrants)):
        for row, line in _lines(group, logs, f"group{number}"):
            rows.append(row)
            lines.append(line)
    if not rows:
        return None
    return Table(
        name="compute",
        title="Equal compute",
        caption="Accuracy of the online probe on training batches, mean over seeds, in percent: at "
        "the end, and when as many operations were spent as the cheapest row of the block had in "
        "all. Rows of a block differ in the method and in how long they train.",
        columns=[
            Column(name)
            for name in (
                "Epochs",
                "PFLOP",
                "Probe at the end",
                "Probe at equal compute",
                "As dear as",
            )
        ],
        rows=rows,
        notes=[
            "The online probe says how training goes and is no evaluation. A row that was trained "
            "with a schedule for more operations has not annealed its learning rate where it is "
            "read off, so this view is hard on it; rows that end with equal compute (as dear as: "
            f"within {EQUAL:.0%}) compare by their scores in Tables 1 and 2."
        ],
        data=pd.DataFrame(lines),
    )


def equally_dear(one: Entrant, group: Sequence[Entrant]) -> list[Entrant]:
    """The others of a group with as many operations."""
    return [
        other
        for other in group
        if other is not one and other.method != one.method and as_dear(one, other)
    ]


def _lines(
    group: Sequence[Entrant], logs: Mapping[str, Series], block: str
) -> Iterator[tuple[Row, dict[str, object]]]:
    least = min(one.flops for one in group)
    for one in group:
        own = [logs[folder] for folder in one.runs.values() if folder in logs]
        last = _mean([probe_at(series, float(np.nanmax(series["flops"]))) for series in own])
        at_equal = _mean([probe_at(series, least) for series in own])
        alike = [other.label for other in equally_dear(one, group)]
        epochs = one.settings.get("epochs")
        yield (
            Row(
                one.label,
                [
                    Cell(str(epochs), value=epochs if isinstance(epochs, int | float) else None),
                    Cell(f"{one.flops / 1e15:.3g}", value=one.flops),
                    number_cell(last),
                    number_cell(at_equal),
                    Cell(", ".join(alike)),
                ],
                block,
            ),
            {
                "label": one.label,
                "data": one.data,
                "epochs": epochs,
                "pflop": one.flops / 1e15,
                "probe": last,
                "probe_at_equal_compute": at_equal,
                "as_dear_as": "; ".join(alike),
            },
        )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
