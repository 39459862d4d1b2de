"""A data set, in memory or memory-mapped, with whatever ground truth it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Int, Int16, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images of one split with whatever ground truth the data set has.

    The arrays may be memory-mapped files larger than memory: read slices, never whole arrays.

    Attributes:
        images: pixels, one size for all.
        labels: class of each image; -1 where it is unknown, in a split for pretraining alone.
        pixel_labels: class of each pixel, 255 where it does not count.
        segments: object of each pixel, 0 for the background.
        superpixels: of each pixel, for a method that asked for them.
    """

    images: UInt8[Tensor, "n 3 h w"]
    labels: Int[Tensor, "n"] | None = None
    pixel_labels: UInt8[Tensor, "n h w"] | None = None
    segments: UInt8[Tensor, "n h w"] | None = None
    superpixels: Int16[Tensor, "n h w"] | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A data set, in memory or memory-mapped.

    Attributes:
        name: as the user calls it; part of the run folder.
        train: split for training heads, and for pretraining unless ``pretrain`` is given.
        test: split for scores only; None if there is nothing to score on.
        class_names: class k is ``class_names[k]``; empty without labels.
        mean: mean colour in [0, 1].
        std: standard deviation of colour in [0, 1].
        fingerprint: SHA-256 of every pixel and label, and of the view.
        train_fingerprint: the same of the split for pretraining alone, all that an encoder
            depends on.
        pretrain: split for pretraining where that is more than ``train``, as with STL-10.
        pixel_class_names: class k of a pixel is ``pixel_class_names[k]``; empty if it has no name.
        view_size: side of the images that encoders see, in pixels; None for that of the arrays.
        view: what an un-augmented image becomes if ``view_size`` differs from the arrays' side:
            "whole" is resized, of "centre" the central square is cut out.
    """

    name: str
    train: Split
    test: Split | None
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str
    train_fingerprint: str
    pretrain: Split | None = None
    pixel_class_names: tuple[str, ...] = ()
    view_size: int | None = None
    view: Literal["whole", "centre"] = "whole"

    @property
    def image_size(self) -> int:
        """Side of the square images that encoders see, in pixels."""
        return self.view_size or self.train.images.shape[-1]

    @property
    def pretraining(self) -> Split:
        """The split to pretrain on."""
        return self.train if self.pretrain is None else self.pretrain
