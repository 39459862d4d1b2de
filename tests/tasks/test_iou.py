from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from tasks.iou import (
    confusion_matrices,
    intersection_over_union,
    mean_iou,
    num_classes_of,
    overlaps,
)


def random_maps(num_classes: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(num_classes)
    truth = torch.randint(0, num_classes, (5, 6, 7), generator=draws).to(torch.uint8)
    predicted = torch.randint(0, num_classes, (5, 6, 7), generator=draws)
    truth[torch.rand(truth.shape, generator=draws) < 0.3] = 255
    return truth, predicted


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_iou__equals_a_slow_loop(num_classes: int) -> None:
    truth, predicted = random_maps(num_classes)
    pairs = list(zip(truth.flatten().tolist(), predicted.flatten().tolist(), strict=True))
    table = [[0] * num_classes for _ in range(num_classes)]
    for t, p in pairs:
        if t != 255:
            table[t][p] += 1
    confusion = confusion_matrices(truth, predicted, num_classes).sum(0)
    assert confusion.tolist() == table
    for k, iou in enumerate(intersection_over_union(confusion).tolist()):
        both = either = 0
        for t, p in pairs:
            both += t != 255 and t == k and p == k
            either += t != 255 and (t == k or p == k)
        assert iou == pytest.approx(both / either)


@pytest.mark.parametrize("num_classes", [2, 5, 21])
def test_iou__equals_scikit_learn(num_classes: int) -> None:
    truth, predicted = random_maps(num_classes)
    counted = truth != 255
    true, guessed = truth[counted].numpy(), predicted[counted].numpy()
    confusion = confusion_matrices(truth, predicted, num_classes).sum(0)
    labels = np.arange(num_classes)
    assert (confusion.numpy() == metrics.confusion_matrix(true, guessed, labels=labels)).all()
    occurring = np.union1d(true, guessed)
    scores = metrics.jaccard_score(true, guessed, labels=occurring, average=None)
    assert intersection_over_union(confusion)[occurring].numpy() == pytest.approx(scores)
    assert mean_iou(confusion) == pytest.approx(scores.mean())


def test_overlaps__of_each_image_are_those_of_it_alone() -> None:
    truth, predicted = random_maps(4)
    truth[2] = 255
    both, either = overlaps(confusion_matrices(truth, predicted, 4))
    for image, (t, p) in enumerate(zip(truth, predicted, strict=True)):
        for k in range(4):
            in_truth, in_prediction = (t == k), (p == k) & (t != 255)
            assert both[image, k] == (in_truth & in_prediction).sum()
            assert either[image, k] == (in_truth | in_prediction).sum()
    assert not either[2].any()


def test_iou__whole_set_is_not_the_mean_over_images() -> None:
    truth = torch.tensor([[[1, 1, 1, 0]], [[0, 0, 0, 0]]], dtype=torch.uint8)
    predicted = torch.tensor([[[1, 1, 1, 1]], [[0, 0, 0, 1]]])
    parts = confusion_matrices(truth, predicted, 2)
    assert mean_iou(parts.sum(0)) == pytest.approx((3 / 5 + 3 / 5) / 2)
    assert sum(map(mean_iou, parts)) / 2 == pytest.approx((3 / 8 + 3 / 8) / 2)


def test_iou__absent_classes_are_nan_and_predicted_ones_zero() -> None:
    truth = torch.tensor([[[0, 0, 255]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 1, 2]]])
    (confusion,) = confusion_matrices(truth, predicted, 3)
    iou = intersection_over_union(confusion).tolist()
    assert iou[:2] == [0.5, 0.0]
    assert math.isnan(iou[2])
    assert mean_iou(confusion) == 0.25


def test_num_classes_of__ignored_pixels_are_no_class() -> None:
    truth = torch.full((130, 2, 2), 255, dtype=torch.uint8)
    assert num_classes_of(truth) == 1
    truth[129, 1, 0] = 6
    assert num_classes_of(truth) == 7
