from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torch import nn

from tasks import accuracy
from tasks.accuracy import accuracies, accuracies_per_image


@pytest.mark.parametrize("num_classes", [3, 9, 10, 40])
def test_accuracies__equal_scikit_learn(num_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "EVAL_BATCH", 2)  # several parts
    draws = torch.Generator().manual_seed(num_classes)
    labels = torch.randint(0, num_classes, (500,), generator=draws)
    scores = torch.randn(500, num_classes, generator=draws)
    scores[torch.arange(500), labels] += 1
    found = accuracies(nn.Identity(), scores, labels)
    ks = {"accuracy": 1} | ({"accuracy_top5": 5} if num_classes >= 10 else {})
    assert list(found) == list(ks)
    for name, k in ks.items():
        known = range(num_classes)
        expected = 100 * top_k_accuracy_score(labels, scores, k=k, labels=known)
        if num_classes > 2:
            assert found[name] == pytest.approx(expected)


def test_accuracies_per_image__classes_of_each_sample() -> None:
    scores = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    metrics, per_image = accuracies_per_image(nn.Identity(), scores, torch.tensor([1, 2]))
    assert metrics == accuracies(nn.Identity(), scores, torch.tensor([1, 2])) == {"accuracy": 50.0}
    assert {name: array.tolist() for name, array in per_image.items()} == {
        "predicted": [1, 0],
        "truth": [1, 2],
    }
    assert {array.dtype for array in per_image.values()} == {np.dtype("int32")}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_accuracies__refuse_scores_that_are_not_finite(value: float) -> None:
    scores = torch.zeros(4, 3)
    scores[2, 1] = value
    with pytest.raises(FloatingPointError, match="scores that are not finite; lower the lr"):
        accuracies(nn.Identity(), scores, torch.zeros(4, dtype=torch.long))
