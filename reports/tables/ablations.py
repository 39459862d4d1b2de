"""Which setting did what: rows that differ in one key alone, found among whatever was run."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from reports.results.entrants import Entrant
from reports.results.evaluations import Evaluation, evaluations
from reports.results.labels import SAME
from reports.results.outcomes import Outcome, Ranking, Rival, Where, outcomes, rank
from reports.stats import Test
from reports.tables.markup import Column, Row, Table
from reports.tables.score_notes import underlining
from reports.tables.score_tables import score_cell


def ablation_tables(
    frame: pd.DataFrame, entrants: Mapping[str, Entrant], test: Test = "t"
) -> Iterator[Table]:
    """A table for each setting that alone differs between some rows.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        entrants: by hash8.
        test: see `reports.tables.score_tables.score_tables`.
    """
    cells = outcomes(frame, "hash8")
    columns = evaluations(frame)
    varied = varied_alone(entrants.values())
    names = ablation_names(varied)
    for key, groups in varied.items():
        shown: dict[Evaluation, str] = {
            column: heading
            for column, heading in columns.items()
            if any((one.hash8, column) in cells for group in groups for one in group)
        }
        if not shown:
            continue
        hashes = {one.hash8 for group in groups for one in group}
        asked = max(cell.asked for (hash8, _), cell in cells.items() if hash8 in hashes)
        rows: list[Row] = []
        lines: list[dict[str, object]] = []
        rivals: dict[str, list[Rival]] = {}
        for number, group in enumerate(groups):
            rankings = {column: _ranked(group, column, cells, test) for column in shown}
            for one in sorted(group, key=lambda one: _order(one.settings.get(key))):
                label = block_label(one, groups)
                row = [
                    score_cell(cells.get((one.hash8, column)), ranking, one.hash8, asked)
                    for column, ranking in rankings.items()
                ]
                value = f"{key.split('.')[-1]}={one.settings.get(key)}"
                rows.append(Row(f"{label}, {value}", row, f"group{number}"))
                lines += [
                    {
                        "block": number + 1,
                        "label": label,
                        "setting": key,
                        "value": one.settings.get(key),
                        "evaluation": heading,
                        "task": column.task,
                        "eval_data": column.data,
                        **cell.numbers(),
                        **rankings[column].numbers(one.hash8),
                        "protocol_id": column.protocol_id,
                    }
                    for column, heading in shown.items()
                    if (cell := cells.get((one.hash8, column))) is not None
                ]
            for column, heading in shown.items():
                own = rivals.setdefault(f"{heading} on {column.data}", [])
                own += rankings[column].rivals.values()
        also = also_varied(key, groups)
        yield Table(
            name=names[key],
            title=f"Ablation of {key}{f' with {also}' if also else ''}",
            caption=f"What {key} does: rows of a block differ in nothing else"
            f"{f' but {also}, which vary with it' if also else ''}. Mean ± sample standard "
            f"deviation over n={asked} seeds, where a cell says no other n, in percent; the best "
            "of a block is bold.",
            columns=[Column(heading, column.data) for column, heading in shown.items()],
            rows=rows,
            notes=[*underlining(rivals, test, among="block")],
            head="Setting",
            data=pd.DataFrame(lines),
        )


def block_label(one: Entrant, groups: Sequence[Sequence[Entrant]]) -> str:
    """An entrant's name; with other blocks beside its own the whole one, which tells them apart."""
    return one.label.split(" [")[0] if len(groups) == 1 else one.label


def ablation_names(keys: Iterable[str]) -> dict[str, str]:
    """What the files of ablations are called, by key: no two alike, and safe in paths and LaTeX."""
    names: dict[str, str] = {}
    for key in keys:
        name = "ablation_" + re.sub(r"\W+", "_", key, flags=re.ASCII)
        while name in names.values():
            name += "_more"
        names[key] = name
    return names


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
    for alike in dict.fromkeys((one.method, one.data, one.preset) for one in known):
        own = [one for one in known if (one.method, one.data, one.preset) == alike]
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


def also_varied(key: str, groups: list[list[Entrant]]) -> str:
    """The other settings that are not the same within a block."""
    others: dict[str, None] = {}
    for group in groups:
        for other in dict.fromkeys(other for one in group for other in one.settings):
            values = {str(one.settings.get(other)) for one in group}
            if other != key and other.split(".")[0] not in SAME and len(values) > 1:
                others[other] = None
    return ", ".join(others)


def _ranked(
    group: list[Entrant], column: Evaluation, cells: Mapping[Where, Outcome], test: Test
) -> Ranking:
    own = {one.hash8: cells[one.hash8, column] for one in group if (one.hash8, column) in cells}
    return rank(own, test)


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)
