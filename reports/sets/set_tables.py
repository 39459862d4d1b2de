"""A comparison of two result sets in a sentence and as tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import pandas as pd

from reports.results.evaluations import Evaluation, evaluations
from reports.results.outcomes import Outcome, shown
from reports.sets.set_comparison import VERDICTS, Change, SetComparison, Verdict
from reports.tables.markup import Cell, Column, Row, Table, number_cell, p_cell

_NAMED = 3  # cells that the sentence names
_TOLD_APART: tuple[Verdict, ...] = ("higher", "lower")


def summary(found: SetComparison) -> str:
    """How many cells came out how, and the largest of those that can be told apart."""
    by_verdict = {
        verdict: [change for change in found.changes if change.verdict == verdict]
        for verdict in VERDICTS
    }
    headings = _headings(found)
    parts = [
        f"{len(changes)} {verdict}{_named(changes, headings) if verdict in _TOLD_APART else ''}"
        for verdict, changes in by_verdict.items()
        if changes
    ]
    counted = f"{_several(len(found.changes), 'cell')} compared"
    return f"{counted}: {', '.join(parts)}." if parts else f"{counted}."


def differing(found: SetComparison) -> str:
    """Why two sets do not count as the same, in words; empty if they do.

    They do if every cell is identical or not told apart, and neither side lacks anything or has
    something left out.
    """
    verdicts = Counter(change.verdict for change in found.changes)
    named: tuple[Verdict, ...] = (*_TOLD_APART, "too few seeds")
    parts = [f"{verdicts[verdict]} {verdict}" for verdict in named if verdicts[verdict]]
    gaps = Counter(("configuration" if g.column is None else "cell", g.kind) for g in found.gaps)
    parts += [f"{_several(count, what)} {kind}" for (what, kind), count in gaps.items()]
    if left_out := len(found.a.left_out) + len(found.b.left_out):
        parts.append(f"{_several(left_out, 'result')} left out")
    return ", ".join(parts)


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _named(changes: list[Change], headings: Mapping[Evaluation, str]) -> str:
    largest = sorted(changes, key=lambda change: -abs(change.tested.difference))
    words = [
        f"{one.match.a.label}, {headings[one.column]}: {one.tested.difference:+.2f}"
        for one in largest[:_NAMED]
    ]
    more = [f"{len(changes) - _NAMED} more"] if len(changes) > _NAMED else []
    return f" ({'; '.join([*words, *more])})"


def tables(found: SetComparison) -> list[Table]:
    """The cells, what was not compared, the cost and the origin of both sets."""
    return [_cells(found), _gaps(found), _cost(found), _origins(found)]


def _headings(found: SetComparison) -> dict[Evaluation, str]:
    frames = [side.frame for side in (found.a, found.b) if not side.frame.empty]
    if not frames:
        return {}
    named = evaluations(pd.concat(frames, ignore_index=True))
    return {column: f"{heading} on {column.data}" for column, heading in named.items()}


def _cells(found: SetComparison) -> Table:
    headings = _headings(found)
    names = (
        "Evaluation", "A", "B", "B – A", "95% interval", "p", "Test", "Verdict",
    )  # fmt: skip
    return Table(
        name="compare",
        title="Comparison",
        caption=f"{summary(found)} A is {found.a.place}, B is {found.b.place}: main metrics in "
        "percent, mean ± sample standard deviation over seeds of pretraining; difference with its "
        "95% interval, p by Holm's method corrected for all cells that are tested.",
        columns=[Column(name) for name in names],
        rows=[_row(change, headings[change.column]) for change in found.changes],
        notes=[
            "Identical: the same seeds with the same values, bit for bit, so that nothing is "
            "tested. Not told apart: no significant difference, which is no proof that there is "
            "none. Paired t: over the seeds that both have, where these are two or more, and so is "
            "the difference; Welch: over all seeds of each.",
            *found.settings,
        ],
        data=pd.DataFrame(map(_line, found.changes), columns=_LINE),
    )


def _row(change: Change, heading: str) -> Row:
    tested = change.tested
    decided = change.verdict in _TOLD_APART
    cells = [
        Cell(heading),
        _score(change.a),
        _score(change.b),
        Cell(
            f"{tested.difference:+.2f}", mark="decided" if decided else "", value=tested.difference
        ),
        Cell("" if math.isnan(tested.low) else f"{shown(tested.low)} to {shown(tested.high)}"),
        p_cell(change.p),
        Cell(tested.test),
        Cell(change.verdict),
    ]
    return Row(change.match.a.label, cells, "controls" if change.match.a.control else "methods")


def _score(outcome: Outcome) -> Cell:
    return Cell(outcome.told, f"(n={outcome.n})", value=outcome.mean)


_LINE = [
    "label", "hash8_a", "hash8_b", "task", "eval_data", "mean_a", "std_a", "n_a", "mean_b",
    "std_b", "n_b", "difference", "low", "high", "test", "p", "p_holm", "verdict", "protocol_id",
    "fingerprint",
]  # fmt: skip


def _line(change: Change) -> dict[str, object]:
    tested, column = change.tested, change.column
    return {
        "label": change.match.a.label,
        "hash8_a": change.match.a.hash8,
        "hash8_b": change.match.b.hash8,
        "task": column.task,
        "eval_data": column.data,
        "mean_a": change.a.mean,
        "std_a": change.a.std,
        "n_a": change.a.n,
        "mean_b": change.b.mean,
        "std_b": change.b.std,
        "n_b": change.b.n,
        "difference": tested.difference,
        "low": tested.low,
        "high": tested.high,
        "test": tested.test,
        "p": tested.p,
        "p_holm": change.p,
        "verdict": change.verdict,
        "protocol_id": column.protocol_id,
        "fingerprint": column.fingerprint,
    }


def _gaps(found: SetComparison) -> Table:
    headings = _headings(found)
    return Table(
        name="compare_gaps",
        title="Not compared",
        caption="What only one set has or neither, or both by different protocols or on different "
        "data.",
        columns=[Column("Evaluation"), Column("Why")],
        rows=[
            Row(gap.label, [Cell(headings[gap.column] if gap.column else "all"), Cell(gap.why)])
            for gap in found.gaps
        ],
    )


def _cost(found: SetComparison) -> Table:
    rows = []
    for pair in found.matches:
        costs = [(pair.a.seconds, pair.b.seconds), (pair.a.flops / 1e15, pair.b.flops / 1e15)]
        if any(a > 0 and b > 0 for a, b in costs):
            numbers = [number for a, b in costs for number in (a, b, _ratio(a, b))]
            rows.append(Row(pair.a.label, [number_cell(n, ".3g") for n in numbers]))
    columns = [
        Column(name, group) for group in ("Seconds", "PFLOP") for name in ("A", "B", "B / A")
    ]
    return Table(
        name="compare_cost",
        title="Cost",
        caption="Cost of one pretraining, medians over seeds.",
        columns=columns,
        rows=rows,
    )


def _ratio(a: float, b: float) -> float:
    return b / a if a else math.nan


def _origins(found: SetComparison) -> Table:
    return Table(
        name="compare_origins",
        title="Origins",
        caption="Where both sets come from, by what their runs and results noted.",
        columns=[Column("A"), Column("B"), Column("Differs")],
        rows=[
            Row(what, [Cell(a), Cell(b), Cell("yes" if a != b else "no")])
            for what, a, b in _sides(found)
        ],
        notes=[
            f"Left out of {name}: {sentence}"
            for name, side in (("A", found.a), ("B", found.b))
            for sentence in side.left_out
        ],
        head="",
    )


def _sides(found: SetComparison) -> Iterator[tuple[str, str, str]]:
    a, b = found.a, found.b
    for what in a.origins:
        yield what, ", ".join(a.origins[what]), ", ".join(b.origins[what])
    yield "Runs", *(str(side.frame["run"].nunique()) for side in (a, b))  # type: ignore[misc]
    yield "Left out", str(len(a.left_out)), str(len(b.left_out))
