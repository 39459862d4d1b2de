"""Our numbers beside the paper's: difference, verdict, and what keeps them from being compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from scipy import special

from reports.results.entrants import Entrant
from reports.results.evaluations import KEY, Evaluation, evaluations
from reports.results.outcomes import Outcome, outcomes, shown
from reports.stats import ALPHA
from reports.tables.markup import Cell, Column, Row, Table, number_cell
from reports.tables.score_tables import WHY

Verdict = Literal["reproduced", "above", "below", "undecided", "not comparable"]

_NAMED = 4  # differing settings that a verdict names


@dataclass(frozen=True)
class Published:
    """One cell of the paper.

    Attributes:
        table: its number.
        data: of pretraining.
        eval_data: that it is scored on.
        task: kind of the evaluation.
        method: name of ours.
        mean: in percent.
        std: over the paper's seeds.
    """

    table: int
    data: str
    eval_data: str
    task: str
    method: str
    mean: float
    std: float


@dataclass(frozen=True)
class Paper:
    """What `paper.yaml` holds; see the comments there."""

    source: str
    seeds: int
    tolerance: float
    settings: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[str, Mapping[str, Any]]
    scores: Sequence[Published]

    def places(self, kind: str) -> list[tuple[str, str]]:
        """Where the paper has scores of a kind of evaluation: data of pretraining, and scored."""
        task = _PLAIN.get(kind, kind)
        return list(dict.fromkeys((s.data, s.eval_data) for s in self.scores if s.task == task))

    def cell(self, method: str, column: Evaluation, data: str) -> Published | None:
        """What the paper has for a method on the data of a column; its own pretraining first."""
        where = (method, column.data, _PLAIN.get(column.kind, column.kind))
        found = [s for s in self.scores if (s.method, s.eval_data, s.task) == where]
        return min(found, key=lambda score: score.data != data, default=None)


# Transfer is the same protocol on other data.
_PLAIN = {"transfer": "linear", "transfer_finetune": "finetune"}


@cache
def read_paper() -> Paper:
    """The published numbers."""
    text = (Path(__file__).parents[1] / "paper.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    about = ("table", "data", "eval_data", "task")
    scores = [
        Published(**{key: line[key] for key in about}, method=method, mean=mean, std=std)
        for line in content.pop("scores")
        for method, (mean, std) in ((k, v) for k, v in line.items() if k not in about)
    ]
    return Paper(**content, scores=scores)


def published_table(frame: pd.DataFrame, entrants: Mapping[str, Entrant]) -> Table | None:
    """Each of our cells that the paper has too; None if there is none.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        entrants: by hash8.
    """
    paper = read_paper()
    methods = frame[frame["control"].isna()]
    headings = evaluations(methods)
    settings = task_settings(methods)
    rows, lines = [], []
    for (hash8, column), ours in outcomes(methods, "hash8").items():
        one = entrants[hash8]
        theirs = paper.cell(one.method, column, one.data)
        if theirs is None:
            continue
        differs = list(_differing(paper, theirs, one, settings.get(column)))
        (low, high), verdict = judge(ours, theirs, paper, comparable=not differs)
        difference = ours.mean - theirs.mean
        cells = [
            Cell(f"{shown(theirs.mean)} ± {shown(theirs.std)}", value=theirs.mean),
            _ours(ours),
            number_cell(difference, "+.2f"),
            Cell("" if math.isnan(low) else f"{low:+.2f} to {high:+.2f}"),
            Cell(f"{verdict}: {first_of(differs)}" if differs else verdict, runs=ours.runs),
        ]
        rows.append(Row(f"{one.label}, {headings[column]} on {column.data}", cells))
        lines.append(
            {
                "label": one.label,
                "task": column.task,
                "eval_data": column.data,
                "table": theirs.table,
                "published_mean": theirs.mean,
                "published_std": theirs.std,
                "mean": ours.mean,
                "std": ours.std,
                "n": ours.n,
                "difference": difference,
                "low": low,
                "high": high,
                "verdict": verdict,
                "differs": "; ".join(differs),
            }
        )
    if not rows:
        return None
    return Table(
        name="published",
        title="Published numbers",
        caption=f"Ours beside {paper.source}: mean ± deviation over seeds, in percent.",
        columns=[
            Column(name) for name in ("Published", "Ours", "Difference", "95% interval", "Verdict")
        ],
        rows=rows,
        notes=[
            "Interval: Welch's, of the difference, as if the paper's seeds were ours. Reproduced: "
            f"it lies within {paper.tolerance:g} point, which the paper counts as a difference. "
            "Above, below: the difference exceeds that point, and the interval excludes 0. "
            "Undecided: neither. Not comparable: the settings named differ; where the paper is "
            "silent, preset=paper is taken for what it did.",
        ],
        head="Cell",
        data=pd.DataFrame(lines),
    )


def judge(
    ours: Outcome, theirs: Published, paper: Paper, *, comparable: bool
) -> tuple[tuple[float, float], Verdict]:
    """The 95% interval of the difference ours - theirs (Welch), and what it means.

    Args:
        ours: seeds of one cell.
        theirs: the same cell of the paper.
        paper: of which it is.
        comparable: whether all settings agree.
    """
    low, high = _welch_interval(ours, theirs, paper.seeds)
    if not comparable:
        return (low, high), "not comparable"
    if -paper.tolerance <= low and high <= paper.tolerance:
        return (low, high), "reproduced"
    if low > 0 and ours.mean - theirs.mean > paper.tolerance:
        return (low, high), "above"
    if high < 0 and theirs.mean - ours.mean > paper.tolerance:
        return (low, high), "below"
    return (low, high), "undecided"


def _welch_interval(ours: Outcome, theirs: Published, seeds: int) -> tuple[float, float]:
    """NaN with fewer than two seeds of ours."""
    if ours.n < 2:
        return math.nan, math.nan
    a, b = ours.std**2 / ours.n, theirs.std**2 / seeds
    freedom = (a + b) ** 2 / (a**2 / (ours.n - 1) + b**2 / (seeds - 1))
    half = float(special.stdtrit(freedom, 1 - ALPHA / 2)) * math.sqrt(a + b)
    difference = ours.mean - theirs.mean
    return difference - half, difference + half


def unlike_paper(one: Entrant) -> list[str]:
    """The settings of pretraining, by key, in which an entrant is not the paper's."""
    paper = read_paper()
    wanted = {**paper.settings, **paper.methods.get(one.method, {})}
    return [key for key, _, _ in _unlike({**one.settings, **_names(one)}, wanted)]


def unlike_task(column: Evaluation, settings: Mapping[str, Any] | None) -> list[str]:
    """The settings of an evaluation, by key, that are not the paper's, of those it tells."""
    wanted = read_paper().tasks.get(_PLAIN.get(column.kind, column.kind), {})
    return [f"{column.kind}.{key}" for key, _, _ in _unlike(settings or {}, wanted)]


def _names(one: Entrant) -> dict[str, str]:
    return {"data": one.data, "objective": one.objective, "encoder": one.encoder}


def _unlike(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The keys of which settings have another value than is wanted, with both values."""
    for key, value in wanted.items():
        if (found := own.get(key, "not known")) != value:
            yield key, found, value


def _differing(
    paper: Paper, theirs: Published, one: Entrant, task: Mapping[str, Any] | None
) -> Iterator[str]:
    """The settings that differ: "epochs 6 (published 500)"."""
    wanted = {"data": theirs.data, **paper.settings, **paper.methods.get(theirs.method, {})}
    for key, own, value in _unlike({**one.settings, **_names(one)}, wanted):
        yield f"{key} {own} (published {value})"
    for key, own, value in _unlike(task or {}, paper.tasks[theirs.task]):
        yield f"{theirs.task}.{key} {own} (published {value})"


def first_of(differs: Sequence[str]) -> str:
    """The first of many things that differ, and how many more there are."""
    more = f", and {len(differs) - _NAMED} more" if len(differs) > _NAMED else ""
    return ", ".join(differs[:_NAMED]) + more


def task_settings(frame: pd.DataFrame) -> dict[Evaluation, Mapping[str, Any]]:
    """Settings of each evaluation of a frame, as far as its results tell them."""
    known = frame.dropna(subset="settings").drop_duplicates(KEY)
    columns = known[[*KEY, "settings"]].itertuples(index=False)
    return {Evaluation(*key): settings for *key, settings in columns}


def _ours(ours: Outcome) -> Cell:
    if not ours.n:
        return Cell(remark=", ".join(f"{k} {WHY[why]}" for why, k in ours.lost_by().items()))
    return Cell(ours.told, f"(n={ours.n})", value=ours.mean, runs=ours.runs)
