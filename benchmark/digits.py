"""Handwritten digits (8 x 8 px, 16 grey levels) out of the scikit-learn wheel.

Plain, they are the transfer target `digits`; pasted on photographs they become `scenes`. All
arithmetic is on whole numbers, hence the same bytes on every machine.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from benchmark.data import channel_statistics, digests, fingerprint
from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError

CLASS_NAMES = tuple("0123456789")

_SIDE = 8
_LEVELS = 16
_TRAIN = 1200  # of 1,797


def samples(split: Literal["train", "test"]) -> tuple[Int[Tensor, "n 8 8"], Int[Tensor, "n"]]:
    """Ink from 0 to 16 and class of each digit; no digit is in both splits."""
    with gzip.open(wheel_file("data/digits.csv.gz"), "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, np.int64, delimiter=","))
    part = table[:_TRAIN] if split == "train" else table[_TRAIN:]
    return part[:, :-1].unflatten(1, (_SIDE, _SIDE)), part[:, -1]


def wheel_file(name: str) -> Path:
    """A file of the data sets in scikit-learn, whose import would take longer than all the rest.

    Raises:
        UserError: if it is not there.
    """
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or []:
        if (file := Path(folder) / "datasets" / name).is_file():
            return file
    raise UserError(
        f"scikit-learn's {name}, of which the embedded data sets are made, is not there; install a "
        "wheel of scikit-learn from PyPI"
    )


def cover(
    ink: Int[Tensor, "n 8 8"],
    size: Int[Tensor, "n"],
    top: Int[Tensor, "n"],
    left: Int[Tensor, "n"],
    image_size: int,
) -> Int[Tensor, "n image image"]:
    """Draw each digit ``size`` px large on an empty canvas; coverage runs from 0 to 255."""
    rows, columns = _weights(top, size, image_size), _weights(left, size, image_size)
    total = rows @ ink @ columns.mT
    full = (_LEVELS * (2 * size) ** 2)[:, None, None]
    return (total * 255 + full // 2) // full


def _weights(
    start: Int[Tensor, "n"], size: Int[Tensor, "n"], image_size: int
) -> Int[Tensor, "n image 8"]:
    """Weights of bilinear scaling from 8 px to ``size`` px, placed at ``start``.

    Position and weight are counted in units of 1 / (2 size) source pixels, in which the centre
    of every pixel is a whole number; a row inside the digit's box adds up to 2 size.
    """
    unit = (2 * size)[:, None]
    pixel = torch.arange(image_size) - start[:, None]
    centre = ((2 * pixel + 1) * _SIDE - size[:, None]).clamp(min=0).minimum((_SIDE - 1) * unit)
    distance = (centre[..., None] - unit[..., None] * torch.arange(_SIDE)).abs()
    inside = (pixel >= 0) & (pixel < size[:, None])
    return (unit[..., None] - distance).clamp(min=0) * inside[..., None]


def load(*, image_size: int = 32) -> Dataset:
    """Build the plain digits: white on black, filling the image.

    Args:
        image_size: side of the images in pixels.
    """
    if image_size < _SIDE:
        raise UserError(
            f"image_size={image_size} is too small for digits of {_SIDE} px; "
            f"ask for {_SIDE} or more."
        )
    train, test = (_split(name, image_size) for name in ("train", "test"))
    statistics = channel_statistics(train.images)
    identity = fingerprint("digits", CLASS_NAMES, digests(train), digests(test))
    train_identity = fingerprint("digits", CLASS_NAMES, digests(train))
    return Dataset("digits", train, test, CLASS_NAMES, *statistics, identity, train_identity)


def _split(name: Literal["train", "test"], image_size: int) -> Split:
    ink, labels = samples(name)
    corner = torch.zeros(len(ink), dtype=torch.long)
    grey = cover(ink, corner + image_size, corner, corner, image_size).to(torch.uint8)
    return Split(grey[:, None].repeat(1, 3, 1, 1), labels)
