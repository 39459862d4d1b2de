"""Methods at equal epochs and at equal compute: the adversary's steps are paid for too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from reports.results.entrants import EQUAL, Entrant, as_dear
from reports.results.labels import SAME
from reports.results.outcomes import Outcome
from reports.results.training_log import Series, paired
from reports.tables.markup import Cell, Column, Row, Table

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
        caption="Accuracy of the online probe on training batches, averaged over a twentieth of "
        "the training, in percent, mean ± sample standard deviation over seeds, whose number n is "
        "told where it is not that of all: at the end, and when as many operations were spent as "
        "the cheapest row of the block had in all. Rows of a block differ in the method and in how "
        "long they train.",
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
        own = {seed: logs[folder] for seed, folder in one.runs.items() if folder in logs}
        ended = {seed: series for seed, series in own.items() if one.runs[seed] in one.trained}
        last = _reached(
            one, {k: probe_at(s, float(np.nanmax(s["flops"]))) for k, s in ended.items()}
        )
        at_equal = _reached(one, {k: probe_at(s, least) for k, s in own.items()})
        alike = [other.label for other in equally_dear(one, group)]
        epochs = one.settings.get("epochs")
        yield (
            Row(
                one.label,
                [
                    Cell(str(epochs), value=epochs if isinstance(epochs, int | float) else None),
                    Cell(f"{one.flops / 1e15:.3g}", value=one.flops),
                    _cell(last, len(one.runs)),
                    _cell(at_equal, len(one.runs)),
                    Cell(", ".join(alike)),
                ],
                block,
            ),
            {
                "label": one.label,
                "data": one.data,
                "epochs": epochs,
                "pflop": one.flops / 1e15,
                "probe": last.mean,
                "probe_std": last.std,
                "n": last.n,
                "probe_at_equal_compute": at_equal.mean,
                "probe_at_equal_compute_std": at_equal.std,
                "n_at_equal_compute": at_equal.n,
                "as_dear_as": "; ".join(alike),
            },
        )


def _reached(one: Entrant, probes: Mapping[int, float]) -> Outcome:
    """Of an entrant, by the probe of each seed; NaN counts for none."""
    scores = {seed: (probe,) for seed, probe in probes.items() if not math.isnan(probe)}
    return Outcome(scores, {}, one.hash8, tuple(one.runs.values()))


def _cell(reached: Outcome, asked: int) -> Cell:
    if not reached.n:
        return Cell()
    remark = f"(n={reached.n})" if reached.n != asked else ""
    return Cell(reached.told, remark=remark, value=reached.mean)
