"""What every data set says about itself: channel statistics and a fingerprint, both exact."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from jaxtyping import UInt8
from torch import Tensor

from benchmark.dataset import Split
from benchmark.packs.arrays import digest_of_blocks

Colour = tuple[float, float, float]
# Of each array of a split; a list of them where several stored splits are joined.
Digests = Mapping[str, str | list[str]]

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
    return counted_statistics(counts)


def counted_statistics(counts: Sequence[Sequence[int]]) -> tuple[Colour, Colour]:
    """The same from how often each of the 256 values occurs in each channel."""
    red, green, blue = (_mean_and_std(count) for count in counts)
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def _mean_and_std(counts: Sequence[int]) -> tuple[float, float]:
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    std = math.sqrt(total * second - first * first) / (255 * total)
    # A channel of one constant value would otherwise have images divided by zero.
    return round(first / (255 * total), 4), round(max(std, 1 / 255), 4)


def digest(tensor: Tensor) -> str:
    """SHA-256 of type, shape and bytes."""
    array = tensor.contiguous().numpy()
    return digest_of_blocks(array.dtype, array.shape, [array])


def digests(split: Split) -> dict[str, str]:
    """The digest of each array that the split has."""
    arrays = ((field.name, getattr(split, field.name)) for field in fields(split))
    return {name: digest(tensor) for name, tensor in arrays if tensor is not None}


def fingerprint(
    name: str,
    class_names: tuple[str, ...],
    train: Digests,
    test: Digests | None = None,
    **more: object,
) -> str:
    """SHA-256 of a whole data set from the `digests` of its splits and whatever else makes it."""
    parts = [name, class_names, train, test, *([more] if more else [])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
