"""Every method against the plain objective and against each other, column by column."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations

import pandas as pd

from reports.results.entrants import EQUAL, Entrant, as_dear, same_setting
from reports.results.evaluations import Evaluation, evaluations
from reports.results.outcomes import Outcome, outcomes, shown
from reports.stats import ALPHA, Comparison, compare, holm, lowest_p
from reports.tables.markup import Cell, Column, Row, Table, number_cell, p_cell

EQUAL_COMPUTE = "equal compute"
_MOST = 300  # pairs; of more, those with the plain objective, else the first


def comparison_table(frame: pd.DataFrame, entrants: Mapping[str, Entrant]) -> Table | None:
    """Pairs of methods on one pretraining data set, over the seeds that both have.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        entrants: by hash8.
    """
    cells = outcomes(frame[frame["control"].isna()], "hash8")
    headings = evaluations(frame)
    all_pairs = list(_pairs(entrants, cells))
    with_plain = [pair for pair in all_pairs if pair[1].method == "none"]
    pairs = all_pairs if len(all_pairs) <= _MOST else (with_plain or all_pairs)[:_MOST]
    compared = [compare(cells[a.hash8, c].by_seed, cells[b.hash8, c].by_seed) for a, b, c in pairs]
    rows: list[Row] = []
    lines: list[dict[str, object]] = []
    for column in dict.fromkeys(column for _, _, column in pairs):
        own = [
            (a, b, found) for (a, b, c), found in zip(pairs, compared, strict=True) if c == column
        ]
        adjusted = holm([found.p_t for _, _, found in own])
        for (a, b, found), p in zip(own, adjusted, strict=True):
            rows.append(_row(a, b, found, p, f"{headings[column]} on {column.data}"))
            lines.append(_line(a, b, found, p, column))
    if not rows:
        return None
    return Table(
        name="comparisons",
        title="Comparisons",
        caption="Differences of pairs of methods of one setting, or with as many operations, over "
        "the seeds that both have, in points: mean with its 95% t interval; p of the paired t "
        "test, Holm-corrected over the pairs of an evaluation (bold where it is at most 0.05); p "
        "of the sign-flip test, not corrected, as the interval is not; Cohen's d with Hedges' "
        "correction.",
        columns=[
            Column(name)
            for name in (
                "Evaluation",
                "View",
                "Difference",
                "95% interval",
                "p",
                "p, sign flip",
                "d",
                "n",
                "Seeds",
            )
        ],
        rows=rows,
        notes=[
            *(
                [f"{len(pairs)} of {len(all_pairs)} pairs, those with the plain objective first."]
                if len(pairs) < len(all_pairs)
                else []
            ),
            "View: whether both had as many epochs, or as many operations (within "
            f"{EQUAL:.0%}). Seeds: how many would decide at a power of 80%, if the difference and "
            "its noise are as seen. The sign-flip test assumes no distribution, and cannot go "
            f"below 2/2^n: {lowest_p(3, 'sign-flip'):.2f} with three seeds, so that it takes six "
            "seeds at least, and more for several pairs.",
        ],
        head="Pair",
        data=pd.DataFrame(lines),
    )


def _pairs(
    entrants: Mapping[str, Entrant], cells: Mapping[tuple[str, Evaluation], Outcome]
) -> Iterator[tuple[Entrant, Entrant, Evaluation]]:
    """Those of one pretraining data set with two shared seeds; the plain objective comes second."""
    methods = [one for one in entrants.values() if one.control is None]
    alike = [
        (b, a) if a.method == "none" != b.method else (a, b)
        for b, a in combinations(methods, 2)
        if _alike(a, b)
    ]
    for column in dict.fromkeys(column for _, column in cells):
        seeds = {h: {*cell.by_seed} for (h, other), cell in cells.items() if other == column}
        for a, b in alike:
            if len(seeds.get(a.hash8, _NONE) & seeds.get(b.hash8, _NONE)) > 1:
                yield a, b, column


_NONE: frozenset[int] = frozenset()


def _alike(a: Entrant, b: Entrant) -> bool:
    """Whether a difference can be put down to the method: one setting, or as many operations."""
    paid = a.data == b.data and a.objective == b.objective and as_dear(a, b)
    return same_setting(a, b) or paid


def view(a: Entrant, b: Entrant) -> str:
    """In what two entrants are alike: epochs, operations, both or neither."""
    words = []
    if a.settings and a.settings.get("epochs") == b.settings.get("epochs"):
        words.append("equal epochs")
    if as_dear(a, b):
        words.append(EQUAL_COMPUTE)
    return ", ".join(words)


def _row(a: Entrant, b: Entrant, found: Comparison, p: float, where: str) -> Row:
    decided = not math.isnan(p) and p <= ALPHA
    return Row(
        f"{a.label} – {b.label}",
        [
            Cell(where, runs=(*a.runs.values(), *b.runs.values())),
            Cell(view(a, b)),
            Cell(
                f"{found.difference:+.2f}", mark="best" if decided else "", value=found.difference
            ),
            Cell(f"{shown(found.low)} to {shown(found.high)}"),
            p_cell(p),
            p_cell(found.p_sign_flip),
            number_cell(found.effect),
            Cell(str(found.n), value=found.n),
            Cell(
                "" if found.seeds_needed is None else str(found.seeds_needed),
                value=found.seeds_needed,
            ),
        ],
    )


def _line(
    a: Entrant, b: Entrant, found: Comparison, p: float, column: Evaluation
) -> dict[str, object]:
    return {
        "a": a.label,
        "b": b.label,
        "task": column.task,
        "eval_data": column.data,
        "view": view(a, b),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p_t,
        "p_holm": p,
        "p_sign_flip": found.p_sign_flip,
        "effect": found.effect,
        "n": found.n,
        "seeds_needed": found.seeds_needed,
        "protocol_id": column.protocol_id,
    }
