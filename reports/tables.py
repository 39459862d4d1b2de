"""The paper's Tables 1 and 2 from planned runs, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.files import write_text
from benchmark.runs import Run
from reports.collect import SPELLING, collect, spelled
from reports.markup import Cell, Column, Table, latex, markdown, tie

TITLES = {
    1: "Evaluation on the pretraining data set",
    2: "Transfer and segmentation",
}

# Tasks of Table 2 whatever their data; others are there only when they left the pretraining data.
AWAY = ("transfer", "transfer_finetune", "segmentation")

_LOST = ("failed", "missing", "invalid")  # states of results that are no numbers

# Presets that are ablations of one choice: their results stay in the run folders.
NOT_TABULATED = ("paper_literal",)

# The paper's headings, in its order; a task that is not listed comes after these.
HEADINGS = {
    "linear": "Linear",
    "transfer": "Linear",
    "finetune": "Fine Tune",
    "transfer_finetune": "Fine Tune",
    "knn": "kNN",
    "clustering": "Clustering",
    "low_shot": "Low-shot",
    "segmentation": "Segmentation",
    "robustness": "Robustness",
    "mask_quality": "Masks",
}


@dataclass(frozen=True)
class Written:
    """What became of the tables.

    Attributes:
        paths: the files written.
        problems: a sentence for each result that is there and in no table, as it cannot be trusted.
    """

    paths: list[Path]
    problems: list[str]


def write_tables(runs: Sequence[Run], out: Path, *, command: str, commit: str | None) -> Written:
    """Write both tables; one without columns is not written and its old files are removed.

    Args:
        runs: the plan; what has not finished is said in the cells. Those of a preset in
            ``NOT_TABULATED`` are left out.
        out: folder for ``table<1|2>.<md|tex|csv>``.
        command: command line that made the tables.
        commit: commit of the code that writes them, if known.

    Raises:
        ValueError: if results cannot share a cell or a column.
    """
    frame = collect([run for run in runs if run.preset not in NOT_TABULATED])
    away = frame["task"].map(_kind).isin(AWAY) | (frame["eval_data"] != frame["data"])
    written = []
    for number, part in ((1, frame[~away]), (2, frame[away])):
        paths = [out / f"table{number}.{suffix}" for suffix in ("md", "tex", "csv")]
        if part.empty:
            for path in paths:
                path.unlink(missing_ok=True)
            continue
        summary = summarise(part)
        table = build(number, part, summary, command=command, commit=commit)
        texts = (markdown(table), latex(table), summary.to_csv(index=False, lineterminator="\n"))
        for path, text in zip(paths, texts, strict=True):
            write_text(path, text)
        written += paths
    return Written(written, list(frame["problem"].dropna().unique()))


def terminal_text(paths: Iterable[Path]) -> str:
    """The Markdown among the files that ``write_tables`` wrote, to be printed."""
    return "\n".join(path.read_text(encoding="utf-8") for path in paths if path.suffix == ".md")


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Reduce the seeds of each row x column to one line: the CSV.

    ``seeds`` (of the pretraining) and ``commits`` are those behind the mean; ``std`` is the sample
    standard deviation. Evaluation seeds of one encoder are averaged first, since they are not
    independent runs; ``head_std`` is the standard deviation over them within an encoder, pooled
    over encoders. A seed counts as finished when all its evaluations are.
    """
    lines = []
    for (label, task, data), cell in frame.groupby(["label", "task", "eval_data"], sort=False):
        lost = cell[cell["status"] != "ok"].drop_duplicates("seed")
        done = cell[~cell["seed"].isin(lost["seed"])]
        values = done.groupby("seed")["value"].mean()
        first = cell.iloc[0]
        lost_by: dict[Hashable, Any] = {k: int((lost["status"] == k).sum()) for k in _LOST}
        about: dict[Hashable, Any] = first[["objective", "encoder", "preset", "data"]].to_dict()
        lines.append(
            {
                "label": label,
                **about,
                "task": task,
                "eval_data": data,
                "metric": next(iter(done["metric"]), None),
                "mean": values.mean(),
                "std": values.std(ddof=1),
                "head_std": _head_std(done),
                "n": len(values),
                **lost_by,
                "seeds": " ".join(map(str, values.index)),
                "hash8": first["hash8"],
                "commits": " ".join(_commits(done, dirty="-dirty")),
            }
        )
    return pd.DataFrame(lines)


def _head_std(done: pd.DataFrame) -> float:
    """Standard deviation over evaluation seeds, pooled over encoders; NaN with one of them."""
    variances = done.groupby(["hash8", "seed"])["value"].var(ddof=1)
    return float(variances.mean() ** 0.5)


def build(
    number: int, frame: pd.DataFrame, summary: pd.DataFrame, *, command: str, commit: str | None
) -> Table:
    """Lay out one table.

    Args:
        number: which of the paper's tables.
        frame: the planned results that belong into it.
        summary: the same, reduced over seeds.
        command: command line that makes the table.
        commit: commit of the code that makes it.
    """
    is_control = frame["control"].notna()
    methods = list(frame.loc[~is_control, "label"].unique())
    columns = _columns(frame)
    by_name = {(column.task, column.data): column for column in columns}
    competing = summary[summary["label"].isin(methods)]
    best = competing.groupby(["task", "eval_data"])["mean"].max().to_dict()
    cells = {}
    for line in summary.to_dict("records"):
        where = (line["task"], line["eval_data"])
        wins = line["n"] > 0 and line["label"] in methods and tie(line["mean"], best[where])
        figures = {key: line[key] for key in ("mean", "std", "n", *_LOST)}
        cells[line["label"], by_name[where]] = Cell(**figures, best=wins)
    return Table(
        number=number,
        caption=_caption(number, frame),
        columns=columns,
        methods=methods,
        controls=list(frame.loc[is_control, "label"].unique()),
        cells=cells,
        command=" ".join(command.split()),
        notes=_notes(frame, columns, commit),
    )


def _columns(frame: pd.DataFrame) -> list[Column]:
    """Columns in the paper's order, those of one data set together."""
    order = list(HEADINGS)
    pairs = list(dict.fromkeys(zip(frame["task"], frame["eval_data"], strict=True)))
    kinds = {pair: _kind(pair[0]) for pair in pairs}
    pairs.sort(key=lambda p: order.index(kinds[p]) if kinds[p] in order else len(order))
    groups = list(dict.fromkeys(data for _, data in pairs))
    columns = []
    for task, data in sorted(pairs, key=lambda pair: groups.index(pair[1])):
        here = frame[(frame["task"] == task) & (frame["eval_data"] == data)]
        metrics = list(here["metric"].dropna().unique())  # none before the first result
        if len(metrics) > 1:
            raise ValueError(
                f"results of {task} on {data} measure different things, {' and '.join(metrics)}: "
                "they cannot share a column; tabulate these runs apart"
            )
        heading = HEADINGS.get(kinds[task, data], spelled(kinds[task, data]))
        if metrics and metrics[0] != "accuracy":
            heading += f" ({SPELLING.get(metrics[0], metrics[0])})"
        columns.append(Column(task, data, heading))
    alike = Counter((column.data, column.heading) for column in columns)
    return [
        column
        if alike[column.data, column.heading] == 1
        else replace(column, heading=f"{column.heading}, {column.task}")
        for column in columns
    ]


def _kind(task: str) -> str:
    """What a task does, by the end of its name: `cifar10_linear` is `linear`."""
    names = [name for name in HEADINGS if task == name or task.endswith(f"_{name}")]
    return max(names, key=len, default=task)


def _caption(number: int, frame: pd.DataFrame) -> str:
    # A control's objective is not what it was trained with.
    methods = frame[frame["control"].isna()]
    settings = [
        _listed("Preset", frame["preset"]),
        _listed("pretraining data set", frame["data"]),
        _listed("encoder", frame["encoder"]),
        _listed("objective", methods["objective"].map(spelled)),
        _listed("seed", sorted(frame["seed"])),
    ]
    return (
        f"{TITLES[number]}: mean ± sample standard deviation over n seeds, in percent; accuracy "
        "unless a column says otherwise. The best mean of a column is bold; controls do not "
        f"compete. {'; '.join(filter(None, settings))}."
    )


def _listed(noun: str, values: Iterable[object]) -> str:
    """Name the distinct values: "seeds 0, 1, 2"; nothing when there are none."""
    distinct = [str(value) for value in dict.fromkeys(values)]
    return f"{noun}{'s' * (len(distinct) > 1)} {', '.join(distinct)}" if distinct else ""


def _notes(frame: pd.DataFrame, columns: Sequence[Column], commit: str | None) -> list[str]:
    """What the reader must know beside the numbers."""
    notes = []
    states = _commits(frame[frame["status"] == "ok"], dirty=" (uncommitted changes)", length=10)
    if len(states) > 1:
        notes.append(f"Results were made at different commits: {', '.join(states)}.")
    elif states:
        notes.append(f"Results were made at commit {states[0]}.")
    if commit is not None:
        notes.append(f"The table was written at commit {commit[:10]}.")
    if frame.loc[frame["control"].isna(), "setting"].nunique() > 1:
        notes.append(
            "The rows do not share one setting: some differ in more than the masking method."
        )
    if frame.duplicated(["label", "seed", "task", "eval_data"]).any():
        notes.append(
            "A seed counts with the mean over its evaluation seeds. Standard deviation over these "
            f"within an encoder: {', '.join(_head_noise(frame, columns))}."
        )
    for column in columns:
        here = frame[(frame["task"] == column.task) & (frame["eval_data"] == column.data)]
        for protocol in here["protocol"].dropna().unique():
            notes.append(f"{column.heading} on {column.data}: {' '.join(protocol.split())}")
    return notes


def _head_noise(frame: pd.DataFrame, columns: Sequence[Column]) -> Iterator[str]:
    """The noise of the heads alone, a column at a time."""
    done = frame[frame["status"] == "ok"]
    for column in columns:
        here = done[(done["task"] == column.task) & (done["eval_data"] == column.data)]
        if not math.isnan(noise := _head_std(here)):
            yield f"{column.heading} on {column.data} {noise:.2f}"


def _commits(done: pd.DataFrame, *, dirty: str, length: int | None = None) -> list[str]:
    """States of the code behind finished results, first used first."""
    states = [
        state
        for kind in ("encoder_", "")
        for state in zip(done[f"{kind}commit"], done[f"{kind}dirty"], strict=True)
    ]
    names = (
        ("unknown" if pd.isna(commit) else commit[:length]) + (dirty if changed else "")
        for commit, changed in states
    )
    return list(dict.fromkeys(names))
