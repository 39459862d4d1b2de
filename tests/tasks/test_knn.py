from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from benchmark.contracts import Dataset, Split, UserError
from benchmark.encoders import ResNet
from benchmark.streams import seeded
from tasks.knn import KNN

CPU = torch.device("cpu")
SIZE = 8
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


class Flat(nn.Module):
    """The pixels themselves: an encoder whose features are known."""

    feature_dim = 3 * SIZE**2

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def overlapping(train: int = 80, test: int = 60) -> Dataset:
    """Four classes in noise so strong that neighbours often disagree."""
    draws = torch.Generator().manual_seed(0)
    centres = torch.rand(4, 3, SIZE, SIZE, generator=draws)
    splits = []
    for count in (train, test):
        labels = torch.randint(0, 4, (count,), generator=draws)
        pixels = 0.2 * centres[labels] + 0.8 * torch.rand(count, 3, SIZE, SIZE, generator=draws)
        splits.append(Split((255 * pixels).to(torch.uint8), labels))
    return Dataset("toy", splits[0], splits[1], tuple("abcd"), MEAN, STD, "toy", "toy")


def features_of(image: Tensor) -> list[float]:
    colours = zip(image.tolist(), MEAN, STD, strict=True)
    return [(p / 255 - m) / s for plane, m, s in colours for row in plane for p in row]


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def slow_accuracy(data: Dataset, k: int, temperature: float) -> float:
    assert data.test is not None
    assert data.test.labels is not None
    assert data.train.labels is not None
    known = [features_of(image) for image in data.train.images]
    labels = data.train.labels.tolist()
    correct = 0
    for image, label in zip(data.test.images, data.test.labels.tolist(), strict=True):
        asked = features_of(image)
        nearest = sorted(
            ((cosine(asked, f), c) for f, c in zip(known, labels, strict=True)), reverse=True
        )[:k]
        votes = dict.fromkeys(labels, 0.0)
        for similarity, c in nearest:
            votes[c] += math.exp(similarity / temperature)
        correct += max(votes, key=lambda c: votes[c]) == label
    return 100 * correct / len(data.test)


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (7, 0.02), (60, 1.0)])
def test_run__equals_a_slow_loop(k: int, temperature: float) -> None:
    data = overlapping()
    result = KNN(k=k, temperature=temperature).run(Flat(), data, eval_seed=0, device=CPU)
    expected = slow_accuracy(data, k, temperature)
    assert result.metrics == {"accuracy": pytest.approx(expected)}
    assert 30 < expected < 100  # the votes were contested


def test_run__weights_matter() -> None:
    data = overlapping()
    results = [
        KNN(k=60, temperature=t).run(Flat(), data, eval_seed=0, device=CPU) for t in (0.05, 10.0)
    ]
    assert results[0] != results[1]


def test_run__eval_seed_has_no_influence() -> None:
    data = overlapping()
    results = [KNN().run(Flat(), data, eval_seed=seed, device=CPU) for seed in (0, 1)]
    assert results[0] == results[1]


@pytest.mark.parametrize("training", [True, False])
def test_run__encoder_is_untouched(training: bool) -> None:
    with seeded(0, "test/encoder"):
        encoder = ResNet(18, width=8, stem="stride2").train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    KNN().run(encoder, overlapping(), eval_seed=0, device=CPU)
    after = encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training == training for module in encoder.modules())


def test_run__more_neighbours_than_images_is_an_error() -> None:
    with pytest.raises(UserError, match="k=20 exceeds the 10 training images of 'toy'"):
        KNN().run(Flat(), overlapping(train=10), eval_seed=0, device=CPU)


def test_run__features_that_are_not_finite_are_an_error() -> None:
    class Broken(Flat):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) * math.nan

    with pytest.raises(FloatingPointError, match="not finite"):
        KNN().run(Broken(), overlapping(), eval_seed=0, device=CPU)


def test_knn__refuses_values_out_of_range() -> None:
    with pytest.raises(UserError, match="k=0 must be at least 1"):
        KNN(k=0)
    with pytest.raises(UserError, match=r"temperature=0\.0 must be above 0"):
        KNN(temperature=0.0)
    with pytest.raises(UserError, match="precision=fp8 is not one of fp32, bf16"):
        KNN(precision="fp8")
