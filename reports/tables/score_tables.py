"""The paper's Tables 1 and 2: scores on the data of pretraining, and on other data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple

import pandas as pd

from reports.results.commits import named
from reports.results.evaluations import KEY, Evaluation, evaluations, is_away
from reports.results.labels import spelled
from reports.results.outcomes import Outcome, Ranking, Where, outcomes, rank
from reports.stats import Test
from reports.tables.markup import Cell, Column, Row, Table
from reports.tables.score_notes import notes_on, seeds_that_would_decide

TITLES = {
    "table1": "Table 1",
    "table2": "Table 2",
}
_SUBJECTS = {
    "table1": "Evaluation on the pretraining data set",
    "table2": "Transfer and segmentation",
}


def score_tables(
    frame: pd.DataFrame, *, test: Test = "t", notes: Sequence[str] = ()
) -> list[Table]:
    """Both tables, as far as they have columns.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        test: that underlines what is not significantly worse than the best of a column.
        notes: that go below both, above their own.
    """
    away = is_away(frame)
    parts = {"table1": (frame[~away], "row"), "table2": (frame[away], "label")}
    return [
        score_table(name, part, label=label, test=test, notes=notes)
        for name, (part, label) in parts.items()
        if not part.empty
    ]


def score_table(
    name: str, frame: pd.DataFrame, *, label: str, test: Test = "t", notes: Sequence[str] = ()
) -> Table:
    """Lay out one table.

    Args:
        name: of it.
        frame: the results that belong into it.
        label: the column of the frame that names rows.
        test: see `score_tables`.
        notes: see `score_tables`.
    """
    columns = evaluations(frame)
    cells = outcomes(frame, label)
    is_control = frame["control"].notna()
    methods = list(frame.loc[~is_control, label].unique())
    controls = [k for k in frame.loc[is_control, label].unique() if k not in methods]
    rankings = {
        column: rank({k: cells[k, column] for k in methods if (k, column) in cells}, test)
        for column in columns
    }
    asked = max((cell.asked for (k, _), cell in cells.items() if k in methods), default=0)
    rows = [
        Row(
            k,
            [score_cell(cells.get((k, column)), rankings[column], k, asked) for column in columns],
            "controls" if k in controls else "methods",
        )
        for k in [*methods, *controls]
    ]
    return Table(
        name=name,
        title=TITLES[name],
        caption=_caption(name, frame, asked),
        columns=[Column(heading, column.data) for column, heading in columns.items()],
        rows=rows,
        notes=[*notes, *notes_on(frame, columns, cells, rankings, test)],
        details=[*seeds_that_would_decide(columns, rankings), *_protocols(frame, columns)],
        data=summary(frame, label, cells, rankings),
    )


_ABOUT = ["method", "objective", "encoder", "preset", "data"]
_STATE = ["encoder_commit", "encoder_dirty", "commit", "dirty"]


def summary(
    frame: pd.DataFrame,
    label: str,
    cells: Mapping[Where, Outcome],
    rankings: Mapping[Evaluation, Ranking],
) -> pd.DataFrame:
    """One line per cell: the CSV.

    ``std`` is the sample standard deviation over the seeds of pretraining, ``low`` and ``high`` are
    Student's 95% interval of the mean; ``pretraining_std`` and ``probe_std`` tell both sources of
    noise apart, where there are several evaluation seeds. ``p`` is that of the difference from the
    best of the column, corrected for all of its rows; ``seeds_needed`` would decide it.
    """
    main = frame[frame["main"]]
    about_all = main.drop_duplicates("hash8").set_index("hash8")[[*_ABOUT, "control"]]
    of_rows = {
        str(h): {str(k): v for k, v in line.items()}
        for h, line in about_all.to_dict("index").items()
    }
    metric = main.groupby(KEY)["metric"].first()
    states: dict[tuple[str, ...], list[tuple[str | None, bool, str | None, bool]]] = {}
    done = main[main["status"] == "ok"]
    for row in done[[label, *KEY, *_STATE]].itertuples(index=False, name=None):
        states.setdefault(row[: len(KEY) + 1], []).append(row[len(KEY) + 1 :])
    lines = []
    for (k, column), cell in cells.items():
        about, key = of_rows[cell.hash8], astuple(column)
        lines.append(
            {
                "label": k,
                **about,
                "task": column.task,
                "eval_data": column.data,
                "metric": metric.get(key),
                **cell.numbers(),
                "pretraining_std": cell.noise.pretraining,
                "probe_std": cell.noise.probe,
                **rankings[column].numbers(k),
                "protocol_id": column.protocol_id,
                "commits": " ".join(named(states.get((k, *key), []))),
            }
        )
    return pd.DataFrame(lines)


def score_cell(cell: Outcome | None, ranking: Ranking, label: str, asked: int) -> Cell:
    """What a table shows of an outcome.

    Args:
        cell: None where nothing was planned.
        ranking: of its column.
        label: of its row in the ranking.
        asked: seeds that the table stands on; another number of them is told.
    """
    if cell is None:
        return Cell()
    lost = [f"{count} {WHY[why]}" for why, count in cell.lost_by().items()]
    if not cell.n:
        kinds = cell.lost_by()
        words = ", ".join(f"{WHY[why]} ({k} of {cell.asked})" for why, k in kinds.items())
        return Cell(remark=words, runs=cell.runs)
    remark = f"({', '.join([f'n={cell.n}', *lost])})" if lost or cell.n != asked else ""
    rival = ranking.rivals.get(label)
    return Cell(
        cell.told,
        remark,
        "best" if label in ranking.best else "tied" if rival is not None and rival.tied else "",
        cell.mean,
        cell.runs,
    )


# How a reader is told why there is no number.
WHY = {"failed": "failed", "running": "running", "missing": "not run", "invalid": "invalid"}


def _caption(name: str, frame: pd.DataFrame, asked: int) -> str:
    methods = frame[frame["control"].isna()]  # a control's objective is not what it trained with
    settings = [
        _listed("Preset", frame["preset"]),
        _listed("pretraining data set", frame["data"]),
        _listed("encoder", frame["encoder"]),
        _listed("objective", methods["objective"].map(spelled)),
        _listed("seed", sorted(frame["seed"].unique())),
    ]
    spread = (
        f"mean ± sample standard deviation over n={asked} seeds, where a cell says no other n"
        if asked > 1
        else "one seed"
    )
    return (
        f"{_SUBJECTS[name]}: {spread}, in percent; accuracy unless a column says otherwise. "
        "The best mean of a column is bold; controls do not compete, nor does a lone seed where "
        "others have more. "
        f"{'; '.join(filter(None, settings))}."
    )


def _listed(noun: str, values: Iterable[object]) -> str:
    """Name the distinct values: "seeds 0, 1, 2"; nothing when there are none."""
    distinct = [str(value) for value in dict.fromkeys(values)]
    return f"{noun}{'s' * (len(distinct) > 1)} {', '.join(distinct)}" if distinct else ""


def _protocols(frame: pd.DataFrame, columns: Mapping[Evaluation, str]) -> list[str]:
    said = (
        frame.dropna(subset="protocol")
        .drop_duplicates(["task", "eval_data", "protocol_id", "protocol"])
        .groupby(["task", "eval_data", "protocol_id"])["protocol"]
        .agg(list)
    )
    return [
        f"{heading} on {column.data}: {' '.join(protocol.split())}"
        for column, heading in columns.items()
        for protocol in said.get((column.task, column.data, column.protocol_id), [])
    ]
