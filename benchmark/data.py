"""What every data set says about itself: channel statistics and a fingerprint, both exact."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields

import torch
from jaxtyping import UInt8
from torch import Tensor

from benchmark.contracts import Split

Colour = tuple[float, float, float]

_CHUNK = 1024  # images counted at once, so that a memory-mapped data set stays on disk


def channel_statistics(images: UInt8[Tensor, "n 3 h w"]) -> tuple[Colour, Colour]:
    """Mean and standard deviation of each channel in [0, 1], rounded to four decimals.

    Both come from a count of the 256 values in whole numbers, so no order of summation, number
    of threads or kind of machine changes them.
    """
    counts = [[0] * 256 for _ in range(3)]
    for chunk in images.split(_CHUNK):
        for channel, so_far in enumerate(counts):
            found = torch.bincount(chunk[:, channel].reshape(-1), minlength=256).tolist()
            counts[channel] = [a + b for a, b in zip(so_far, found, strict=True)]
    red, green, blue = (_mean_and_std(count) for count in counts)
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def _mean_and_std(counts: list[int]) -> tuple[float, float]:
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    std = math.sqrt(total * second - first * first) / (255 * total)
    # A channel of one constant value would otherwise have images divided by zero.
    return round(first / (255 * total), 4), round(max(std, 1 / 255), 4)


def digest(tensor: Tensor) -> str:
    """SHA-256 of type, shape and bytes."""
    array = tensor.contiguous().numpy()
    state = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    state.update(array.data)
    return state.hexdigest()


def digests(split: Split) -> dict[str, str]:
    """The digest of each array that the split has."""
    arrays = ((field.name, getattr(split, field.name)) for field in fields(split))
    return {name: digest(tensor) for name, tensor in arrays if tensor is not None}


def fingerprint(
    name: str,
    class_names: tuple[str, ...],
    train: dict[str, str],
    test: dict[str, str] | None = None,
) -> str:
    """SHA-256 of a whole data set from the `digests` of its splits."""
    return hashlib.sha256(json.dumps([name, class_names, train, test]).encode()).hexdigest()
