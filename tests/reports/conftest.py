from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.runs import PlannedTask, Run, identity, note_plans

MakeRun = Callable[..., Run]
Score = float | Mapping[str, float] | None  # the main metric, or all of them


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Plan a run and write the results it is given; a task with the value None has none.

    Results are by task and data, or by task, data and protocol; several are of evaluation seeds.
    The folder has a plan.json, unless it is of an earlier version (``earlier``) or not
    ``planned``, and a config.yaml if there is a ``config``.
    """

    def make(
        method: str,
        seed: int,
        results: Mapping[tuple[str, ...], Score | Sequence[Score]],
        *,
        failed: bool = False,
        metric: Mapping[str, str] | None = None,
        commit: str | None = "a" * 40,
        dirty: bool = False,
        protocol: str = "p0",
        cost: Mapping[str, float] | None = None,
        config: Mapping[str, Any] | None = None,
        planned: bool = True,
        earlier: bool = False,
        root: str = "runs",
        **changes: Any,
    ) -> Run:
        data = changes.get("data", "scenes")
        variant = "-".join(f"{value}" for value in changes.values() if value != data)
        hash8 = changes.pop("hash8", f"{method}-{data}-{variant}")
        defaults: dict[str, Any] = {
            "objective": "simclr",
            "encoder": "resnet18",
            "data": "scenes",
            "preset": "demo",
            "control": None,
            "fingerprint": "f0",
            "setting": "s0",
        }
        run = Run(
            method=method,
            seed=seed,
            hash8=hash8,
            folder=tmp_path / root / data / f"{method}-{hash8}" / f"seed{seed}",
            tasks=(),
            **(defaults | changes),
        )
        encoder = f"e{seed}"
        tasks = []
        for (task, eval_data, *own), given in results.items():
            protocol_id = f"{task}-1-{own[0] if own else protocol}"
            scores = given if isinstance(given, list | tuple) else [given]
            for eval_seed, score in enumerate(scores):
                place = f"{task}-{eval_data}-{protocol_id[-2:]}/seed{eval_seed}.json"
                path = run.folder / "results" / place
                tasks.append(PlannedTask(task, eval_data, "f0", eval_seed, path, protocol_id))
                path.parent.mkdir(parents=True, exist_ok=True)
                if score is None:
                    continue
                main = (metric or {}).get(task, "accuracy")
                several = isinstance(score, Mapping)
                result = {
                    "task": task,
                    "data": eval_data,
                    "protocol": f"How {task} is scored.",
                    "protocol_id": protocol_id,
                    "version": 1,
                    "hash8": hash8,
                    "pretrain_seed": seed,
                    "eval_seed": eval_seed,
                    "metrics": score if several else {main: score, "train_accuracy": 99.0},
                    "details": {},
                    "cost": {"seconds": 1.5},
                    "inputs": {"encoder_sha256": encoder, "data_fingerprint": "f0"},
                    "commit": commit,
                    "encoder_commit": commit,
                    "encoder_dirty": dirty,
                    "dirty": dirty,
                }
                path.write_text(json.dumps(result))
                record = {"encoder_sha256": encoder, "commit": commit, "dirty": dirty}
                record |= {} if cost is None else {"cost": cost}
                run.pretraining_file.write_text(json.dumps(record))
        run = replace(run, tasks=tuple(tasks))
        run.folder.mkdir(parents=True, exist_ok=True)
        if failed:
            run.error_file.write_text("Traceback")
        if planned:
            note_plans([run])
        if earlier:
            forget_protocols(run.folder / "plan.json")
        if config is not None:
            content = {"run": identity(run), "seed": seed, **config}
            (run.folder / "config.yaml").write_text(yaml.safe_dump(content))
        return run

    return make


def forget_protocols(file: Path) -> None:
    """Make a plan what it was before plans told protocols."""
    plan = json.loads(file.read_text())
    for task in plan["tasks"]:
        del task["protocol_id"], task["fingerprint"]
    file.write_text(json.dumps(plan))
