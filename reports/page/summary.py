"""The report in plain sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import pandas as pd

from reports.results.entrants import Entrant, same_setting
from reports.results.evaluations import Evaluation, evaluations, is_away
from reports.results.outcomes import Outcome, Ranking, outcomes, rank
from reports.stats import Test
from reports.tables.markup import Table

_LONG = 4  # rows that a sentence names


def summary(
    frame: pd.DataFrame, entrants: Mapping[str, Entrant], claims: Table, *, test: Test = "t"
) -> Iterator[str]:
    """What a reader in a hurry must know, most important first.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        entrants: by hash8.
        claims: the table of them.
        test: see `reports.tables.score_tables.score_tables`.
    """
    yield _size(frame, entrants)
    methods = frame[frame["control"].isna()]
    for label, part in (("row", ~is_away(methods)), ("label", is_away(methods))):
        cells = outcomes(methods[part], label)
        for column, heading in evaluations(methods[part]).items():
            own = {k: cell for (k, other), cell in cells.items() if other == column}
            yield from _winner(f"{heading} on {column.data}", own, rank(own, test))
    yield from _against_untrained(frame)
    yield from _dear(entrants)
    verdicts = Counter(row.cells[1].text for row in claims.rows)
    yield (
        "The paper's claims: "
        + ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        + ", counting each place where one can be judged."
    )


def _size(frame: pd.DataFrame, entrants: Mapping[str, Entrant]) -> str:
    main = frame[frame["main"]]
    methods = sum(one.control is None for one in entrants.values())
    controls = len(entrants) - methods
    status = Counter(main["status"])
    lost = ", ".join(f"{count} {name}" for name, count in status.items() if name != "ok")
    return (
        f"{methods} configuration{'s' * (methods != 1)} and {controls} "
        f"control{'s' * (controls != 1)} in {frame['run'].nunique()} runs, pretrained on "
        f"{', '.join(dict.fromkeys(frame['data']))}: {status['ok']} of {len(main)} results are "
        f"there{f' ({lost})' if lost else ''}."
    )


def _winner(where: str, cells: Mapping[str, Outcome], ranking: Ranking) -> Iterator[str]:
    if not ranking.best or not ranking.rivals:
        return
    best = cells[ranking.best[0]]
    names = " and ".join(ranking.best[:_LONG])
    worse = [k for k, rival in ranking.rivals.items() if rival.worse]
    verdict = f"of the {len(ranking.rivals)} others"
    if not any(rival.worse or rival.tied for rival in ranking.rivals.values()):
        verdict = f"with n={best.n} no test can tell it from the {len(ranking.rivals)} others"
    elif not worse:
        verdict += " none is significantly worse"
    elif len(worse) == len(ranking.rivals):
        verdict += " all are significantly worse"
    else:
        shown_names = ", ".join(worse[:_LONG]) + (" and more" if len(worse) > _LONG else "")
        verdict += f" {shown_names} {'is' if len(worse) == 1 else 'are'} significantly worse"
    yield f"{where}: best is {names} with {best.told}; {verdict}."


def _against_untrained(frame: pd.DataFrame) -> Iterator[str]:
    """Columns in which pretraining taught nothing that a random encoder does not know."""
    cells = outcomes(frame)
    control = {
        label for label, c in zip(frame["label"], frame["control"], strict=True) if c == "untrained"
    }
    untaught: list[str] = []
    for column, heading in evaluations(frame).items():
        floor = [cells[k, column] for k in control if (k, column) in cells and cells[k, column].n]
        own = _methods(frame, cells, column)
        if floor and own:
            low = max(cell.mean + (0 if math.isnan(cell.std) else cell.std) for cell in floor)
            if max(cell.mean for cell in own) <= low:
                untaught.append(f"{heading} on {column.data}")
    if untaught:
        yield (
            f"In {', '.join(untaught)} no method is above the untrained encoder by more than the "
            "deviation of its seeds: these columns say nothing about pretraining."
        )


def _methods(
    frame: pd.DataFrame, cells: Mapping[tuple[str, Evaluation], Outcome], column: Evaluation
) -> list[Outcome]:
    labels = frame.loc[frame["control"].isna(), "label"].unique()
    return [cells[k, column] for k in labels if (k, column) in cells and cells[k, column].n]


def _dear(entrants: Mapping[str, Entrant]) -> Iterator[str]:
    """What masks cost beside the plain objective."""
    for plain in entrants.values():
        if plain.method != "none" or plain.control or not plain.flops > 0:
            continue
        times = {
            one.label: one.flops / plain.flops
            for one in entrants.values()
            if same_setting(one, plain) and not one.control and one is not plain and one.flops > 0
        }
        dearer = {label: ratio for label, ratio in times.items() if ratio > 1.05}
        if dearer:
            words = ", ".join(f"{k} {ratio:.1f}" for k, ratio in list(dearer.items())[:_LONG])
            yield (
                f"At equal epochs some rows had more operations than {plain.label}: {words} times; "
                "see the section on cost."
            )
