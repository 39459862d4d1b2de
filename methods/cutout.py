"""One square, as Cutout hides it."""

from __future__ import annotations

import math

import torch

from benchmark.contracts import MOST_MASKS, Batch, MaskingMethod, Proposal, Reduction
from benchmark.errors import UserError, at_least, at_most
from benchmark.schedule import Ramp, Value
from methods.grid import rectangles


class Cutout(MaskingMethod):
    """Hide one square at a random place (DeVries and Taylor 2017, arXiv 1708.04552, sec. 3).

    The centre is a random pixel, so the border may cut the square off, which the paper finds
    important: the area is then smaller than ``ratio``, down to about a quarter of it in a corner.
    With ``inside`` all of the square lies in the image, at every such place equally likely.

    Args:
        image_size: side of the images in pixels.
        ratio: area of the square as a share of the image, in (0, 1), constant or a ramp; its side
            is rounded to whole pixels. The paper's 16 pixels of CIFAR-10's 32 are 0.25.
        inside: keep the square inside the image.
        num_masks: independent masks per image.
        reduction: how the losses of the masks become one.

    Raises:
        UserError: for values out of range.
    """

    version = 1

    def __init__(
        self,
        image_size: int,
        ratio: Value,
        inside: bool = False,
        num_masks: int = 1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.ratio = Ramp.share("method.ratio", ratio)
        for end in self.ratio.ends:
            if not 0 < self._side(end) < image_size:
                raise UserError(
                    f"method.ratio={end} makes a square of {self._side(end)} in {image_size} "
                    "pixels; choose another ratio"
                )
        at_least(1, "method.", num_masks=num_masks)
        at_most(MOST_MASKS, "method.", num_masks=num_masks)
        self.inside = inside
        self.num_masks = num_masks
        self.reduction = reduction

    def _side(self, ratio: float) -> int:
        return round(math.sqrt(ratio) * self.image_size)

    def forward(self, batch: Batch) -> Proposal:
        """Place the square."""
        side = self._side(self.ratio.at(batch.progress))
        draws = batch.streams.uniform("mask/cutout", self.num_masks, 2)
        if self.inside:
            corner = (draws * (self.image_size - side + 1)).floor()
        else:
            corner = (draws * self.image_size).floor() - side // 2
        top, left = corner.unbind(-1)
        extent = torch.full_like(top, side)
        square = rectangles(self.image_size, top, left, extent, extent)
        return Proposal(square.to(batch.pixels.dtype))
