from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmark.dataset import Dataset, Split
from benchmark.encoders import ResNet
from benchmark.streams import seeded

SIZE = 16


def noise(count: int, seed: int, size: int = SIZE) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 120, (count, 3, size, size), generator=draws, dtype=torch.uint8)


@pytest.fixture
def dataset() -> Callable[..., Dataset]:
    """A data set of two splits."""

    def build(train: Split, test: Split | None, **changes) -> Dataset:
        statistics = {"mean": (0.5,) * 3, "std": (0.25,) * 3} | changes
        names = ("a", "b", "c")
        return Dataset(
            "toy", train, test, names, fingerprint="", train_fingerprint="", **statistics
        )

    return build


@pytest.fixture
def coloured(dataset: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """Images of three classes: class k is brightest in colour channel k."""

    def build(train: int = 120, test: int = 60, contrast: int = 100) -> Dataset:
        splits = []
        for seed, count in enumerate((train, test)):
            labels = torch.arange(count) % 3
            images = noise(count, seed)
            images[torch.arange(count), labels] += contrast
            splits.append(Split(images, labels))
        return dataset(*splits)

    return build


@pytest.fixture
def chance(dataset: Callable[..., Dataset]) -> Dataset:
    """Images whose labels mean nothing."""
    splits = []
    for seed, count in ((0, 90), (1, 300)):
        labels = torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(seed))
        splits.append(Split(noise(count, seed), labels))
    return dataset(*splits)


@pytest.fixture
def relabelled(dataset: Callable[..., Dataset]) -> Callable[[Dataset], Dataset]:
    """The same data set with the labels of the test split turned over."""

    def build(data: Dataset) -> Dataset:
        assert data.test is not None
        assert data.test.labels is not None
        return dataset(data.train, Split(data.test.images, data.test.labels.flip(0)))

    return build


@pytest.fixture
def small_resnet() -> Callable[..., ResNet]:
    def build(seed: int = 0) -> ResNet:
        # Below 8 channels a 1x1 convolution with stride 2 corrupts memory in torch 2.15 on CPUs
        # without AVX-512.
        with seeded(seed, "test/encoder"):
            return ResNet(18, width=12, stem="stride2")

    return build


class Flat(nn.Module):
    """The pixels themselves, scaled: an encoder whose features are known."""

    def __init__(self, scale: float, size: int) -> None:
        super().__init__()
        self.feature_dim = 3 * size**2
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1)


@pytest.fixture
def flat() -> Callable[..., nn.Module]:
    def build(scale: float = 1.0, size: int = SIZE) -> nn.Module:
        return Flat(scale, size)

    return build


class Drifting(Flat):
    """Moves a buffer in evaluation mode too, from a forward pass of one's choice on."""

    def __init__(self, after: int) -> None:
        super().__init__(1.0, SIZE)
        self.remaining = after
        self.register_buffer("moved", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.remaining -= 1
        if self.remaining < 0:
            self.moved += 1
        return super().forward(x)


@pytest.fixture
def drifting() -> Callable[[int], nn.Module]:
    return Drifting
