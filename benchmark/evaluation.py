"""One task of a run: score, and write the result with all that it came from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from benchmark.contracts import Encoder
from benchmark.dataset import Dataset
from benchmark.files import read_json, write_json
from benchmark.hashing import protocol_id
from benchmark.provenance import git_state
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
) -> TaskResult:
    """Run a task and write its result file.

    Args:
        planned: where the result goes, and the seed of its heads.
        task: the protocol.
        subject: what is scored.
        data: that it is scored on.
        run: whose encoder it is.
        node: of the configuration, from which the task was built.
        encoder_sha256: checksum of the encoder.
        device: that computes.
    """
    started = time.monotonic()
    result = task.run(subject, data, eval_seed=planned.eval_seed, device=device)
    commit, dirty = git_state()
    encoder_record = read_json(run.pretraining_file)
    write_json(
        planned.result,
        {
            "task": planned.name,
            "data": planned.data,
            "protocol": task.protocol,
            "protocol_id": protocol_id(node),
            "version": task.version,
            "pretrain_seed": run.seed,
            "eval_seed": planned.eval_seed,
            "metrics": result.metrics,
            "details": result.details,
            "cost": {"seconds": round(time.monotonic() - started, 3)},
            "inputs": {"encoder_sha256": encoder_sha256, "data_fingerprint": data.fingerprint},
            "commit": commit,
            "dirty": dirty,
            "encoder_commit": encoder_record["commit"],
            "encoder_dirty": encoder_record["dirty"],
        },
    )
    return result


def whole_result(planned: PlannedTask, encoder_sha256: str, pretrain_seed: int) -> bool:
    """Whether a task's result is there.

    Raises:
        ValueError: naming the file, if it is broken or was made from something else.
    """
    if not planned.result.exists():
        return False
    result = read_json(planned.result)
    expected = {
        "encoder_sha256": encoder_sha256,
        "eval_seed": planned.eval_seed,
        "pretrain_seed": pretrain_seed,
        "data_fingerprint": planned.fingerprint,
    }
    found = {key: result.get(key) for key in ("eval_seed", "pretrain_seed")}
    found |= result.get("inputs", {})
    if "metrics" not in result or found != expected:
        raise ValueError(
            f"{planned.result} was made from another encoder, seed or data; delete it to evaluate "
            "again"
        )
    return True
