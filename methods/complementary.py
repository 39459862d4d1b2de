"""Random masks that share the image out: the control for N losses without an adversary."""

from __future__ import annotations

import torch

from benchmark.contracts import MOST_MASKS, Batch, MaskingMethod, Proposal, Reduction
from benchmark.errors import UserError, at_most
from methods.grid import Grid, rank


class ComplementaryPatches(MaskingMethod):
    """Deal the cells of a grid out to N masks at random, so that each is hidden exactly once.

    As with ADIOS (arXiv 2201.13100), whose masks sum to one at every pixel, an image has N losses
    and a mask the area 1/N on average. What ADIOS gains beyond this, it owes to where it hides.

    Args:
        image_size: side of the images in pixels.
        patch_size: side of a cell in pixels; must divide the image size.
        num_masks: N, from 2; the masks' sizes differ by one cell at most.
        reduction: how the losses of the masks become one.

    Raises:
        UserError: for values out of range.
    """

    version = 1

    def __init__(
        self, image_size: int, patch_size: int, num_masks: int, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        self.grid = Grid(image_size, patch_size)
        if not 2 <= num_masks <= self.grid.cells:
            raise UserError(
                f"method.num_masks={num_masks} must lie between 2 and the {self.grid.cells} cells "
                "of an image; a smaller patch_size gives more"
            )
        at_most(MOST_MASKS, "method.", num_masks=num_masks)
        self.num_masks = num_masks
        self.reduction = reduction

    def forward(self, batch: Batch) -> Proposal:
        """Order the cells at random and deal them out in turn."""
        keys = batch.streams.uniform("mask/complementary", 1, self.grid.cells)
        owner = rank(keys)[:, 0] % self.num_masks
        mask = torch.arange(self.num_masks, device=owner.device)[:, None]
        cells = (owner[:, None] == mask).to(batch.pixels.dtype)
        return Proposal(self.grid.expand(cells.unflatten(-1, (self.grid.side, self.grid.side))))
