"""Result files: what they hold, and how one is read by whoever does not trust it. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from benchmark.files import read_json
from benchmark.runs import PlannedTask, Run
from benchmark.type_check import misfit


class Inputs(TypedDict):
    """What was scored, and on what."""

    encoder_sha256: str
    data_fingerprint: str


class Result(TypedDict):
    """One evaluation of one run, with all that it came from.

    The first of the metrics is the main one. ``commit`` and ``dirty`` are of the code that scored,
    ``encoder_commit`` and ``encoder_dirty`` of the code that pretrained.
    """

    task: str
    data: str
    protocol: str
    protocol_id: str
    version: int
    hash8: str
    pretrain_seed: int
    eval_seed: int
    metrics: dict[str, float]
    details: dict[str, Any]
    cost: dict[str, float]
    inputs: Inputs
    commit: str | None
    dirty: bool
    encoder_commit: str | None
    encoder_dirty: bool


class Pretraining(TypedDict):
    """What is read here of the record of a pretraining; the commit is of the code that trained."""

    encoder_sha256: str
    commit: str | None
    dirty: bool


def read_result(task: PlannedTask, run: Run, encoder_sha256: str) -> Result:
    """Read the result of a planned task.

    Args:
        task: of the run.
        run: whose encoder it scores.
        encoder_sha256: checksum of that encoder.

    Raises:
        ValueError: naming the file and the remedy, if it holds anything else, is of another task,
            protocol, configuration, seed, encoder or data, or has values that are no results.
    """
    found = _read(task.result)
    fault = misfit(found, Result, "it")
    if fault is None and not found["metrics"]:
        fault = "it has no metrics"
    if fault is not None:
        raise ValueError(
            f"{task.result} is no result ({fault}); delete it to have the task run again"
        )
    result: Result = found
    planned = {
        "task": task.name,
        "data": task.data,
        "protocol_id": task.protocol_id,
        "hash8": run.hash8,
        "pretrain_seed": run.seed,
        "eval_seed": task.eval_seed,
        "encoder_sha256": encoder_sha256,
        "data_fingerprint": task.fingerprint,
    }
    said: Mapping[str, object] = {**result, **result["inputs"]}
    if other := [key for key, value in planned.items() if said[key] != value]:
        differ = ", ".join(f"{key} {said[key]} in place of {planned[key]}" for key in other)
        raise ValueError(
            f"{task.result} was made from something else ({' '.join(differ.split())}); delete it "
            "to have the task run again"
        )
    return result


def read_pretraining(run: Run) -> Pretraining:
    """Read what a run noted of its finished pretraining.

    Raises:
        ValueError: naming the file, if it is broken.
    """
    found = _read(run.pretraining_file)
    if fault := misfit(found, Pretraining, "it"):
        raise ValueError(
            f"{run.pretraining_file} is no record of a pretraining ({fault}); delete it to have "
            "the run trained again"
        )
    record: Pretraining = found
    return record


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); make it readable") from error
