"""Rectangular blocks of patches, as BEiT hides them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from benchmark.contracts import MOST_MASKS, Batch, MaskingMethod, Proposal, Reduction
from benchmark.errors import UserError, at_least, at_most
from benchmark.schedule import Value
from methods.grid import Grid

_MOST_BLOCKS = 1000


class Blocks(MaskingMethod):
    """Hide random rectangles of grid cells until a share is met (BEiT, arXiv 2106.08254, Alg. 1).

    Block after block: an area between ``min_cells`` and what is still missing, an aspect ratio,
    and a place inside the image. Two things differ from the algorithm's text. The aspect ratio is
    log-uniform, as in the released code, so that tall and wide blocks are equally likely. And the
    ratio is met exactly: the block that would exceed it loses its surplus along a straight cut in
    a random direction. Should ``max_blocks`` not suffice, the rest comes from the same cut through
    the whole image.

    Args:
        image_size: side of the images in pixels.
        ratio: share of cells to hide, in (0, 1), constant or a ramp; rounded to whole cells.
        patch_size: side of a cell in pixels; must divide the image size.
        min_cells: smallest area of a block in cells, before it is cut; BEiT has 16 of 196.
        min_aspect: smallest height over width; the largest is its inverse.
        max_blocks: blocks drawn for each mask, needed or not.
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
        patch_size: int,
        min_cells: int,
        min_aspect: float,
        max_blocks: int,
        num_masks: int = 1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.grid = Grid(image_size, patch_size)
        self.ratio = self.grid.read_ratio(ratio)
        if not 1 <= min_cells <= self.grid.cells:
            raise UserError(
                f"method.min_cells={min_cells} must lie between 1 and the {self.grid.cells} cells "
                "of an image"
            )
        if not 0 < min_aspect <= 1:
            raise UserError(
                f"method.min_aspect={min_aspect} must lie between 0, excluded, and 1; "
                "the largest aspect ratio is its inverse"
            )
        at_least(1, "method.", max_blocks=max_blocks, num_masks=num_masks)
        at_most(_MOST_BLOCKS, "method.", max_blocks=max_blocks)
        at_most(MOST_MASKS, "method.", num_masks=num_masks)
        self.min_cells = min_cells
        self.min_aspect = min_aspect
        self.max_blocks = max_blocks
        self.num_masks = num_masks
        self.reduction = reduction

    def forward(self, batch: Batch) -> Proposal:
        """Number the cells by the block that reaches them first, and hide the first ones."""
        count = self.grid.count(self.ratio.at(batch.progress))
        draws = batch.streams.uniform("mask/block", self.num_masks, self.max_blocks, 4)
        slope = batch.streams.uniform("mask/block/cut", self.num_masks, 2) - 0.5
        order = self._arrival(draws, count) + self._cut(slope)
        masks = self.grid.hide_highest(-order.flatten(2), count)
        return Proposal(masks.to(batch.pixels.dtype))

    def _arrival(
        self, draws: Float[Tensor, "b n blocks 4"], count: int
    ) -> Float[Tensor, "b n g g"]:
        """First block that covers each cell; their number where none does.

        Blocks go on being drawn once ``count`` cells are covered, but they come too late to be
        hidden, so no image has to wait for another.
        """
        batch_size, num_masks, _, _ = draws.shape
        shape = (batch_size, num_masks, self.grid.side, self.grid.side)
        arrival = draws.new_full(shape, self.max_blocks)
        for k in range(self.max_blocks):
            size, stretch, place = draws[:, :, k].split((1, 1, 2), -1)
            missing = count - (arrival < self.max_blocks).sum((2, 3))
            area = self.min_cells + size[..., 0] * (missing - self.min_cells).clamp(min=0)
            aspect = self.min_aspect ** (1 - 2 * stretch[..., 0])
            block = self.grid.blocks(area, aspect, place)
            arrival = torch.where(block, arrival.clamp(max=k), arrival)
        return arrival

    def _cut(self, slope: Float[Tensor, "b n 2"]) -> Float[Tensor, "b n g g"]:
        """A plane over the cells; as it spans less than 1, it orders only within a block."""
        at = torch.arange(self.grid.side, device=slope.device) / self.grid.side
        down, across = slope[..., None, None].unbind(2)
        return down * at[:, None] + across * at
