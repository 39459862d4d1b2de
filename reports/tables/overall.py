"""Methods over all tasks: mean rank, interquartile mean, probability of improvement.

After Agarwal et al. 2021 (arXiv 2108.13264), whose interquartile mean is over all seeds and tasks
together, with a bootstrap. Three seeds allow no bootstrap that covers, so here each seed has its
interquartile mean over tasks, and these have Student's t interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from reports.results.entrants import Entrant, same_setting
from reports.results.evaluations import Evaluation
from reports.results.outcomes import Outcome, outcomes, shown
from reports.stats import t_interval
from reports.tables.markup import Cell, Column, Row, Table, number_cell


def interquartile_mean(scores: Float[np.ndarray, "..."]) -> float:
    """The mean of the middle half of all scores."""
    return float(stats.trim_mean(np.asarray(scores).ravel(), 0.25))


def mean_ranks(means: Float[np.ndarray, "methods tasks"]) -> Float[np.ndarray, "methods"]:
    """Rank of each method, 1 for the best, ties shared, averaged over tasks."""
    ranks: Float[np.ndarray, "methods"] = stats.rankdata(-means, axis=0).mean(1)
    return ranks


def probability_of_improvement(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """How often a seed of a beats a seed of b, a tie being half a win; averaged over tasks.

    Args:
        a: scores by task, then seed.
        b: scores by task, then seed.
    """
    wins = [
        stats.mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs))
        for ours, theirs in zip(a, b, strict=True)
    ]
    return float(np.mean(wins))


def overall_table(frame: pd.DataFrame, entrants: Mapping[str, Entrant]) -> Table | None:
    """The methods of each pretraining data set over all tasks that all of them have.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        entrants: by hash8.
    """
    cells = outcomes(frame[frame["control"].isna()], "hash8")
    rows: list[Row] = []
    lines: list[dict[str, object]] = []
    notes: list[str] = []
    for data in dict.fromkeys(one.data for one in entrants.values()):
        all_of_data = [o for o in entrants.values() if o.data == data and o.control is None]
        columns = _common_columns(all_of_data, cells)
        own = [one for one in all_of_data if _has_all(one, columns, cells)]
        if len(own) < 2 or len(columns) < 2:
            continue
        tasks = ", ".join(f"{column.task} on {column.data}" for column in columns)
        notes.append(f"Pretrained on {data}: {len(columns)} tasks ({tasks}).")
        if lacking := [one.label for one in all_of_data if one not in own]:
            notes.append(f"Left out, as they lack one of these: {', '.join(lacking)}.")
        for row, line in _lines(own, columns, cells):
            rows.append(row)
            lines.append(line)
    if not rows:
        return None
    return Table(
        name="overall",
        title="Over all tasks",
        caption="Mean rank (1 is best); interquartile mean over tasks, in percent: the mean over n "
        "seeds, those that have all tasks, with its 95% t interval; the probability that a seed "
        "beats one of the same setting without masks. Tasks count alike.",
        columns=[
            Column(name)
            for name in (
                "Mean rank",
                "Interquartile mean",
                "95% interval",
                "n",
                "P(better than plain)",
            )
        ],
        rows=rows,
        notes=[
            *notes,
            "The interquartile mean of fewer than four tasks is their mean.",
            "The tasks of an encoder are no independent draws, and their scores have no common "
            "scale: read the columns of Tables 1 and 2 first.",
        ],
        data=pd.DataFrame(lines),
    )


def _common_columns(
    own: Sequence[Entrant], cells: Mapping[tuple[str, Evaluation], Outcome]
) -> list[Evaluation]:
    """What at least half of the entrants, and two of them, are scored by."""
    columns = dict.fromkeys(column for _, column in cells)
    counts = {column: sum(_has_all(one, [column], cells) for one in own) for column in columns}
    return [column for column, count in counts.items() if count >= max(2, len(own) / 2)]


def _has_all(
    one: Entrant,
    columns: Sequence[Evaluation],
    cells: Mapping[tuple[str, Evaluation], Outcome],
) -> bool:
    found = (cells.get((one.hash8, column)) for column in columns)
    return all(cell is not None and cell.n for cell in found)


def _lines(
    own: Sequence[Entrant],
    columns: Sequence[Evaluation],
    cells: Mapping[tuple[str, Evaluation], Outcome],
) -> Iterator[tuple[Row, dict[str, object]]]:
    means = np.array([[cells[one.hash8, column].mean for column in columns] for one in own])
    ranks = mean_ranks(means)
    for one, rank in zip(own, ranks, strict=True):
        mine = [cells[one.hash8, column].by_seed for column in columns]
        whole = set.intersection(*(set(scores) for scores in mine))
        by_seed = [interquartile_mean(np.array([s[k] for s in mine])) for k in sorted(whole)]
        middle = float(np.mean(by_seed)) if by_seed else math.nan
        low, high = t_interval(by_seed)
        plain = next((o for o in own if o.method == "none" and same_setting(o, one)), None)
        better = math.nan
        if plain is not None and plain is not one:
            theirs = [list(cells[plain.hash8, column].by_seed.values()) for column in columns]
            better = probability_of_improvement([list(s.values()) for s in mine], theirs)
        yield (
            Row(
                one.label,
                [
                    number_cell(float(rank)),
                    number_cell(middle),
                    Cell("" if math.isnan(low) else f"{shown(low)} to {shown(high)}"),
                    Cell(str(len(by_seed)), value=len(by_seed)),
                    number_cell(better),
                ],
            ),
            {
                "label": one.label,
                "data": one.data,
                "tasks": len(columns),
                "n": len(by_seed),
                "mean_rank": float(rank),
                "interquartile_mean": middle,
                "low": low,
                "high": high,
                "probability_better_than_plain": better,
            },
        )
