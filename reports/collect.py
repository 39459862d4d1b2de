"""Result files to one tidy table: a row for every planned (run, task), finished or not."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.result_file import read_pretraining, read_result
from benchmark.runs import IMPORTED, PlannedTask, Run

COLUMNS = (
    "label",  # how a table calls the row; one label per hash8
    "method",
    "objective",
    "encoder",
    "preset",
    "data",  # of the pretraining
    "task",
    "eval_data",
    "metric",
    "value",
    "status",  # ok, failed, missing, or invalid where the result cannot be trusted
    "problem",  # why it is invalid, in a sentence
    "seed",
    "hash8",
    "setting",
    "control",
    "commit",
    "dirty",
    "encoder_commit",  # of the code that pretrained
    "encoder_dirty",
    "protocol",
    "path",
)

# Names whose capitals cannot be guessed; everything else is spelled from its file name.
SPELLING = {
    "adios": "ADIOS",
    "adios_s": "ADIOS-s",
    "byol": "BYOL",
    "miou": "mIoU",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
}


def collect(runs: Iterable[Run]) -> pd.DataFrame:
    """Read the results of planned runs.

    Args:
        runs: the plan; a result file that appears twice in it counts once.

    Returns:
        One row per (run, task) with ``COLUMNS``, in the order of a table's rows. The value is
        NaN exactly where the status is not "ok".

    Raises:
        ValueError: if one cell would mix protocols.
    """
    ordered = _in_table_order(list(runs))
    labels = row_labels(ordered)
    checksums = {run.folder: _checksum(run) for run in ordered}
    rows = [
        {
            "label": labels[run.hash8],
            "method": run.method,
            "objective": run.objective,
            "encoder": run.encoder,
            "preset": run.preset,
            "data": run.data,
            "task": task.name,
            "eval_data": task.data,
            "seed": run.seed,
            "hash8": run.hash8,
            "setting": run.setting,
            "control": run.control,
            "path": str(task.result),
            **_outcome(run, task, checksums[run.folder]),
        }
        for run in ordered
        for task in run.tasks
    ]
    rows = list({row["path"]: row for row in rows}.values())
    _refuse_odd_metrics(rows)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    _refuse_two_protocols(frame)
    return frame


def spelled(name: str) -> str:
    """Turn the name of a file or configuration into words: superpixel_budget, byol."""
    if name in SPELLING:
        return SPELLING[name]
    words = " ".join(SPELLING.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


def row_labels(runs: Sequence[Run]) -> dict[str, str]:
    """Name the row of every configuration (hash8) so that no two rows look alike.

    The paper's names come first ("SimCLR", "+ ADIOS"). The preset follows in brackets, before it
    what is not the same in all rows. Where that leaves two rows with one name, they tell what their
    sweep varied, and where that does too, their hash.
    """
    configurations = {run.hash8: run for run in runs}
    methods = [run for run in configurations.values() if run.control is None]
    mixed_objectives = len({run.objective for run in methods}) > 1
    mixed = [
        field
        for field in ("encoder", "data")
        if len({getattr(run, field) for run in configurations.values()}) > 1
    ]
    labels = {}
    for hash8, run in configurations.items():
        differs = [*(getattr(run, field) for field in mixed), run.preset]
        if run.update != "alternating":
            differs.append(f"{spelled(run.update).lower()} update")
        if mixed_objectives and run.control is None and run.method != "none":
            differs.insert(0, spelled(run.objective))
        labels[hash8] = f"{_base_label(run)} ({', '.join(differs)})"
    for more in ({h: " ".join(run.varied) for h, run in configurations.items()}, None):
        used = Counter(labels.values())
        for hash8, label in labels.items():
            if used[label] > 1 and (word := more[hash8] if more else hash8):
                labels[hash8] = f"{label} [{word}]"
    return labels


def _base_label(run: Run) -> str:
    if run.control == IMPORTED:
        return run.method  # the file's name
    if run.control is not None:
        return spelled(run.control)
    if run.method == "none":
        return spelled(run.objective)
    return f"+ {spelled(run.method)}"


def _in_table_order(runs: list[Run]) -> list[Run]:
    """Methods in blocks of one setting, the plain objective first; then the controls."""

    def block(run: Run) -> tuple[str, ...]:
        return run.objective, run.encoder, run.data, run.preset

    blocks = list(dict.fromkeys(block(run) for run in runs))
    return sorted(
        runs,
        key=lambda run: (
            run.control is not None,
            run.control == "supervised",
            blocks.index(block(run)),
            run.method != "none",
        ),
    )


def _checksum(run: Run) -> str | ValueError | None:
    """What results of the run must have scored; None before it is known, or why it cannot be."""
    if not run.pretraining_file.exists():
        return None
    try:
        return read_pretraining(run)["encoder_sha256"]
    except ValueError as error:
        return error


def _outcome(run: Run, task: PlannedTask, encoder: str | ValueError | None) -> dict[str, Any]:
    """What became of one planned task."""
    if encoder is None or not task.result.exists():
        failed = run.error_file.exists() or task.error_file.exists()
        return {"status": "failed" if failed else "missing", "value": math.nan}
    try:
        if isinstance(encoder, ValueError):
            raise encoder
        result = read_result(task, run, encoder)
    except ValueError as error:
        return _invalid(str(error))
    metric, value = next(iter(result["metrics"].items()))  # the main metric comes first
    return {
        "status": "ok",
        "metric": metric,
        "value": float(value),
        "commit": result["commit"],
        "dirty": result["dirty"],
        "encoder_commit": result["encoder_commit"],
        "encoder_dirty": result["encoder_dirty"],
        "protocol": result["protocol"],
        "protocol_id": result["protocol_id"],
    }


def _refuse_odd_metrics(rows: Sequence[dict[str, Any]]) -> None:
    """Make invalid what measures something else than most results of its very protocol."""
    protocols: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "ok":
            protocols[row["task"], row["eval_data"], row["protocol_id"]].append(row)
    for alike in protocols.values():
        counts = Counter(row["metric"] for row in alike)
        usual = [metric for metric, count in counts.items() if count == max(counts.values())]
        for row in alike:
            if others := [metric for metric in usual if metric != row["metric"]]:
                problem = (
                    f"{row['path']} measures {row['metric']} where others of its protocol measure "
                    f"{others[0]}; delete it to have the task run again"
                )
                row |= _invalid(problem)


def _invalid(problem: str) -> dict[str, Any]:
    return {"status": "invalid", "value": math.nan, "metric": None, "problem": problem}


def _refuse_two_protocols(frame: pd.DataFrame) -> None:
    """Stop where one cell would mix protocols; evaluation seeds of one share a folder."""
    key = ["hash8", "seed", "task", "eval_data"]
    folders = frame[key].assign(folder=frame["path"].map(lambda path: str(Path(path).parent)))
    folders = folders.drop_duplicates()
    twice = folders[folders.duplicated(key, keep=False)]
    if not twice.empty:
        first, second = twice["folder"][:2]
        raise ValueError(
            f"{first} and {second} score one encoder under one task name with different options: "
            "they cannot share a cell; tabulate them apart"
        )
