"""Result files to one tidy table: a row for every metric of every (run, task), finished or not."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.lock import LOCK, is_held
from benchmark.result_file import Pretraining, Result, read_pretraining, read_result
from benchmark.runs import PlannedTask, Run
from reports.results.labels import Config, row_labels

COLUMNS = (
    "label",  # how tables call the configuration; one label per hash8
    "row",  # the same where each column has its own data: the data of pretraining is left out
    "method",
    "objective",
    "encoder",
    "preset",
    "data",  # of the pretraining
    "seed",
    "hash8",
    "setting",
    "control",
    "run",  # the folder
    "trained",  # whether its pretraining has ended
    "flops",  # of the pretraining, as are the next three
    "train_seconds",
    "images",  # seen
    "memory",  # bytes, most at a time
    "task",
    "eval_data",
    "eval_seed",
    "metric",
    "main",  # whether it is the metric that the task is known by
    "value",
    "status",  # ok, failed, running, missing, no task, or invalid: not to be trusted
    "problem",  # why it is invalid, in a sentence
    "commit",
    "dirty",
    "encoder_commit",  # of the code that pretrained
    "encoder_dirty",
    "protocol",
    "protocol_id",
    "settings",  # of the task
    "fingerprint",  # of the data that it is scored on
    "per_image",  # the file with what each test image gave, and its checksum
    "seconds",
    "path",
)

_ROUNDING = 1e-6  # of metrics, in percent


def collect(runs: Iterable[Run], configs: Mapping[str, Config] | None = None) -> pd.DataFrame:
    """Read the results of runs.

    Args:
        runs: with their tasks; a result file that appears twice counts once.
        configs: resolved configurations by hash8, as far as known, which make better labels.

    Returns:
        One row per (run, task, evaluation seed, metric) with ``COLUMNS``, in the order of a table's
        rows. A result that is not there has one row, as the main metric. A run without tasks has
        one row whose task is None, the status "no task" and ``main`` false. The value is NaN
        exactly where the status is not "ok".
    """
    ordered = _in_table_order(list(runs))
    labels = row_labels(ordered, configs)
    rows_of = row_labels(ordered, configs, name_data=False)
    results: dict[str, list[dict[str, Any]]] = {}
    for run in ordered:
        about = {
            "label": labels[run.hash8],
            "row": rows_of[run.hash8],
            "method": run.method,
            "objective": run.objective,
            "encoder": run.encoder,
            "preset": run.preset,
            "data": run.data,
            "seed": run.seed,
            "hash8": run.hash8,
            "setting": run.setting,
            "control": run.control,
            "run": str(run.folder),
        }
        record = _record(run)
        about["trained"] = record is not None and not isinstance(record, ValueError)
        about |= _cost(record)
        if not run.tasks:
            results[str(run.folder)] = [{**about, **_no_task(record)}]
        for task in run.tasks:
            if (path := str(task.result)) not in results:
                of_task = {
                    "task": task.name,
                    "eval_data": task.data,
                    "eval_seed": task.eval_seed,
                    "protocol_id": task.protocol_id,
                    "fingerprint": task.fingerprint,
                    "path": path,
                }
                results[path] = [{**about, **of_task, **row} for row in _outcome(run, task, record)]
    _refuse_odd_metrics(results.values())
    rows = [row for metrics in results.values() for row in metrics]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    # Whole numbers beside None, which pandas would turn into floats.
    frame["eval_seed"] = pd.Series([row["eval_seed"] for row in rows], dtype=object)
    return frame.astype({"main": bool, "trained": bool, "value": float})


def _in_table_order(runs: list[Run]) -> list[Run]:
    """Methods in blocks of one setting, the plain objective first; then the controls."""

    def block(run: Run) -> tuple[str, ...]:
        return run.objective, run.encoder, run.data, run.preset

    blocks = {block: number for number, block in enumerate(dict.fromkeys(map(block, runs)))}
    return sorted(
        runs,
        key=lambda run: (
            run.control is not None,
            run.control == "supervised",
            blocks[block(run)],
            run.method != "none",
        ),
    )


def _record(run: Run) -> Pretraining | ValueError | None:
    """Of the pretraining; None before it is there, or what is wrong with it."""
    if not run.pretraining_file.exists():
        return None
    try:
        return read_pretraining(run)
    except ValueError as error:
        return error


def _cost(record: Pretraining | ValueError | None) -> dict[str, float]:
    cost = {} if record is None or isinstance(record, ValueError) else record.get("cost", {})
    names = {"flops": "flops", "train_seconds": "seconds", "images": "images", "memory": "memory"}
    return {column: cost.get(name, math.nan) for column, name in names.items()}


def _outcome(
    run: Run, task: PlannedTask, record: Pretraining | ValueError | None
) -> list[dict[str, Any]]:
    """What became of one planned task, a row for every metric."""
    if isinstance(record, ValueError):
        return [_lost("invalid", str(record))]
    if record is None or not task.result.exists():
        return [_lost(_why_missing(run, task))]
    try:
        result = read_result(task, run, record["encoder_sha256"])
    except ValueError as error:
        return [_lost("invalid", str(error))]
    if problem := _no_percentage(task, result["metrics"]):
        return [_lost("invalid", problem)]
    return [
        {"metric": metric, "main": number == 0, "value": value, **_origin(result)}
        for number, (metric, value) in enumerate(result["metrics"].items())
    ]


def _no_percentage(task: PlannedTask, metrics: Mapping[str, float]) -> str | None:
    """Which accuracy or IoU cannot be, in a sentence; a plug-in's own metric may have any value."""
    for metric, value in metrics.items():
        bounded = "accuracy" in metric or "iou" in metric
        if bounded and not -_ROUNDING <= value <= 100 + _ROUNDING:
            return (
                f"{task.result} has {metric} {value:g}, which is no percentage; delete it to have "
                "the task run again"
            )
    return None


def _origin(result: Result) -> dict[str, Any]:
    return {
        "status": "ok",
        "commit": result["commit"],
        "dirty": result["dirty"],
        "encoder_commit": result["encoder_commit"],
        "encoder_dirty": result["encoder_dirty"],
        "protocol": result["protocol"],
        "settings": result.get("settings"),
        "per_image": result.get("per_image"),
        "seconds": result["cost"].get("seconds", math.nan),
    }


def _why_missing(run: Run, task: PlannedTask) -> str:
    folders = (run.folder, task.result.parent)
    if any((folder / LOCK).exists() and is_held(folder) for folder in folders):
        return "running"
    return "failed" if run.error_file.exists() or task.error_file.exists() else "missing"


def _lost(status: str, problem: str | None = None) -> dict[str, Any]:
    return {"main": True, "value": math.nan, "status": status, "problem": problem}


def _no_task(record: Pretraining | ValueError | None) -> dict[str, Any]:
    problem = str(record) if isinstance(record, ValueError) else None
    return {"task": None, "eval_seed": None, **_lost("no task", problem), "main": False}


def _refuse_odd_metrics(results: Iterable[list[dict[str, Any]]]) -> None:
    """Make invalid what measures something else than most results of its very protocol."""
    protocols: dict[tuple[str, ...], list[list[dict[str, Any]]]] = defaultdict(list)
    for metrics in results:
        if (first := metrics[0])["status"] == "ok":
            protocols[first["task"], first["eval_data"], first["protocol_id"]].append(metrics)
    for alike in protocols.values():
        counts = Counter(metrics[0]["metric"] for metrics in alike)
        usual = [metric for metric, count in counts.items() if count == max(counts.values())]
        for metrics in alike:
            _refuse_other_metric(metrics, usual)


def _refuse_other_metric(metrics: list[dict[str, Any]], usual: Sequence[str]) -> None:
    first = metrics[0]
    if others := [metric for metric in usual if metric != first["metric"]]:
        problem = (
            f"{first['path']} measures {first['metric']} where others of its protocol measure "
            f"{others[0]}; delete it to have the task run again"
        )
        metrics[:] = [{**first, "metric": None, **_lost("invalid", problem)}]
