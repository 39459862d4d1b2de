"""Random patches of a regular grid, as MAE hides them."""

from __future__ import annotations

from benchmark.contracts import MOST_MASKS, Batch, MaskingMethod, Proposal, Reduction
from benchmark.errors import at_least, at_most
from benchmark.schedule import Value
from methods.grid import Grid


class RandomPatches(MaskingMethod):
    """Hide a fixed share of grid cells, drawn anew for each image (MAE, arXiv 2111.06377, sec. 3).

    Args:
        image_size: side of the images in pixels.
        ratio: share of cells to hide, in (0, 1), constant or a ramp; rounded to whole cells.
        patch_size: side of a cell in pixels; must divide the image size.
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
        num_masks: int = 1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.grid = Grid(image_size, patch_size)
        self.ratio = self.grid.read_ratio(ratio)
        at_least(1, "method.", num_masks=num_masks)
        at_most(MOST_MASKS, "method.", num_masks=num_masks)
        self.num_masks = num_masks
        self.reduction = reduction

    def forward(self, batch: Batch) -> Proposal:
        """Hide the cells with the smallest random keys."""
        keys = batch.streams.uniform("mask/random", self.num_masks, self.grid.cells)
        masks = self.grid.hide_highest(-keys, self.grid.count(self.ratio.at(batch.progress)))
        return Proposal(masks.to(batch.pixels.dtype))
