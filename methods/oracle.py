"""Masks of the true objects, an upper bound for whatever has to find them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from benchmark.contracts import Batch, MaskingMethod, Masks, Proposal, Reduction
from benchmark.errors import UserError

Morphology = Literal["none", "erosion", "dilation", "box"]

_IDS = 256  # segments are stored as bytes


def largest_objects(
    segments: Int[Tensor, "b h w"], num_masks: int, *, background: bool
) -> Bool[Tensor, "b {num_masks} h w"]:
    """Pixels of the largest objects, in falling order of size; of equal ones the first id leads.

    Args:
        segments: object of each pixel, 0 for the background.
        num_masks: objects wanted; where there are fewer, the last masks are empty.
        background: whether the background is an object too.
    """
    ids = segments.flatten(1)
    # Whole numbers: a parallel scatter adds in any order, and only for them is it the same.
    sizes = ids.new_zeros(len(ids), _IDS).scatter_add_(1, ids, torch.ones_like(ids))
    if not background:
        sizes[:, 0].zero_()
    sizes, order = sizes.sort(dim=1, descending=True, stable=True)
    found = (sizes > 0)[:, :num_masks, None, None]
    return found & (segments[:, None] == order[:, :num_masks, None, None])


def dilate(masks: Masks, radius: int) -> Masks:
    """Largest value in the square of side ``2 radius + 1`` around each pixel, within the image."""
    return F.max_pool2d(masks, 2 * radius + 1, stride=1, padding=radius)


def erode(masks: Masks, radius: int) -> Masks:
    """Smallest value in that square, so that the border of the image takes nothing away."""
    return 1 - dilate(1 - masks, radius)


def bounding_boxes(masks: Masks) -> Float[Tensor, "b n h w"]:
    """Boxes from the first to the last row and column; the ADIOS code leaves the last ones out."""
    rows, columns = (_filled(masks.amax(dim)) for dim in (3, 2))
    return rows[..., :, None] * columns[..., None, :]


def _filled(line: Float[Tensor, "b n s"]) -> Float[Tensor, "b n s"]:
    """1 from the first to the last 1."""
    return line.cummax(2).values * line.flip(2).cummax(2).values.flip(2)


class Oracle(MaskingMethod):
    """Slot k hides the k-th largest object of view 1 (the ground-truth masks of the ADIOS code).

    Args:
        num_masks: slots; those beyond the objects of an image hide nothing.
        background: whether the background is one of the objects.
        morphology: "none"; "erosion" or "dilation" by a square; "box" for the bounding box.
        radius: of that square, whose side is ``2 radius + 1`` pixels.
        reduction: of the masks' losses.

    Raises:
        UserError: for values out of range.
    """

    version = 1
    needs = ("segments",)

    def __init__(
        self,
        num_masks: int,
        background: bool = False,
        morphology: Morphology = "none",
        radius: int = 1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not 1 <= num_masks <= _IDS:
            raise UserError(f"method.num_masks={num_masks} must lie between 1 and {_IDS}")
        if radius < 1:
            raise UserError(
                f"method.radius={radius} must be at least 1 pixel; use morphology=none for 0"
            )
        self.num_masks = num_masks
        self.background = background
        self.morphology = morphology
        self.radius = radius
        self.reduction = reduction

    @torch.no_grad()
    def forward(self, batch: Batch) -> Proposal:
        """Look the objects up."""
        assert batch.segments is not None
        objects = largest_objects(batch.segments[1], self.num_masks, background=self.background)
        masks = objects.to(batch.pixels.dtype)
        if self.morphology == "erosion":
            masks = erode(masks, self.radius)
        elif self.morphology == "dilation":
            masks = dilate(masks, self.radius)
        elif self.morphology == "box":
            masks = bounding_boxes(masks)
        return Proposal(masks)
