"""The result of a task: written with all that it came from, and taken for nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark import scenes
from benchmark.dataset import Dataset
from benchmark.encoders import ResNet
from benchmark.evaluation import evaluate, whole_result
from benchmark.files import write_json
from benchmark.hashing import protocol_id
from benchmark.instantiate import instantiate
from benchmark.runs import PlannedTask, Run

NODE = {"_target_": "tasks.knn.KNN", "k": 3, "temperature": 0.07}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return scenes.load(train_count=16, test_count=8)


@pytest.fixture
def run(tmp_path: Path, data: Dataset) -> Run:
    """A run whose encoder is to be scored."""
    task = PlannedTask(
        name="knn",
        data=data.name,
        fingerprint=data.fingerprint,
        eval_seed=0,
        result=tmp_path / "seed3/results/knn/seed0.json",
        protocol_id=protocol_id(NODE),
    )
    write_json(
        tmp_path / "seed3/pretraining.json",
        {"encoder_sha256": "e0", "commit": None, "dirty": False},
    )
    return Run(
        method="none",
        objective="simclr",
        encoder="resnet18",
        data=data.name,
        preset="smoke",
        seed=3,
        control=None,
        fingerprint=data.train_fingerprint,
        hash8="01234567",
        setting="89abcdef",
        folder=tmp_path / "seed3",
        tasks=(task,),
    )


def scored(run: Run, data: Dataset, *, node: dict[str, Any] = NODE, check=lambda: None) -> None:
    evaluate(
        run.tasks[0],
        instantiate(node),
        ResNet(18, 8),
        data,
        run=run,
        node=node,
        encoder_sha256="e0",
        device=torch.device("cpu"),
        check=check,
    )


def test_evaluate__writes_what_is_then_taken_for_whole(run: Run, data: Dataset) -> None:
    (task,) = run.tasks
    assert not whole_result(task, run, "e0")
    scored(run, data)
    assert whole_result(task, run, "e0")
    written = json.loads(task.result.read_text())
    assert written["hash8"] == "01234567"
    assert written["protocol_id"] == task.protocol_id
    assert 0 <= written["metrics"]["accuracy"] <= 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "linear"}, "task knn in place of linear"),
        ({"fingerprint": "f1"}, "data_fingerprint"),
        ({"eval_seed": 1}, "eval_seed 0 in place of 1"),
        ({"protocol_id": "KNN-9-0"}, "protocol_id"),
        ({"seed": 4}, "pretrain_seed 3 in place of 4"),
        ({"hash8": "76543210"}, "hash8 01234567 in place of 76543210"),
        ({"encoder_sha256": "e1"}, "encoder_sha256 e0 in place of e1"),
    ],
)
def test_whole_result__of_something_else_is_an_error(run, data, change, said: str) -> None:
    scored(run, data)
    change = dict(change)
    encoder = change.pop("encoder_sha256", "e0")
    of_run = {key: change.pop(key) for key in ("seed", "hash8") if key in change}
    task = replace(run.tasks[0], **change)
    with pytest.raises(
        ValueError, match=rf"{task.result} was made from something .*{said}.*delete"
    ):
        whole_result(task, replace(run, **of_run), encoder)


def test_evaluate__not_after_a_change_of_the_protocol(run: Run, data: Dataset) -> None:
    with pytest.raises(ValueError, match="the code of knn has changed since it was planned"):
        scored(run, data, node={**NODE, "k": 4})
    assert not run.tasks[0].result.exists()


def test_evaluate__writes_nothing_where_it_must_not(run: Run, data: Dataset) -> None:
    def lost() -> None:
        raise RuntimeError("lock lost")

    with pytest.raises(RuntimeError, match="lock lost"):
        scored(run, data, check=lost)
    assert not run.tasks[0].result.parent.exists()
