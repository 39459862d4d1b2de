from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError
from tasks import clustering
from tasks.clustering import Clustering, agreement

CPU = torch.device("cpu")
MakeData = Callable[..., Dataset]
MakeNet = Callable[..., nn.Module]


def overlap_of_pairs(a: list[int], b: list[int]) -> tuple[int, int, int, int]:
    """Pairs of samples: together in both, in a, in b, and all."""
    pairs = list(combinations(range(len(a)), 2))
    in_a = [a[i] == a[j] for i, j in pairs]
    in_b = [b[i] == b[j] for i, j in pairs]
    both = sum(x and y for x, y in zip(in_a, in_b, strict=True))
    return both, sum(in_a), sum(in_b), len(pairs)


def slow_scores(a: list[int], b: list[int]) -> dict[str, float]:
    """By Strehl and Ghosh 2002, Hubert and Arabie 1985, and Fowlkes and Mallows 1983."""
    n = len(a)
    of_a, of_b, joint = Counter(a), Counter(b), Counter(zip(a, b, strict=True))
    information = sum(c / n * math.log(n * c / (of_a[x] * of_b[y])) for (x, y), c in joint.items())
    entropies = [-sum(c / n * math.log(c / n) for c in of.values()) for of in (of_a, of_b)]
    both, first, second, pairs = overlap_of_pairs(a, b)
    chance = first * second / pairs
    return {
        "nmi": information / (sum(entropies) / 2),
        "ari": (both - chance) / ((first + second) / 2 - chance),
        "fmi": both / math.sqrt(first * second),
    }


def test_scores__equal_their_definitions() -> None:
    draws = np.random.default_rng(0)
    a = draws.integers(0, 4, 60)
    b = np.where(draws.random(60) < 0.6, a, draws.integers(0, 3, 60))
    expected = slow_scores(a.tolist(), b.tolist())
    assert agreement(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("fit_on", ["train", "test"])
def test_run__separate_classes_are_found(fit_on: Any, coloured: MakeData, flat: MakeNet) -> None:
    result = Clustering(fit_on=fit_on).run(flat(), coloured(), eval_seed=0, device=CPU)
    assert result.metrics == {name: pytest.approx(100) for name in ("nmi", "ari", "fmi")}
    assert next(iter(result.metrics)) == "nmi"
    assert result.details == {"clusters": 3}
    assert result.per_image == {}


def test_run__labels_that_mean_nothing(chance: Dataset, flat: MakeNet) -> None:
    result = Clustering().run(flat(), chance, eval_seed=0, device=CPU)
    assert abs(result.metrics["ari"]) < 3
    assert result.metrics["nmi"] < 5


@pytest.mark.parametrize("fit_on", ["train", "test"])
def test_run__centres_come_from_the_split_that_is_named(
    fit_on: Any, coloured: MakeData, flat: MakeNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    class Recorded(KMeans):
        def fit(self, features: np.ndarray) -> Any:
            fitted.append(features)
            return super().fit(features)

    monkeypatch.setattr("sklearn.cluster.KMeans", Recorded)
    Clustering(fit_on=fit_on).run(flat(), coloured(31, 17), eval_seed=0, device=CPU)
    assert [len(features) for features in fitted] == [31 if fit_on == "train" else 17]


def test_run__as_many_clusters_as_asked_for(coloured: MakeData, flat: MakeNet) -> None:
    found = {}
    for extra in (-1, 0, 4):
        task = Clustering(extra_clusters=extra)
        result = task.run(flat(), coloured(), eval_seed=0, device=CPU)
        found[extra] = result.metrics["nmi"]
        assert result.details == {"clusters": 3 + extra}
    assert found[0] > max(found[-1], found[4]) + 3


def test_run__eval_seed_decides_and_labels_do_not(
    chance: Dataset, flat: MakeNet, relabelled: Callable[[Dataset], Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clusters = []

    def keep(classes: np.ndarray, found: np.ndarray) -> dict[str, float]:
        clusters.append(found.tolist())
        return {}

    monkeypatch.setattr(clustering, "agreement", keep)
    task = Clustering(starts=1, extra_clusters=5)
    for seed, data in ((0, chance), (0, relabelled(chance)), (1, chance)):
        np.random.seed(len(clusters))  # numpy's own generator must not matter
        task.run(flat(), data, eval_seed=seed, device=CPU)
    assert clusters[0] == clusters[1] != clusters[2]


def test_run__encoder_must_not_change(coloured: MakeData, drifting: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match="the encoder has changed"):
        Clustering().run(drifting(1), coloured(), eval_seed=0, device=CPU)


def test_check__more_clusters_than_images(coloured: MakeData, flat: MakeNet) -> None:
    with pytest.raises(UserError, match="extra_clusters=8 makes 11 clusters of the 10 train"):
        Clustering(extra_clusters=8).check(flat(), coloured(10, 30))
    with pytest.raises(UserError, match="makes 11 clusters of the 9 test images of 'toy'"):
        Clustering(extra_clusters=8, fit_on="test").check(flat(), coloured(30, 9))
    with pytest.raises(UserError, match="extra_clusters=-3 makes 0 clusters"):
        Clustering(extra_clusters=-3).check(flat(), coloured())


def test_check__data_without_labels(
    coloured: MakeData, dataset: Callable[..., Dataset], flat: MakeNet
) -> None:
    data = coloured()
    with pytest.raises(UserError, match="no labels in its train split"):
        Clustering().check(flat(), dataset(Split(data.train.images), data.test))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"starts": 0}, "starts=0 must be at least 1"),
        ({"max_iterations": 0}, "max_iterations=0 must be at least 1"),
        ({"precision": "fp8"}, "precision=fp8 is not one of fp32, bf16"),
    ],
)
def test_clustering__refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Clustering(**settings)


def test_protocol__states_every_number() -> None:
    protocol = Clustering().protocol
    for part in ("train images, test images", "as many clusters as classes", "best of 10 starts"):
        assert part in protocol
    protocol = Clustering(fit_on="test", extra_clusters=-1, max_iterations=7).protocol
    for part in ("un-augmented test images: 1 clusters fewer than classes", "at most 7 iterations"):
        assert part in protocol
