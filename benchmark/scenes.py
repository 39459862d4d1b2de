"""The embedded data set: handwritten digits on photographs, with ground truth for every task.

Every pixel comes out of the scikit-learn wheel. An image holds one main digit, whose class is
the label, and smaller distractors below it, on a patch of a photograph with damped contrast.
A scene is a function of its split and its number alone: the seed of a run does not enter, and
a smaller data set is the beginning of a larger one. After the photographs are decoded all
arithmetic is on whole numbers, hence the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import PIL
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from benchmark.data import channel_statistics, digests, fingerprint
from benchmark.dataset import Dataset, Split
from benchmark.digits import CLASS_NAMES, cover, samples, wheel_file
from benchmark.errors import UserError
from benchmark.streams import Streams, permutation

SplitName = Literal["train", "test"]

# SHA-256 of the decoded pixels. A JPEG decoder is free to round as it likes, so another one may
# give another data set.
_PHOTOGRAPHS = {
    "china.jpg": "e701459344fd69797154c91add3bb5d70e5ed1a61d8bed889bab3a796104698d",
    "flower.jpg": "3202904ed246795bf616c66d7859cd7c6080eff736c6e38dc5cc62779742033f",
}
_TRAIN_WIDTH = 416  # columns of 640: the left 65% are for training
_SEED = 0  # of the data set itself
_CHUNK = 512  # scenes drawn at once, for memory

# Coverage (0 to 255) from which a pixel belongs to a digit, and the band around it that does not
# count in `pixel_labels`. Scaling blurs edges over several pixels: all of them would be too many.
_HALF = 128
_BORDER = (96, 160)


def load(
    *,
    image_size: int = 32,
    train_count: int = 2000,
    test_count: int = 1000,
    digit_size: Sequence[int] = (20, 25),
    distractors: Sequence[int] = (1, 3),
    distractor_size: Sequence[int] = (6, 8),
    brightness: Sequence[int] = (200, 255),
    background_contrast: int = 30,
    background_level: int = 80,
    max_crop: int = 3,
) -> Dataset:
    """Build the scenes; every range includes both of its ends.

    The classes of ``pixel_labels`` are 0 for the background and k + 1 for digit k; ``segments``
    counts the main digit as 1 and the distractors, which may be hidden below it, from 2.

    Args:
        image_size: side of the images in pixels.
        train_count: number of training scenes.
        test_count: number of test scenes, of other digits on other parts of the photographs.
        digit_size: smallest and largest side of the main digit in pixels.
        distractors: smallest and largest number of distractors.
        distractor_size: smallest and largest side of a distractor in pixels.
        brightness: smallest and largest value of each colour channel of a digit.
        background_contrast: contrast that the photographs keep, in percent.
        background_level: value that mid-grey of the photographs becomes.
        max_crop: largest side of a background patch before scaling, in units of ``image_size``.
    """
    _check("image_size", image_size, 8, 128)
    _check("train_count", train_count, 2, 10**7)
    _check("test_count", test_count, 1, 10**7)
    _check_range("digit_size", digit_size, 1, image_size)
    _check_range("distractors", distractors, 0, 200)
    _check_range("distractor_size", distractor_size, 1, image_size)
    _check_range("brightness", brightness, 0, 255)
    _check("background_contrast", background_contrast, 0, 100)
    _check("background_level", background_level, 0, 255)
    photographs = _photographs()
    narrow = min(photographs.shape[1], photographs.shape[2] - _TRAIN_WIDTH)
    _check("max_crop", max_crop, 1, narrow // image_size)

    def build(split: SplitName, count: int) -> Split:
        ink, classes = samples(split)
        sums = _summed(photographs, split)
        order = permutation(_SEED, f"scenes/{split}/digit", 0, len(ink))
        # Every digit is a main digit equally often, up to one.
        main = order[torch.arange(count) % len(ink)]
        chunks = []
        for index in torch.arange(count).split(_CHUNK):
            draws = _Draws(split, index)
            patches = _patches(draws, sums, image_size, max_crop * image_size)
            damped = background_level + (patches - 128) * background_contrast // 100
            others = draws("other digit", 1, len(ink) - 1, distractors[1])
            shown = torch.cat([main[index, None], (main[index, None] + others) % len(ink)], 1)
            coverage = _place(draws, ink[shown], image_size, digit_size, distractor_size)
            present = torch.arange(shown.shape[1]) <= draws("distractors", *distractors)[:, None]
            coverage *= present[..., None, None]
            colours = draws("colour", *brightness, shown.shape[1], 3)
            chunks.append(_paint(damped.clamp(0, 255), coverage, colours, classes[shown]))
        images, pixel_labels, segments = (torch.cat(part) for part in zip(*chunks, strict=True))
        return Split(images, classes[main], pixel_labels, segments)

    train, test = build("train", train_count), build("test", test_count)
    statistics = channel_statistics(train.images)
    identity = fingerprint("scenes", CLASS_NAMES, digests(train), digests(test))
    train_identity = fingerprint("scenes", CLASS_NAMES, digests(train))
    return Dataset("scenes", train, test, CLASS_NAMES, *statistics, identity, train_identity)


class _Draws:
    """Whole numbers that depend on split, number of the scene and purpose alone."""

    def __init__(self, split: SplitName, index: Int[Tensor, "n"]) -> None:
        self.split = split
        self.streams = Streams(_SEED, 0, index)

    def __call__(
        self, purpose: str, low: int, high: int | Int[Tensor, "n ..."], *shape: int
    ) -> Int[Tensor, "n ..."]:
        share = self.streams.uniform(f"scenes/{self.split}/{purpose}", *shape)
        # Shares have 24 bits and the product fits the 53 of a double: the floor is exact.
        return low + (share.double() * (high - low + 1)).long()


def _photographs() -> UInt8[Tensor, "2 height width 3"]:
    photographs = []
    for name, expected in _PHOTOGRAPHS.items():
        pixels = np.array(Image.open(wheel_file(f"images/{name}")))
        if hashlib.sha256(pixels.tobytes()).hexdigest() != expected:
            raise UserError(
                f"Pillow {PIL.__version__} decodes scikit-learn's {name} to other pixels than "
                "those of the data set `scenes` because its JPEG decoder differs; install "
                "a wheel of Pillow from PyPI (10.0 to 13.0 give these pixels)."
            )
        photographs.append(torch.from_numpy(pixels))
    return torch.stack(photographs)


def _summed(
    photographs: UInt8[Tensor, "2 height width 3"], split: SplitName
) -> Int[Tensor, "2 rows columns 3"]:
    """Summed-area table of the split's part of the photographs."""
    part = slice(None, _TRAIN_WIDTH) if split == "train" else slice(_TRAIN_WIDTH, None)
    sums = photographs[:, :, part].long().cumsum(1).cumsum(2)
    return torch.nn.functional.pad(sums, (0, 0, 1, 0, 1, 0))


def _patches(
    draws: _Draws, sums: Int[Tensor, "2 rows columns 3"], image_size: int, max_side: int
) -> Int[Tensor, "n 3 image image"]:
    """Random square patches, scaled down by averaging over boxes of whole pixels."""
    side = draws("patch side", image_size, max_side)[:, None]
    top = draws("patch top", 0, sums.shape[1] - 1 - side, 1)
    left = draws("patch left", 0, sums.shape[2] - 1 - side, 1)
    photograph = draws("photograph", 0, len(sums) - 1)[:, None, None]
    edges = torch.arange(image_size + 1) * side // image_size
    corners = sums[photograph, (top + edges)[:, :, None], (left + edges)[:, None, :]]
    totals = corners.diff(dim=1).diff(dim=2)
    lengths = edges.diff(dim=1)
    areas = (lengths[:, :, None] * lengths[:, None, :])[..., None]
    return ((totals + areas // 2) // areas).permute(0, 3, 1, 2)


def _place(
    draws: _Draws,
    ink: Int[Tensor, "n k 8 8"],
    image_size: int,
    main_size: Sequence[int],
    other_size: Sequence[int],
) -> Int[Tensor, "n k image image"]:
    """Coverage of each digit in its place, anywhere in the image; digit 0 is the main one."""
    count = ink.shape[1]
    main = draws("main size", *main_size, 1)
    size = torch.cat([main, draws("other size", *other_size, count - 1)], 1)
    top = draws("top", 0, image_size - size, count)
    left = draws("left", 0, image_size - size, count)
    flat = (ink.flatten(0, 1), size.flatten(), top.flatten(), left.flatten())
    coverage: Tensor = cover(*flat, image_size).unflatten(0, size.shape)
    return coverage


def _paint(
    images: Int[Tensor, "n 3 h w"],
    coverage: Int[Tensor, "n k h w"],
    colours: Int[Tensor, "n k 3"],
    classes: Int[Tensor, "n k"],
) -> tuple[UInt8[Tensor, "n 3 h w"], UInt8[Tensor, "n h w"], UInt8[Tensor, "n h w"]]:
    """Paste the digits, the last first and so the main one on top; returns the ground truth too.

    Where ``pixel_labels`` counts, it and ``segments`` agree on which digit is seen.
    """
    pixel_labels = torch.zeros_like(images[:, 0])
    segments = torch.zeros_like(pixel_labels)
    for k in reversed(range(coverage.shape[1])):
        covered = coverage[:, k]
        light = covered[:, None] * colours[:, k, :, None, None]
        images = (images * (255 - covered[:, None]) + light + 127) // 255
        pixel_labels[covered >= _BORDER[0]] = 255
        pixel_labels = torch.where(
            covered >= _BORDER[1], classes[:, k, None, None] + 1, pixel_labels
        )
        segments[covered >= _HALF] = k + 1
    return images.to(torch.uint8), pixel_labels.to(torch.uint8), segments.to(torch.uint8)


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError(f"{name}={value} is out of range; choose a number from {low} to {high}.")


def _check_range(name: str, value: Sequence[int], low: int, high: int) -> None:
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise UserError(
            f"{name}={list(value)} is not a range; give its two ends, smaller first, "
            f"each from {low} to {high}."
        )
