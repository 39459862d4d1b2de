"""All metrics of one task side by side: accuracy with few labels, and on disturbed images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from reports.results.evaluations import Evaluation, evaluations
from reports.results.labels import SPELLING
from reports.results.outcomes import Outcome, Ranking, outcomes, rank
from reports.stats import Test
from reports.tables.markup import Column, Row, Table
from reports.tables.score_notes import underlining
from reports.tables.score_tables import score_cell

_SUBJECTS = {
    "low_shot": ("Few labels", "accuracy with the labels of a share of the training images"),
    "robustness": ("Robustness", "accuracy on disturbed test images, mean over strengths"),
}


def metric_tables(frame: pd.DataFrame, test: Test = "t") -> Iterator[Table]:
    """A table for each evaluation of a kind that has more than one number worth reading.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        test: see `reports.tables.score_tables.score_tables`.
    """
    used: set[str] = set()
    for column, heading in evaluations(frame).items():
        if column.kind not in _SUBJECTS:
            continue
        own = frame[
            (frame["task"] == column.task)
            & (frame["eval_data"] == column.data)
            & (frame["protocol_id"] == column.protocol_id)
            & (frame["fingerprint"] == column.fingerprint)
        ]
        name = column.kind
        while name in used:
            name += "_more"
        used.add(name)
        if (table := _table(name, column, heading, own, test)) is not None:
            yield table


def _table(
    name: str, column: Evaluation, heading: str, frame: pd.DataFrame, test: Test
) -> Table | None:
    metrics = list(frame["metric"].dropna().unique())
    if not metrics:
        return None
    by_metric: dict[str, dict[str, Outcome]] = {}
    for metric in metrics:
        # What is not there has no metric, and one row that stands for all of them.
        own = frame[(frame["metric"] == metric) | frame["metric"].isna()].assign(main=True)
        by_metric[metric] = {label: outcome for (label, _), outcome in outcomes(own).items()}
    is_control = frame["control"].notna()
    methods = list(frame.loc[~is_control, "label"].unique())
    rankings = {
        metric: rank({k: cell for k, cell in cells.items() if k in methods}, test)
        for metric, cells in by_metric.items()
    }
    first = by_metric[metrics[0]]
    asked = max((cell.asked for label, cell in first.items() if label in methods), default=0)
    rows = [
        Row(
            label,
            [
                score_cell(cells.get(label), rankings[m], label, asked)
                for m, cells in by_metric.items()
            ],
            "methods" if label in methods else "controls",
        )
        for label in frame["label"].unique()
    ]
    title, subject = _SUBJECTS[column.kind]
    return Table(
        name=name,
        title=title,
        caption=f"{title} on {column.data} ({heading}): {subject}; mean ± sample standard "
        f"deviation over n={asked} seeds, where a cell says no other n, in percent. The best mean "
        "of a column is bold; controls do not compete.",
        columns=[Column(_spelled(metric)) for metric in metrics],
        rows=rows,
        notes=[
            *underlining(
                {_spelled(metric): ranking.rivals.values() for metric, ranking in rankings.items()},
                test,
            )
        ],
        data=_data(by_metric, rankings),
    )


def _spelled(metric: str) -> str:
    words = metric.removeprefix("accuracy_").removesuffix("_accuracy").replace("pct", "%")
    return " ".join(SPELLING.get(word, word) for word in words.split("_"))


def _data(
    by_metric: Mapping[str, Mapping[str, Outcome]], rankings: Mapping[str, Ranking]
) -> pd.DataFrame:
    return pd.DataFrame(
        {"label": label, "metric": metric, **cell.numbers(), **rankings[metric].numbers(label)}
        for metric, cells in by_metric.items()
        for label, cell in cells.items()
    )
