"""What encoders see of data whose stored size is not that of its views, as in transfer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from benchmark.dataset import Dataset, Split
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.image_ops import crop_boxes
from benchmark.streams import Streams
from benchmark.task import Task
from tasks.crops import Crops
from tasks.features import Inputs
from tasks.finetune import FineTuning
from tasks.linear import LinearProbe
from tasks.low_shot import LowShot

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"epochs": 2, "lr": 0.01, "schedule": "constant", "batch_size": 32}
MakeData = Callable[..., Dataset]
# Statistics of its own, by which pixels can be told from those normalised otherwise.
OWN: dict[str, Any] = {"mean": (0.2, 0.4, 0.6), "std": (0.1, 0.2, 0.4)}


def stored(size: int, dataset: MakeData, **view: Any) -> Dataset:
    """Dark images of three classes with a bright frame, outside of their central two thirds."""
    splits = []
    for seed in range(2):
        draws = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 90, (48, 3, size, size), generator=draws, dtype=torch.uint8)
        labels = torch.arange(48) % 3
        images[torch.arange(48), labels] += 60
        centre = slice(size // 6, size - size // 6)
        framed = torch.full_like(images, 255)
        framed[:, :, centre, centre] = images[:, :, centre, centre]
        splits.append(Split(framed, labels))
    return dataset(*splits, **OWN, **view)


class Shared(list):
    """What copies of its owner have in common."""

    def __deepcopy__(self, memo: dict) -> Shared:
        return self


class Spy(nn.Module):
    """Mean colours as features; keeps everything it has seen, as pixels in [0, 1]."""

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = Shared()

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(OWN[key])[:, None, None] for key in ("mean", "std"))
        if not x.is_meta:  # a rehearsal of sizes shows nothing
            self.seen.append(x.detach() * std + mean)
        return self.scale * x.mean((2, 3))


def tasks(augment: bool) -> list[Task]:
    crops = {"augment": augment, "min_scale": 0.9, "flip_prob": 0.0}
    return [LinearProbe(**SETTINGS | crops), FineTuning(**SETTINGS | crops)]


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("number", [0, 1])
def test_run__images_of_32_pixels_at_48(number: int, augment: bool, dataset: MakeData) -> None:
    task, data = tasks(augment)[number], stored(32, dataset, view_size=48)
    spy = Spy()
    task.run(spy, data, eval_seed=0, device=CPU)
    assert {x.shape[1:] for x in spy.seen} == {(3, 48, 48)}
    assert data.test is not None
    resized = F.interpolate(
        data.test.images / 255, size=(48, 48), mode="bicubic", antialias=True
    ).clamp(0, 1)
    torch.testing.assert_close(spy.seen[-1], resized)  # the test split comes last, un-augmented


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("number", [0, 1])
def test_run__the_centre_of_images_of_48_pixels_at_32(
    number: int, augment: bool, dataset: MakeData
) -> None:
    task, data = tasks(augment)[number], stored(48, dataset, view_size=32, view="centre")
    spy = Spy()
    task.run(spy, data, eval_seed=0, device=CPU)
    assert {x.shape[1:] for x in spy.seen} == {(3, 32, 32)}
    assert data.test is not None
    torch.testing.assert_close(spy.seen[-1], data.test.images[:, :, 8:40, 8:40] / 255)
    # Only crops of whole stored images reach the frame.
    bright = [bool((x > 0.95).any()) for x in spy.seen]
    assert any(bright) == augment
    assert not bright[-1]


def test_run__low_shot_sees_the_view(dataset: MakeData) -> None:
    data, spy = stored(48, dataset, view_size=32, view="centre"), Spy()
    LowShot(fractions=[0.5], c=1.0).run(spy, data, eval_seed=0, device=CPU)
    assert [x.shape for x in spy.seen] == [(48, 3, 32, 32)] * 2
    assert not any((x > 0.95).any() for x in spy.seen)


@pytest.mark.parametrize("augment", [False, True])
def test_run__transfer_to_another_size_learns(
    augment: bool, small_resnet: Callable[..., ResNet], dataset: MakeData
) -> None:
    data = stored(48, dataset, view_size=32)
    settings = {"epochs": 30, "lr": 0.1, "schedule": "constant", "standardise": True}
    task = LinearProbe(**settings, augment=augment, min_scale=0.7)
    assert task.run(small_resnet(), data, eval_seed=0, device=CPU).metrics["accuracy"] > 80


def test_crops__depend_on_seed_epoch_and_sample_alone(dataset: MakeData) -> None:
    data = stored(32, dataset, view_size=24)
    images, inputs = data.train.images, Inputs.of(data, CPU)
    crops = Crops("test", augment=True, min_scale=0.3, flip_prob=0.5)

    def seen(index: list[int], eval_seed: int = 0, epoch: int = 0) -> Tensor:
        chosen = torch.tensor(index)
        return crops(images[chosen], inputs, 24, chosen, eval_seed=eval_seed, epoch=epoch)

    torch.testing.assert_close(seen([3, 7])[1:], seen([7]))
    assert not torch.equal(seen([7]), seen([7], eval_seed=1))
    assert not torch.equal(seen([7]), seen([7], epoch=1))


def test_crops__from_padded_images_are_torchvisions(dataset: MakeData) -> None:
    data = stored(24, dataset)
    images, inputs = data.train.images, Inputs.of(data, CPU)
    crops = Crops("test", augment=True, min_scale=1.0, flip_prob=0.5, padding=4)
    index = torch.arange(len(images))
    seen = crops(images, inputs, 24, index, eval_seed=0, epoch=0)
    padded = inputs(tv.pad(images, [4], padding_mode="reflect") / 255)
    corners = set()
    for view, image in zip(seen, padded, strict=True):
        places = [
            (top, left, flipped)
            for top in range(9)
            for left in range(9)
            for flipped in (False, True)
            for part in [image[:, top : top + 24, left : left + 24]]
            if torch.allclose(view, part.flip(2) if flipped else part, atol=1e-5)
        ]
        assert len(places) == 1
        corners.update(places)
    assert len(corners) > 30  # of 162
    assert {flipped for *_, flipped in corners} == {False, True}
    with pytest.raises(UserError, match="padding=24 must be below the 24 pixels of the images"):
        replace(crops, padding=24).check(data)


def test_crops__resized_are_cut_as_torchvision_would(dataset: MakeData) -> None:
    data = stored(32, dataset, view_size=24)
    crops = Crops("test", augment=True, min_scale=0.5, flip_prob=0.0)
    index = torch.arange(8)
    inputs = Inputs.of(data, CPU)
    seen = crops(data.train.images[:8], inputs, 24, index, eval_seed=3, epoch=2)
    drawn = Streams(3, 2, index).uniform("crops/box", 11, 2)
    boxes = crop_boxes(drawn[:, :-1], drawn[:, -1], (32, 32), 0.5, (3 / 4, 4 / 3))
    for image, box, got in zip(data.train.images, boxes.tolist(), seen, strict=False):
        cut = tv.resized_crop(image / 255, *box, [24, 24], InterpolationMode.BILINEAR)
        torch.testing.assert_close(got, inputs(cut[None])[0], atol=1e-5, rtol=0)
