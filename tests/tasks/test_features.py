from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.dataset import Dataset, Split
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.task import Task
from tasks.features import Inputs, extract, unchanged, working_copy
from tasks.finetune import FineTuning
from tasks.linear import LinearProbe
from tasks.low_shot import LowShot

CPU = torch.device("cpu")
SIZE = 16
ONE: dict[str, Any] = {"epochs": 1, "lr": 0.1, "schedule": "constant"}
LOW_SHOT: dict[str, Any] = {"fractions": [0.1], "c": 1.0}
INPUTS = Inputs((0.5,) * 3, (0.25,) * 3, CPU)


def test_unchanged__notices_a_moved_buffer() -> None:
    norm = nn.BatchNorm1d(2)
    with pytest.raises(RuntimeError, match="the encoder has changed, in running_mean"):
        with unchanged(norm):
            norm(torch.rand(4, 2))


def test_extract__is_in_evaluation_mode(
    small_resnet: Callable[..., ResNet], coloured: Callable[..., Dataset]
) -> None:
    encoder, images = small_resnet(), coloured().train.images
    body = working_copy(encoder, CPU, freeze=False)
    with unchanged(body):
        features = extract(body, images, INPUTS, "fp32")
    with torch.no_grad():
        expected = encoder.eval()((images / 255 - 0.5) / 0.25)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


def test_extract__of_some_images(
    flat: Callable[..., nn.Module],
    coloured: Callable[..., Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.features.EVAL_BATCH", 7)
    images, index = coloured().train.images, torch.randperm(120)[:50]
    everything = extract(flat(), images, INPUTS, "fp32")
    assert torch.equal(extract(flat(), images, INPUTS, "fp32", index), everything[index])


@pytest.mark.parametrize("task", [LinearProbe(**ONE), FineTuning(**ONE), LowShot(**LOW_SHOT)])
def test_run__data_without_labels_is_an_error(
    task: Task,
    dataset: Callable[..., Dataset],
    coloured: Callable[..., Dataset],
    flat: Callable[..., nn.Module],
) -> None:
    train = coloured().train
    for data in (dataset(train, None), dataset(Split(train.images), train)):
        with pytest.raises(UserError, match=r"has no labels in its (train|test) split"):
            task.run(flat(), data, eval_seed=0, device=CPU)


class ForSize(nn.Module):
    """An encoder that takes one size only."""

    feature_dim = 3

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.image_size:
            raise RuntimeError("another size")
        return x.mean((2, 3))


@pytest.mark.parametrize("task", [LinearProbe(**ONE), FineTuning(**ONE), LowShot(**LOW_SHOT)])
def test_check__images_of_another_size_than_the_encoder_takes(
    task: Task, coloured: Callable[..., Dataset]
) -> None:
    task.check(ForSize(SIZE), coloured())
    with pytest.raises(UserError, match="images of 16 pixels, which the encoder built for 8 does"):
        task.check(ForSize(8), coloured())
