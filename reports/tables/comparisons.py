"""Every method against the plain objective and against each other, column by column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import pandas as pd

from reports.results.entrants import EQUAL, Entrant, as_dear, same_setting
from reports.results.evaluations import Evaluation, evaluations
from reports.results.outcomes import Outcome, Where, outcomes, shown
from reports.stats import ALPHA, Comparison, compare, holm, lowest_p
from reports.tables.markup import Cell, Column, Row, Table, number_cell, p_cell

EQUAL_COMPUTE = "equal compute"
_MOST = 300  # rows; of more pairs those with the plain objective come first


def comparison_table(frame: pd.DataFrame, entrants: Mapping[str, Entrant]) -> Table | None:
    """Pairs of methods on one pretraining data set, over the seeds that both have.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        entrants: by hash8.
    """
    cells = outcomes(frame[frame["control"].isna()], "hash8")
    headings = evaluations(frame)
    scored = {hash8 for (hash8, _), cell in cells.items() if cell.n > 1}
    pairs = _pairs([one for one in entrants.values() if one.hash8 in scored])
    chosen: dict[Evaluation, list[tuple[Entrant, Entrant]]] = {column: [] for column in headings}
    taken = 0
    for a, b in pairs:
        both = [column for column in headings if _share_seeds(a, b, column, cells)]
        if sum(map(len, chosen.values())) + len(both) > _MOST:
            break
        taken += 1
        for column in both:
            chosen[column].append((a, b))
    rows: list[Row] = []
    lines: list[dict[str, object]] = []
    for column, heading in headings.items():
        own = [
            (a, b, compare(cells[a.hash8, column].by_seed, cells[b.hash8, column].by_seed))
            for a, b in chosen[column]
        ]
        adjusted = holm([found.p_t for _, _, found in own])
        for (a, b, found), p in zip(own, adjusted, strict=True):
            needed = found.seeds_needed(len(own))
            rows.append(_row(a, b, found, p, needed, f"{heading} on {column.data}"))
            lines.append(_line(a, b, found, p, needed, column))
    if not rows:
        return None
    return Table(
        name="comparisons",
        title="Comparisons",
        caption="Differences of pairs of methods of one setting, or with as many operations, over "
        "the seeds that both have, in points: mean with its 95% t interval; p of the paired t "
        "test, Holm-corrected over the pairs here of an evaluation (bold where it is at most "
        "0.05); p of the sign-flip test, not corrected, as the interval is not; Cohen's d with "
        "Hedges' correction.",
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
                [
                    f"{taken} of {len(pairs)} pairs of methods, those with the plain "
                    "objective first; in a notebook the table of a part of the frame has others."
                ]
                if taken < len(pairs)
                else []
            ),
            "View: whether both had as many epochs, or as many operations (within "
            f"{EQUAL:.0%}). Seeds: how many would decide at a power of 80%, at the first and "
            "hardest step of the correction, if the difference and its noise are as seen. The "
            "sign-flip test assumes no distribution, and cannot go below 2/2^n: "
            f"{lowest_p(3, 'sign-flip'):.2f} with three seeds, so that it takes six seeds at "
            "least, and more for several pairs.",
        ],
        head="Pair",
        data=pd.DataFrame(lines),
    )


def _share_seeds(
    a: Entrant, b: Entrant, column: Evaluation, cells: Mapping[Where, Outcome]
) -> bool:
    """Whether two entrants have two scored seeds in common."""
    ours, theirs = (cells.get((one.hash8, column)) for one in (a, b))
    return ours is not None and theirs is not None and len(ours.scores.keys() & theirs.scores) > 1


def _pairs(methods: Sequence[Entrant]) -> list[tuple[Entrant, Entrant]]:
    """Those that can be compared; the plain objective comes second, and its pairs first."""
    alike = [
        (b, a) if a.method == "none" != b.method else (a, b)
        for b, a in combinations(methods, 2)
        if _alike(a, b)
    ]
    return sorted(alike, key=lambda pair: pair[1].method != "none")


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


def _row(
    a: Entrant, b: Entrant, found: Comparison, p: float, needed: int | None, where: str
) -> Row:
    decided = not math.isnan(p) and p <= ALPHA
    return Row(
        f"{a.label} – {b.label}",
        [
            Cell(where, runs=(*a.runs.values(), *b.runs.values())),
            Cell(view(a, b)),
            Cell(
                f"{found.difference:+.2f}",
                mark="decided" if decided else "",
                value=found.difference,
            ),
            Cell(f"{shown(found.low)} to {shown(found.high)}"),
            p_cell(p),
            p_cell(found.p_sign_flip),
            number_cell(found.effect),
            Cell(str(found.n), value=found.n),
            Cell("" if needed is None else str(needed), value=needed),
        ],
    )


def _line(
    a: Entrant,
    b: Entrant,
    found: Comparison,
    p: float,
    needed: int | None,
    column: Evaluation,
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
        "seeds_needed": needed,
        "protocol_id": column.protocol_id,
    }
