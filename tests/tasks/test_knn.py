from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from benchmark.dataset import Dataset, Split
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.result_file import main_metric
from benchmark.streams import seeded
from tasks import knn
from tasks.knn import KNN, nearest

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


def features(images: Tensor) -> np.ndarray:
    return np.array([features_of(image) for image in images], dtype=np.float32)


def scikit_learn(k: int, temperature: float) -> KNeighborsClassifier:
    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / temperature)

    return KNeighborsClassifier(k, weights=weights, metric="cosine")


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (5, 0.1), (200, 0.5)])
@pytest.mark.parametrize("cosines", [2**26, 7 * 500, 1])
def test_run__equals_scikit_learn(
    k: int, temperature: float, cosines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn, "_COSINES", cosines)  # all at once, by sevens, one by one
    data = overlapping(500, 120)
    result = KNN(k=k, temperature=temperature).run(Flat(), data, eval_seed=0, device=CPU)
    assert data.test is not None
    vote = scikit_learn(k, temperature).fit(features(data.train.images), data.train.labels)
    expected = 100 * vote.score(features(data.test.images), data.test.labels)
    assert result.metrics["accuracy"] == pytest.approx(expected)
    assert 30 < expected < 100
    assert result.details == {}
    predicted = vote.predict(features(data.test.images))
    assert result.per_image["predicted"].tolist() == predicted.tolist()
    assert main_metric(result.per_image) == pytest.approx(expected, rel=1e-12)


def test_run__choice_equals_leave_one_out_of_scikit_learn() -> None:
    data = overlapping(50)
    grid: dict[str, Any] = {"k": [1, 15, 49], "temperature": [0.05, 1.0]}
    result = KNN(**grid).run(Flat(), data, eval_seed=0, device=CPU)
    known = features(data.train.images)
    scores = {
        (k, t): cross_val_score(scikit_learn(k, t), known, data.train.labels, cv=LeaveOneOut())
        for k in grid["k"]
        for t in grid["temperature"]
    }
    best = max(scores, key=lambda pair: scores[pair].mean())
    assert len({s.mean() for s in scores.values()}) > 2  # there was something to choose
    assert result.details["chosen"] == {"k": best[0], "temperature": best[1]}
    assert result.details["leave_one_out"] == [
        {"k": k, "temperature": t, "accuracy": pytest.approx(100 * s.mean())}
        for (k, t), s in scores.items()
    ]
    edge = f"temperature={best[1]:g} is the "
    assert edge in result.details["warning"]
    alone = KNN(k=best[0], temperature=best[1]).run(Flat(), data, eval_seed=0, device=CPU)
    assert result.metrics == alone.metrics
    assert (result.per_image["predicted"] == alone.per_image["predicted"]).all()


def test_run__test_labels_choose_nothing() -> None:
    data = overlapping()
    assert data.test is not None
    assert data.test.labels is not None
    shuffled = Split(data.test.images, data.test.labels.flip(0))
    other = Dataset("toy", data.train, shuffled, data.class_names, MEAN, STD, "toy", "toy")
    task = KNN(k=[1, 5, 20, 79], temperature=[0.05, 0.5])
    first, second = (task.run(Flat(), d, eval_seed=0, device=CPU) for d in (data, other))
    assert first.details == second.details
    assert first.metrics != second.metrics


def test_run__choice_on_some_of_the_images_is_always_the_same() -> None:
    data = overlapping(200)
    task = KNN(k=[1, 20], temperature=[0.05, 0.5], choose_on=40)
    results = [task.run(Flat(), data, eval_seed=seed, device=CPU) for seed in (0, 1)]
    assert results[0] == results[1]
    for candidate in results[0].details["leave_one_out"]:
        hits = candidate["accuracy"] * 40 / 100
        assert hits == pytest.approx(round(hits))  # of 40 samples


def test_nearest__leaves_the_sample_itself_out() -> None:
    draws = torch.Generator().manual_seed(0)
    known = F.normalize(torch.randn(30, 5, generator=draws))
    own = torch.tensor([7, 3, 29])
    ((cosines, neighbours),) = nearest(known, known[own], 29, own)
    for i, row in zip(own.tolist(), neighbours, strict=True):
        assert sorted(row.tolist()) == [j for j in range(30) if j != i]
    torch.testing.assert_close(cosines, (known[own] @ known.T).gather(1, neighbours).double())
    assert (cosines.diff(dim=1) <= 0).all()


def test_run__votes_far_away_do_not_vanish() -> None:
    # At this temperature exp(cosine / temperature) of every neighbour is 0 or infinite.
    data = overlapping()
    result = KNN(k=1, temperature=1e-4).run(Flat(), data, eval_seed=0, device=CPU)
    assert result == KNN(k=1, temperature=1.0).run(Flat(), data, eval_seed=0, device=CPU)
    assert result == KNN(k=20, temperature=1e-4).run(Flat(), data, eval_seed=0, device=CPU)


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
    KNN(k=10).check(Flat(), overlapping(train=10))
    with pytest.raises(UserError, match="k=10 exceeds the 9 training images of 'toy' that"):
        KNN(k=[1, 10]).check(Flat(), overlapping(train=10))


def test_run__features_that_are_not_finite_are_an_error() -> None:
    class Broken(Flat):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) * math.nan

    with pytest.raises(FloatingPointError, match="not finite"):
        KNN().run(Broken(), overlapping(), eval_seed=0, device=CPU)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k=0 must be at least 1"),
        ({"k": [5, 0]}, "k=0 must be at least 1"),
        ({"k": []}, r"k=\[\] must be a whole number or a list of different whole numbers"),
        ({"k": [5, 5]}, r"knn: k=\[5, 5\] must be a whole number or a list of different"),
        ({"temperature": [math.nan]}, r"temperature=\[nan\] must be a number or a list of"),
        ({"temperature": 0.0}, r"temperature=0\.0 must be above 0"),
        ({"temperature": [0.1, -1.0]}, r"temperature=-1\.0 must be above 0"),
        ({"choose_on": 0}, "choose_on=0 must be at least 1"),
        ({"precision": "fp8"}, "precision=fp8 is not one of fp32, bf16"),
    ],
)
def test_knn__refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        KNN(**settings)


def test_protocol__states_every_number() -> None:
    assert "Vote of the 20 training samples" in KNN().protocol
    assert "leave-one-out" not in KNN().protocol
    protocol = KNN(k=[1, 5], temperature=[0.05, 0.1], choose_on=500).protocol
    for part in ("Vote of the (1 or 5) training", "exp(cosine / (0.05 or 0.1))", "on 500 training"):
        assert part in protocol
