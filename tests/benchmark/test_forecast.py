"""What a dry run says is left to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.forecast import Forecast, Forecaster
from benchmark.job import execute
from benchmark.plan import Planner

SMALL = ("data.train_count=128", "data.test_count=64", "preset=smoke", "device=cpu")


@pytest.fixture
def forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    planner = Planner()
    forecaster = Forecaster(planner)

    def of(*overrides: str) -> Forecast:
        return forecaster.forecast(planner.plan([*SMALL, *overrides]))

    return of


@pytest.mark.parametrize("more", [(), ("turns.encoder_steps=2",)])
def test_forecast__pretraining_is_what_the_run_then_counts(forecast, more: tuple[str, ...]) -> None:
    left = forecast("method=sequential", "epochs=2", "task=[]", *more)
    assert execute(left.planned, lambda event: None)
    record = json.loads(left.planned.run.pretraining_file.read_text())
    assert left.pretraining.flops == pytest.approx(record["cost"]["flops"])
    assert left.pretraining.seconds > 0
    assert forecast("method=sequential", "epochs=2", "task=[]", *more).pretraining.flops == 0


def flops(forecast, *overrides: str) -> float:
    return forecast("method=none", *overrides).tasks.flops


def test_forecast__images_of_tasks(forecast) -> None:
    image = flops(forecast, "task=knn") / (128 + 64)
    assert flops(forecast, "task=linear") == pytest.approx(image * (128 + 64))
    augmented = ("tasks.linear.augment=true", "tasks.linear.epochs=3")
    assert flops(forecast, "task=linear", *augmented) == pytest.approx(image * (4 * 128 + 64))
    refit = ("tasks.linear.lr=[0.1,0.2]", "tasks.linear.refit=true")
    twice = flops(forecast, "task=linear", *augmented, *refit)
    assert twice == pytest.approx(image * (7 * 128 + 64))
    tuned = flops(forecast, "task=finetune", "tasks.finetune.epochs=2")
    assert tuned == pytest.approx(image * (128 + 64 + 3 * 2 * 128))
    segmented = flops(forecast, "task=segmentation", "tasks.segmentation.epochs=2")
    assert segmented == pytest.approx(image * (64 + 3 * 2 * 128))


def test_forecast__what_the_task_makes_of_encoder_and_images(forecast) -> None:
    plain = flops(forecast, "task=finetune")
    # A stem of stride 1 and no pooling instead of one of stride 2.
    assert flops(forecast, "task=finetune", "tasks.finetune.reset_stem=true") > 3 * plain
    whole = flops(forecast, "task=segmentation", "tasks.segmentation.epochs=10")
    crops = ("tasks.segmentation.epochs=10", "tasks.segmentation.crop_size=16")
    assert flops(forecast, "task=segmentation", *crops) < whole / 3
    masks = forecast("method=random", "task=mask_quality")
    assert masks.planned.run.tasks
    assert masks.tasks.flops == 0
