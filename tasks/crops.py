"""What a classifier sees of the train split: images as they are, or random crops of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from benchmark.contracts import Images
from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.image_ops import crop_boxes, crop_resize, flip
from benchmark.streams import Streams
from tasks.features import Inputs

_CANDIDATES = 10  # boxes drawn, of which the first that fits is taken, as in torchvision
_RATIO = (3 / 4, 4 / 3)  # smallest and largest width / height of a box


@dataclass(frozen=True)
class Crops:
    """Random crops, resized with bilinear interpolation, and horizontal flips.

    Either torchvision's random resized crops, or crops at the size of the image from the image
    padded by its own reflection, as the ADIOS code has them for CIFAR
    (github.com/YugeTen/adios, src/utils/classification_dataloader.py). A crop is taken from the
    pixels that are stored, whatever the data set's view of a whole image is, and has the side of
    that view.

    Attributes:
        purpose: names the task in messages.
        augment: whether there are any; if not, images are seen as for scores.
        min_scale: smallest area of a random resized crop, as a share of the image.
        flip_prob: chance of a flip.
        padding: pixels on each side, for crops from the padded image; None for random resized
            crops.

    Raises:
        UserError: for values out of range.
    """

    purpose: str
    augment: bool
    min_scale: float
    flip_prob: float
    padding: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= 1:
            raise UserError(
                f"{self.purpose}: min_scale={self.min_scale} must be above 0 and at most 1"
            )
        if not 0 <= self.flip_prob <= 1:
            raise UserError(f"{self.purpose}: flip_prob={self.flip_prob} must lie between 0 and 1")
        if self.padding is not None and self.padding < 1:
            raise UserError(f"{self.purpose}: padding={self.padding} must be at least 1, or null")

    def __str__(self) -> str:
        if not self.augment:
            return "un-augmented images"
        if self.padding is None:
            crops = f"resized crops (of {self.min_scale:g} of the area or more, bilinear)"
        else:
            crops = f"crops of the image padded by {self.padding} reflected pixels"
        return f"random {crops} and flips (probability {self.flip_prob:g})"

    def check(self, data: Dataset) -> None:
        """Refuse images that are too small to be padded by their reflection.

        Raises:
            UserError: naming their size.
        """
        side = min(data.train.images.shape[2:])
        if self.augment and self.padding is not None and self.padding >= side:
            raise UserError(
                f"{self.purpose}: padding={self.padding} must be below the {side} pixels of the "
                f"images of {data.name!r}"
            )

    def __call__(
        self,
        images: UInt8[Tensor, "b 3 H W"],
        inputs: Inputs,
        size: int,
        index: Int[Tensor, "b"],
        *,
        eval_seed: int,
        epoch: int,
    ) -> Images:
        """What the encoder sees of a batch, on its device.

        Args:
            images: as they are stored.
            inputs: of the data set.
            size: side of the images that encoders see, in pixels.
            index: sample ids, which decide crop and flip with seed and epoch.
            eval_seed: of the task.
            epoch: from 0.
        """
        if not self.augment:
            return inputs.plain(images)
        streams = Streams(eval_seed, epoch, index.to(inputs.device))
        images = images.to(inputs.device)
        height, width = images.shape[2:]
        if self.padding is None:
            drawn = streams.uniform("crops/box", _CANDIDATES + 1, 2)
            boxes = crop_boxes(drawn[:, :-1], drawn[:, -1], (height, width), self.min_scale, _RATIO)
        else:
            images = _reflected(images, self.padding)
            corner = (streams.uniform("crops/corner", 2) * (2 * self.padding + 1)).long()
            whole = torch.tensor([height, width], device=corner.device).expand_as(corner)
            boxes = torch.cat([corner, whole], dim=1)
        pixels = crop_resize(images, boxes, size, "bilinear")
        return inputs(flip(pixels, streams.uniform("crops/flip") < self.flip_prob))


def _reflected(
    images: UInt8[Tensor, "b 3 H W"], padding: int
) -> UInt8[Tensor, "b 3 {images.shape[2]+2*padding} {images.shape[3]+2*padding}"]:
    """Images with their own reflection around them; the border itself is not repeated."""
    rows, columns = (
        torch.cat(
            [
                torch.arange(padding, 0, -1),
                torch.arange(side),
                torch.arange(side - 2, side - 2 - padding, -1),
            ]
        ).to(images.device)
        for side in images.shape[2:]
    )
    return images[:, :, rows][:, :, :, columns]
