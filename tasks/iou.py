"""Intersection over union of pixels, counted over a whole set of images."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tasks.scale_crop import IGNORE

_CHUNK = 64  # images whose truth is read at once


def num_classes_of(truth: UInt8[Tensor, "n h w"]) -> int:
    """One more than the highest class of a pixel that counts."""
    highest = (int(torch.where(part == IGNORE, 0, part).max()) for part in truth.split(_CHUNK))
    return 1 + max(highest)


def confusion_matrices(
    truth: UInt8[Tensor, "b h w"], predicted: Int[Tensor, "b h w"], num_classes: int
) -> Int[Tensor, "b {num_classes} {num_classes}"]:
    """Number of each image's pixels by true class (row) and predicted class (column).

    Ignored ones are left out.
    """
    shape = (len(truth), num_classes, num_classes)
    image = torch.arange(len(truth), device=truth.device)[:, None, None]
    # Ignored pixels go to one more cell, which is dropped: a selection would wait for the device.
    cells = (image * num_classes + truth) * num_classes + predicted
    cells = torch.where(truth == IGNORE, math.prod(shape), cells).flatten()
    return torch.bincount(cells, minlength=math.prod(shape) + 1)[:-1].view(shape)


def overlaps(
    confusion: Int[Tensor, "*b c c"],
) -> tuple[Int[Tensor, "*b c"], Int[Tensor, "*b c"]]:
    """Number of pixels of each class in both of truth and prediction, and in either of them."""
    intersection = confusion.diagonal(dim1=-2, dim2=-1)
    return intersection, confusion.sum(-2) + confusion.sum(-1) - intersection


def intersection_over_union(confusion: Int[Tensor, "c c"]) -> Float[Tensor, "c"]:
    """Share in [0, 1] for each class; NaN for one in neither truth nor prediction."""
    intersection, union = overlaps(confusion)
    return intersection.double() / union


def mean_iou(confusion: Int[Tensor, "c c"]) -> float:
    """Mean share in [0, 1] over the classes in truth or prediction."""
    return float(intersection_over_union(confusion).nanmean())
