"""Random patches of a regular grid, as MAE hides them."""

from __future__ import annotations

from benchmark.contracts import Batch, MaskingMethod, Proposal, UserError


class RandomPatches(MaskingMethod):
    """Hide a fixed share of grid cells, drawn anew for each image (MAE, arXiv 2111.06377, sec. 3).

    Args:
        image_size: side of the images in pixels.
        ratio: share of cells to hide, in (0, 1); rounded to whole cells.
        patch_size: side of a cell in pixels; must divide the image size.
        num_masks: independent masks per image.

    Raises:
        UserError: for values out of range.
    """

    version = 1

    def __init__(self, image_size: int, ratio: float, patch_size: int, num_masks: int = 1) -> None:
        super().__init__()
        if patch_size < 1 or image_size % patch_size:
            raise UserError(
                f"method.patch_size={patch_size} must divide the image size {image_size}"
            )
        if not 0 < ratio < 1:
            raise UserError(f"method.ratio={ratio} must lie between 0 and 1, both excluded")
        if num_masks < 1:
            raise UserError(f"method.num_masks={num_masks} must be at least 1")
        self.patch_size = patch_size
        self.grid = image_size // patch_size
        self.num_masks = num_masks
        self.num_hidden = round(ratio * self.grid**2)
        if not 0 < self.num_hidden < self.grid**2:
            raise UserError(
                f"method.ratio={ratio} hides {self.num_hidden} of {self.grid**2} cells; "
                "choose a smaller patch_size or another ratio"
            )

    def forward(self, batch: Batch) -> Proposal:
        """Hide the cells with the smallest random keys."""
        cells = self.grid**2
        keys = batch.streams.uniform("mask/random", self.num_masks, cells)
        rank = keys.argsort(dim=-1, stable=True).argsort(dim=-1)
        hidden = (rank < self.num_hidden).to(batch.pixels.dtype)
        masks = hidden.view(-1, self.num_masks, self.grid, self.grid)
        masks = masks.repeat_interleave(self.patch_size, 2).repeat_interleave(self.patch_size, 3)
        return Proposal(masks)
