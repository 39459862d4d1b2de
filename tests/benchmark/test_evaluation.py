"""The result of a task: written with all that it came from, and taken for nothing else."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark import scenes
from benchmark.dataset import Dataset
from benchmark.encoders import ResNet
from benchmark.evaluation import evaluate, whole_result
from benchmark.files import write_json
from benchmark.hashing import protocol_id
from benchmark.instantiate import instantiate
from benchmark.result_file import main_metric, read_per_image, read_result
from benchmark.runs import PlannedTask, Run
from benchmark.streams import seeded
from benchmark.task import TaskResult
from tasks.knn import KNN

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
    with seeded(0, "test/encoder"):
        encoder = ResNet(18, 8)
    evaluate(
        run.tasks[0],
        instantiate(node),
        encoder,
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


def test_evaluate__keeps_what_each_image_contributed(run: Run, data: Dataset) -> None:
    (task,) = run.tasks
    scored(run, data)
    result = read_result(task, run, "e0")
    arrays = read_per_image(task.result, result["per_image"], result["metrics"]["accuracy"])
    assert data.test is not None
    assert data.test.labels is not None
    assert arrays["truth"].tolist() == data.test.labels.tolist()
    assert main_metric(arrays) == pytest.approx(result["metrics"]["accuracy"], rel=1e-12)
    file = task.result.with_name("seed0.npz")
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    assert result["per_image"] == {"file": "seed0.npz", "sha256": checksum}


def test_evaluate__same_scores_same_bytes(
    run: Run, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run.tasks[0].result.with_name("seed0.npz")
    scored(run, data)
    whole = file.read_bytes()
    file.unlink()
    monkeypatch.setattr(time, "time", lambda: 1e9)  # archives note when their members were written
    scored(run, data)
    assert file.read_bytes() == whole


def test_evaluate__the_result_comes_last_and_a_rerun_overwrites_both(
    run: Run, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = run.tasks
    file, checks = task.result.with_name("seed0.npz"), []

    def check() -> None:
        checks.append(file.exists())
        if len(checks) == 2:
            raise RuntimeError("lock lost")

    with pytest.raises(RuntimeError, match="lock lost"):
        scored(run, data, check=check)
    assert checks == [False, True]
    assert not task.result.exists()
    file.write_bytes(b"cut off")
    scored(run, data)
    assert "per_image" in read_result(task, run, "e0")


def test_evaluate__a_task_that_tells_nothing_of_images(
    run: Run, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KNN, "run", lambda *_, **__: TaskResult({"accuracy": 50.0}))
    scored(run, data)
    (task,) = run.tasks
    result = read_result(task, run, "e0")
    assert "per_image" not in result
    assert "per_image" not in result
    assert not task.result.with_name("seed0.npz").exists()


def test_evaluate__refuses_images_that_do_not_give_the_metric(
    run: Run, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_image = {"score": np.zeros(8)}
    unfit = TaskResult({"accuracy": 50.0}, per_image=per_image)
    monkeypatch.setattr(KNN, "run", lambda *_, **__: unfit)
    with pytest.raises(ValueError, match="knn gives an unfit per_image: it gives 0 where the main"):
        scored(run, data)
    assert not run.tasks[0].result.parent.exists()


def test_whole_result__what_is_noted_of_images_has_its_types(run: Run, data: Dataset) -> None:
    (task,) = run.tasks
    scored(run, data)
    written = json.loads(task.result.read_text())
    write_json(task.result, {**written, "per_image": {"file": "seed0.npz"}})
    with pytest.raises(ValueError, match=f"{task.result} is no result .*per_image lacks sha256"):
        whole_result(task, run, "e0")
