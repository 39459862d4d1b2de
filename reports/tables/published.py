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
from scipy import stats

from reports.results.entrants import Entrant, entrants
from reports.results.evaluations import KEY, Evaluation, evaluations
from reports.results.labels import Config
from reports.results.outcomes import Outcome, outcomes, shown
from reports.stats import ALPHA
from reports.tables.markup import Cell, Column, Row, Table

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

    def cell(self, method: str, column: Evaluation, data: str) -> Published | None:
        """What the paper has for a method on the data of a column; its own pretraining first."""
        found = [
            score
            for score in self.scores
            if (score.method, score.eval_data, score.task)
            == (method, column.data, _PLAIN.get(column.kind, column.kind))
        ]
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


def published_table(frame: pd.DataFrame, configs: Mapping[str, Config]) -> Table | None:
    """Each of our cells that the paper has too; None if there is none.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        configs: resolved configurations by hash8.
    """
    paper = read_paper()
    methods = frame[frame["control"].isna()]
    headings = evaluations(methods)
    known = entrants(methods, configs)
    settings = _task_settings(methods)
    rows, lines = [], []
    for (hash8, column), ours in outcomes(methods, "hash8").items():
        one = known[hash8]
        theirs = paper.cell(one.method, column, one.data)
        if theirs is None:
            continue
        differs = list(_differing(paper, theirs, one, settings.get(column)))
        difference, verdict = judge(ours, theirs, paper, comparable=not differs)
        cells = [
            Cell(f"{shown(theirs.mean)} ± {shown(theirs.std)}", value=theirs.mean),
            _ours(ours),
            _signed(difference),
            Cell(f"{verdict}: {_told(differs)}" if differs else verdict, runs=ours.runs),
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
        columns=[Column(name) for name in ("Published", "Ours", "Difference", "Verdict")],
        rows=rows,
        notes=[
            f"Reproduced: within {paper.tolerance:g} point, which is what the paper counts as a "
            f"difference. Above, below: farther off, and Welch's t test (level {ALPHA}) finds it. "
            "Undecided: farther off, and it does not. Not comparable: the settings named differ, "
            "of pretraining or of the task."
        ],
        head="Cell",
        data=pd.DataFrame(lines),
    )


def judge(
    ours: Outcome, theirs: Published, paper: Paper, *, comparable: bool
) -> tuple[float, Verdict]:
    """The difference ours - theirs, and what it means.

    Args:
        ours: seeds of one cell.
        theirs: the same cell of the paper.
        paper: of which it is.
        comparable: whether all settings agree.
    """
    difference = ours.mean - theirs.mean
    if not comparable:
        return difference, "not comparable"
    if abs(difference) <= paper.tolerance:
        return difference, "reproduced"
    if ours.n < 2:
        return difference, "undecided"
    test = stats.ttest_ind_from_stats(
        ours.mean, ours.std, ours.n, theirs.mean, theirs.std, paper.seeds, equal_var=False
    )
    if not test.pvalue <= ALPHA:
        return difference, "undecided"
    return difference, "above" if difference > 0 else "below"


def _differing(
    paper: Paper, theirs: Published, one: Entrant, task: Mapping[str, Any] | None
) -> Iterator[str]:
    """The settings that differ: "epochs 6 (published 500)"."""
    names = {"data": one.data, "objective": one.objective, "encoder": one.encoder}
    own = {**one.settings, **names}
    wanted = {"data": theirs.data, **paper.settings, **paper.methods.get(theirs.method, {})}
    for key, value in wanted.items():
        if own.get(key) != value:
            yield f"{key} {own.get(key, 'not known')} (published {value})"
    for key, value in paper.tasks[theirs.task].items():
        if (found := (task or {}).get(key, "not known")) != value:
            yield f"{theirs.task}.{key} {found} (published {value})"


def _told(differs: Sequence[str]) -> str:
    more = f", and {len(differs) - _NAMED} more" if len(differs) > _NAMED else ""
    return ", ".join(differs[:_NAMED]) + more


def _task_settings(frame: pd.DataFrame) -> dict[Evaluation, Mapping[str, Any]]:
    known = frame.dropna(subset="settings").drop_duplicates(KEY)
    columns = known[[*KEY, "settings"]].itertuples(index=False)
    return {Evaluation(*key): settings for *key, settings in columns}


def _ours(ours: Outcome) -> Cell:
    if not ours.n:
        return Cell(remark=", ".join(f"{k} {why}" for why, k in ours.lost_by().items()))
    text = shown(ours.mean) if ours.n == 1 else f"{shown(ours.mean)} ± {shown(ours.std)}"
    return Cell(text, f"(n={ours.n})", value=ours.mean, runs=ours.runs)


def _signed(difference: float) -> Cell:
    return Cell() if math.isnan(difference) else Cell(f"{difference:+.2f}", value=difference)
