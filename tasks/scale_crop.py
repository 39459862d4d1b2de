"""Augmentation of images together with the truth of their pixels: flip, random scale, crop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from benchmark.contracts import Images
from benchmark.errors import UserError
from benchmark.streams import Streams

IGNORE = 255  # label of pixels that do not count


@dataclass(frozen=True)
class ScaleCrop:
    """Flips, scales and crops each image and its truth alike; what a sample draws is its own.

    The side of an image is multiplied by a factor drawn evenly between ``min_scale`` and
    ``max_scale``, then a square is cut out anywhere; what is smaller than the square lies anywhere
    in it, on the data set's mean colour and pixels that do not count. Images are sampled
    bilinearly, without antialiasing, the truth at the nearest pixel.

    Attributes:
        flip_prob: chance of a horizontal flip.
        crop_size: side of the square in pixels; None for the height and width of the images.
        min_scale, max_scale: ends of the range of factors; 1 and 1 leave the size alone.

    Raises:
        UserError: for values out of range.
    """

    flip_prob: float
    crop_size: int | None = None
    min_scale: float = 1.0
    max_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.flip_prob <= 1:
            raise UserError(f"segmentation: flip_prob={self.flip_prob} must lie between 0 and 1")
        if self.crop_size is not None and self.crop_size < 1:
            raise UserError(f"segmentation: crop_size={self.crop_size} must be at least 1, or null")
        if not 0 < self.min_scale <= self.max_scale:
            raise UserError(
                f"segmentation: min_scale={self.min_scale:g} and max_scale={self.max_scale:g} must "
                "be above 0, the smaller one first"
            )

    def __str__(self) -> str:
        parts = [f"flipped with probability {self.flip_prob:g}"]
        if self._scales:
            parts.append(f"scaled by a factor from {self.min_scale:g} to {self.max_scale:g}")
        if self._scales or self.crop_size is not None:
            side = "their own size" if self.crop_size is None else f"{self.crop_size} pixels"
            parts.append(f"cropped to {side}, padded with ignored pixels")
        return ", ".join(parts)

    @property
    def _scales(self) -> bool:
        return (self.min_scale, self.max_scale) != (1, 1)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result for images of this size."""
        return (height, width) if self.crop_size is None else (self.crop_size, self.crop_size)

    @torch.no_grad()
    def __call__(
        self, images: Images, truth: UInt8[Tensor, "b h w"], streams: Streams
    ) -> tuple[Float[Tensor, "b 3 H W"], UInt8[Tensor, "b H W"]]:
        """Augment normalised images, in which 0 is the mean colour, and their truth."""
        flip = (streams.uniform("segmentation/flip") < self.flip_prob)[:, None, None]
        truth = torch.where(flip, truth.flip(-1), truth)
        images = torch.where(flip[:, None], images.flip(-1), images)
        if not self._scales and self.crop_size is None:
            return images, truth
        grid = self._grid(truth.shape[1], truth.shape[2], streams)
        images = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
        # Outside of the image grid_sample gives 0, so what does not count has to be 0 there.
        shifted = truth[:, None].float() - IGNORE
        sampled = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)
        return images, (sampled[:, 0] + IGNORE).to(torch.uint8)

    def _grid(self, height: int, width: int, streams: Streams) -> Float[Tensor, "b H W 2"]:
        """Where each pixel of the crop lies in its image, as x and y from -1 to 1."""
        factor = self.min_scale + (self.max_scale - self.min_scale) * streams.uniform(
            "segmentation/scale"
        )
        place = streams.uniform("segmentation/crop", 2).unbind(1)
        y, x = (
            _coordinates((factor * side).round(), share, size)
            for side, share, size in zip(
                (height, width), place, self.size(height, width), strict=True
            )
        )
        return torch.stack(
            [x[:, None].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])], dim=3
        )


def _coordinates(
    scaled: Float[Tensor, "b"], share: Float[Tensor, "b"], size: int
) -> Float[Tensor, "b {size}"]:
    """Centres of ``size`` pixels in a row of ``scaled`` pixels, which reaches from -1 to 1.

    Args:
        scaled: length of the row.
        share: uniform draw that decides where the pixels begin, at a whole pixel.
        size: number of pixels; if they are more than the row has, all of it is among them.
    """
    room = scaled - size
    start = room.clamp(max=0) + (share * (room.abs() + 1)).floor()
    centres = start[:, None] + torch.arange(size, device=scaled.device) + 0.5
    return 2 * centres / scaled[:, None] - 1
