"""Intersection over union of pixels, counted over a whole set of images."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tasks.scale_crop import IGNORE

_CHUNK = 64  # images whose truth is read at once


def num_classes_of(truth: UInt8[Tensor, "n h w"]) -> int:
    """One more than the highest class of a pixel that counts."""
    highest = (int(torch.where(part == IGNORE, 0, part).max()) for part in truth.split(_CHUNK))
    return 1 + max(highest)


def confusion_matrix(
    truth: UInt8[Tensor, "b h w"], predicted: Int[Tensor, "b h w"], num_classes: int
) -> Int[Tensor, "c c"]:
    """Number of pixels by true class (row) and predicted class (column), ignored ones left out."""
    # Ignored pixels go to one more cell, which is dropped: a selection would wait for the device.
    cells = truth.long() * num_classes + predicted
    cells = torch.where(truth == IGNORE, num_classes**2, cells).flatten()
    counts = torch.bincount(cells, minlength=num_classes**2 + 1)
    return counts[:-1].view(num_classes, num_classes)


def intersection_over_union(confusion: Int[Tensor, "c c"]) -> Float[Tensor, "c"]:
    """Share in [0, 1] for each class; NaN for one in neither truth nor prediction."""
    intersection = confusion.diagonal().double()
    return intersection / (confusion.sum(0) + confusion.sum(1) - intersection)


def mean_iou(confusion: Int[Tensor, "c c"]) -> float:
    """Mean share in [0, 1] over the classes in truth or prediction."""
    return float(intersection_over_union(confusion).nanmean())
