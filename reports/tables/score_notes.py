"""What the reader of a table of scores must know beside the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pandas as pd

from reports.results.commits import origin_notes
from reports.results.evaluations import Evaluation
from reports.results.outcomes import Outcome, Ranking, Rival, Where, shown
from reports.stats import ALPHA, MOST_SEEDS, Test
from reports.tables.noise_table import pooled

_TESTS = {"t": "paired t test", "sign-flip": "test that flips the signs of paired differences"}
_NAMED = 8  # rows of a column whose seeds needed are told; the CSV has all


def notes_on(
    frame: pd.DataFrame,
    columns: Mapping[Evaluation, str],
    cells: Mapping[Where, Outcome],
    rankings: Mapping[Evaluation, Ranking],
    test: Test,
) -> Iterator[str]:
    """The sentences below a table.

    Args:
        frame: the results in the table.
        columns: with their headings.
        cells: of the table.
        rankings: of each column.
        test: by which they are made.
    """
    yield from origin_notes(frame)
    methods = frame[frame["control"].isna()]
    if (methods.groupby("data")["setting"].nunique() > 1).any():
        yield "The rows do not share one setting: some differ in more than the masking method."
    yield from underlining(
        {
            f"{heading} on {column.data}": rankings[column].rivals.values()
            for column, heading in columns.items()
        },
        test,
    )
    rows = dict.fromkeys(row for row, _ in cells)
    if any((row, column) not in cells for row in rows for column in columns):
        yield "–: no such task was planned for that row."
    by_column = {column: _of(cells, column) for column in columns}
    noises = [
        f"{heading} on {column.data} {_noise(by_column[column])}"
        for column, heading in columns.items()
        if any(len(scores) > 1 for one in by_column[column] for scores in one.scores.values())
    ]
    uneven = [
        f"{heading} on {column.data}"
        for column, heading in columns.items()
        if len({len(s) for one in by_column[column] for s in one.scores.values()}) > 1
    ]
    if uneven:
        yield (
            f"In {', '.join(uneven)} some seeds have more evaluation seeds than others, so that "
            "their scores are not equally noisy."
        )
    if noises:
        yield (
            "A seed counts with the mean over its evaluation seeds. Standard deviations of "
            f"pretraining and of the probe apart, pooled over rows: {'; '.join(noises)}."
        )


def underlining(
    rivals: Mapping[str, Iterable[Rival]], test: Test, *, among: str = "column"
) -> Iterator[str]:
    """What underlines mean, and where there are none because the test could not have rejected.

    Args:
        rivals: of the best, by what words call the place where they compete.
        test: by which they are compared.
        among: what the best is the best of.
    """
    everywhere = [rival for own in rivals.values() for rival in own]
    if any(rival.tied for rival in everywhere):
        yield (
            f"Underlined: not significantly worse than the best of the {among} "
            f"({_TESTS[test]} over shared seeds, Holm-corrected within the {among}, level "
            f"{ALPHA}). That is no evidence of being as good."
        )
    untold = [rival for rival in everywhere if _is_untold(rival)]
    if untold and len(untold) == len(everywhere):
        seeds = max(rival.comparison.n for rival in untold)
        yield (
            f"Nothing is underlined: with {seeds} shared seed{'s' * (seeds != 1)} the "
            f"{_TESTS[test]} cannot find a row worse than the best, so that not to be found worse "
            "would say nothing."
        )
    elif untold:
        where = ", ".join(place for place, own in rivals.items() if any(map(_is_untold, own)))
        yield (
            f"Neither underlined nor found worse are some rows of {where}: with their shared seeds "
            f"the {_TESTS[test]} cannot find a row worse."
        )


def _is_untold(rival: Rival) -> bool:
    return not rival.tied and not rival.worse


def seeds_that_would_decide(
    columns: Mapping[Evaluation, str], rankings: Mapping[Evaluation, Ranking]
) -> Iterator[str]:
    """How many seeds the comparisons with the best of each column want."""
    undecided = []
    for column, heading in columns.items():
        open_ones = {k: r for k, r in rankings[column].rivals.items() if not r.worse}
        if 0 < len(open_ones) <= _NAMED:
            words = ", ".join(f"{k} {_needed(rival)}" for k, rival in open_ones.items())
            undecided.append(f"{heading} on {column.data}: {words}")
    if undecided:
        yield (
            "Seeds that would tell a row from the best of its column (80% power of a t "
            "test at the first and hardest step of the correction, if difference and noise are as "
            "seen; – where too few seeds tell): "
            f"{'; '.join(undecided)}."
        )


def _needed(rival: Rival) -> str:
    if math.isnan(rival.comparison.effect):
        return "–"
    needed = rival.seeds_needed
    return f"over {MOST_SEEDS}" if needed is None else str(needed)


def _of(cells: Mapping[Where, Outcome], column: Evaluation) -> list[Outcome]:
    return [cell for (_, other), cell in cells.items() if other == column]


def _noise(cells: Sequence[Outcome]) -> str:
    """Both noises, pooled over rows."""
    return " and ".join(
        "unknown" if math.isnan(deviation) else shown(deviation)
        for deviation in (
            pooled(cell.noise.pretraining for cell in cells),
            pooled(cell.noise.probe for cell in cells),
        )
    )
