"""Which setting did what: rows that differ in one key alone, found among whatever was run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from reports.entrants import Entrant
from reports.evaluations import Evaluation, evaluations
from reports.labels import SAME
from reports.markup import Column, Row, Table
from reports.outcomes import Outcome, outcomes, rank
from reports.score_tables import score_cell
from reports.stats import Test

Group = dict[str, list[Entrant]]  # by the value of the key


def ablation_tables(
    frame: pd.DataFrame, entrants: Mapping[str, Entrant], test: Test = "t"
) -> Iterator[Table]:
    """A table for each setting that alone differs between some rows.

    Args:
        frame: as `reports.collect.collect` makes it.
        entrants: by hash8.
        test: see `reports.score_tables.score_tables`.
    """
    cells = outcomes(frame, "hash8")
    columns = evaluations(frame)
    for key, groups in varied_alone(entrants.values()).items():
        rows: list[Row] = []
        shown: dict[Evaluation, str] = {
            column: heading
            for column, heading in columns.items()
            if any((one.hash8, column) in cells for group in groups for one in group)
        }
        for number, group in enumerate(groups):
            rows += _rows(key, group, shown, cells, f"group{number}", test)
        if shown:
            yield Table(
                name=f"ablation_{key.replace('.', '_')}",
                title=f"Ablation of {key}",
                caption=f"What {key} does: rows of a block differ in nothing else. Mean ± sample "
                "standard deviation over seeds, in percent; the best of a block is bold, those "
                "that are not significantly worse are underlined.",
                columns=[Column(heading, column.data) for column, heading in shown.items()],
                rows=rows,
                head="Setting",
            )


def varied_alone(entrants: Any) -> dict[str, list[list[Entrant]]]:
    """Groups of entrants that differ in one setting alone, by its key.

    Keys that follow from another one, as those that refer to it do, are named by the first of them.
    """
    known = [one for one in entrants if one.settings and one.control is None]
    flat = {
        one.hash8: {k: str(v) for k, v in one.settings.items() if k.split(".")[0] not in SAME}
        for one in known
    }
    found: dict[str, list[list[Entrant]]] = defaultdict(list)
    for method in dict.fromkeys((one.method, one.data) for one in known):
        own = [one for one in known if (one.method, one.data) == method]
        keys = dict.fromkeys(key for one in own for key in flat[one.hash8])
        varying = [k for k in keys if len({flat[one.hash8].get(k) for one in own}) > 1]
        for key in _leading(varying, [flat[one.hash8] for one in own]):
            groups: dict[tuple[str | None, ...], list[Entrant]] = defaultdict(list)
            together = _together(key, varying, [flat[one.hash8] for one in own])
            for one in own:
                rest = tuple(flat[one.hash8].get(k) for k in varying if k not in together)
                groups[rest].append(one)
            found[key] += [
                group
                for group in groups.values()
                if len({flat[one.hash8].get(key) for one in group}) > 1
            ]
    return {key: groups for key, groups in found.items() if groups}


def _together(key: str, varying: list[str], flat: list[dict[str, str]]) -> set[str]:
    """The keys whose values follow from those of one, and the other way round."""
    return {
        other
        for other in varying
        if len({(one.get(key), one.get(other)) for one in flat})
        == len({one.get(key) for one in flat})
        == len({one.get(other) for one in flat})
    }


def _leading(varying: list[str], flat: list[dict[str, str]]) -> list[str]:
    leading: list[str] = []
    for key in varying:
        if not any(key in _together(first, varying, flat) for first in leading):
            leading.append(key)
    return leading


def _rows(
    key: str,
    group: list[Entrant],
    columns: Mapping[Evaluation, str],
    cells: Mapping[tuple[str, Evaluation], Outcome],
    block: str,
    test: Test,
) -> Iterator[Row]:
    ordered = sorted(group, key=lambda one: _order(one.settings.get(key)))
    rankings = {
        column: rank(
            {one.hash8: cells[one.hash8, column] for one in group if (one.hash8, column) in cells},
            test,
        )
        for column in columns
    }
    asked = max((cells[w].asked for w in cells if w[0] in {one.hash8 for one in group}), default=0)
    for one in ordered:
        yield Row(
            f"{one.label.split(' [')[0]}, {key.split('.')[-1]}={one.settings.get(key)}",
            [
                score_cell(cells.get((one.hash8, column)), rankings[column], one.hash8, asked)
                for column in columns
            ],
            block,
        )


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)
