"""One task of a run: score, and write the result with all that it came from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.array_file import write_arrays
from benchmark.checkout import git_state
from benchmark.contracts import Encoder
from benchmark.dataset import Dataset
from benchmark.files import sha256_of, write_json
from benchmark.hashing import protocol_id
from benchmark.result_file import (
    PerImage,
    Result,
    per_image_fault,
    per_image_file,
    read_pretraining,
    read_result,
)
from benchmark.runs import PlannedTask, Run
from benchmark.task import SavedMasks, Task, TaskResult


def evaluate(
    planned: PlannedTask,
    task: Task,
    subject: Encoder | SavedMasks,
    data: Dataset,
    *,
    run: Run,
    node: Mapping[str, Any],
    encoder_sha256: str,
    device: torch.device,
    check: Callable[[], object],
) -> TaskResult:
    """Run a task and write its result file, and before it what each image contributed.

    Args:
        planned: where the result goes, and the seed of its heads.
        task: the protocol.
        subject: what is scored.
        data: that it is scored on.
        run: whose encoder it is.
        node: of the configuration, from which the task was built.
        encoder_sha256: checksum of the encoder.
        device: that computes.
        check: raises if nothing may be written any more.

    Raises:
        ValueError: if the task is no longer what was planned, or what it says that each image
            contributed does not give its main metric.
    """
    if protocol_id(node) != planned.protocol_id:
        raise ValueError(
            f"the code of {planned.name} has changed since it was planned; start again"
        )
    started = time.monotonic()
    result = task.run(subject, data, eval_seed=planned.eval_seed, device=device)
    if result.per_image:
        main = next(iter(result.metrics.values()))
        if fault := per_image_fault(result.per_image, main):
            raise ValueError(f"{planned.name} gives an unfit per_image: {fault}")
    commit, dirty = git_state()
    check()
    pretraining = read_pretraining(run)
    content: Result = {
        "task": planned.name,
        "data": planned.data,
        "protocol": task.protocol,
        "protocol_id": planned.protocol_id,
        "version": task.version,
        "hash8": run.hash8,
        "pretrain_seed": run.seed,
        "eval_seed": planned.eval_seed,
        "metrics": result.metrics,
        "details": result.details,
        "settings": {key: value for key, value in node.items() if key != "data"},
        "cost": {"seconds": round(time.monotonic() - started, 3)},
        "inputs": {"encoder_sha256": encoder_sha256, "data_fingerprint": data.fingerprint},
        "commit": commit,
        "dirty": dirty,
        "encoder_commit": pretraining["commit"],
        "encoder_dirty": pretraining["dirty"],
    }
    if result.per_image:
        content["per_image"] = _write_per_image(per_image_file(planned.result), result.per_image)
        check()
    write_json(planned.result, {**content})
    return result


def _write_per_image(file: Path, arrays: dict[str, np.ndarray]) -> PerImage:
    write_arrays(file, arrays)
    return {"file": file.name, "sha256": sha256_of(file)}


def whole_result(planned: PlannedTask, run: Run, encoder_sha256: str) -> bool:
    """Whether a task's result is there.

    Raises:
        ValueError: naming the file, if it is broken or was made from something else.
    """
    if not planned.result.exists():
        return False
    read_result(planned, run, encoder_sha256)
    return True
