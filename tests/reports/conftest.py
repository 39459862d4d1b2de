import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.runs import PlannedTask, Run

MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Plan a run and write the results it is given; a task with the value None has none."""

    def make(
        method: str,
        seed: int,
        results: dict[tuple[str, str], float | None],
        *,
        failed: bool = False,
        metric: dict[str, str] | None = None,
        commit: str | None = "a" * 40,
        dirty: bool = False,
        protocol: str = "p0",
        result_file: str = "0/seed0.json",  # hash of the task's options, evaluation seed
        **changes: Any,
    ) -> Run:
        data = changes.get("data", "scenes")
        variant = "-".join(f"{value}" for value in changes.values() if value != data)
        hash8 = changes.pop("hash8", f"{method}-{data}-{variant}")
        folder = tmp_path / "runs" / data / f"{method}-{hash8}" / f"seed{seed}"
        tasks = []
        for (task, eval_data), value in results.items():
            path = folder / "results" / f"{task}-{eval_data}-{result_file}"
            tasks.append(PlannedTask(task, eval_data, "f0", 0, path, f"{task}-1-{protocol}"))
            path.parent.mkdir(parents=True, exist_ok=True)
            if value is None:
                continue
            result = {
                "task": task,
                "data": eval_data,
                "protocol": f"How {task} is scored.",
                "protocol_id": f"{task}-1-{protocol}",
                "version": 1,
                "hash8": hash8,
                "pretrain_seed": seed,
                "eval_seed": 0,
                "metrics": {(metric or {}).get(task, "accuracy"): value, "train_accuracy": 99.0},
                "details": {},
                "cost": {"seconds": 1.5},
                "inputs": {"encoder_sha256": f"e{seed}", "data_fingerprint": "f0"},
                "commit": commit,
                "encoder_commit": commit,
                "encoder_dirty": dirty,
                "dirty": dirty,
            }
            path.write_text(json.dumps(result))
            record = {"encoder_sha256": f"e{seed}", "commit": commit, "dirty": dirty}
            (folder / "pretraining.json").write_text(json.dumps(record))
        if failed:
            (folder / "error.txt").write_text("Traceback")
        defaults: dict[str, Any] = {
            "objective": "simclr",
            "encoder": "resnet18",
            "data": "scenes",
            "preset": "demo",
            "control": None,
            "fingerprint": "f0",
            "setting": "s0",
        }
        return Run(
            method=method,
            seed=seed,
            hash8=hash8,
            folder=folder,
            tasks=tuple(tasks),
            **(defaults | changes),
        )

    return make
