"""An adversary without a network: hide what the objective's loss depends on most."""

from __future__ import annotations

import torch

from benchmark.contracts import Batch, MaskingMethod, Proposal
from benchmark.precision import full_precision
from benchmark.schedule import Value
from methods.grid import Grid


class Gradient(MaskingMethod):
    """Hide the grid cells at whose pixels the loss of the unmasked pair has the largest gradient.

    HPM (arXiv 2304.05919) lets the model choose what it finds hard: a predictor of each patch's
    reconstruction loss decides what to hide. A contrastive loss is not a sum over patches, so
    its gradient with respect to the pixels stands in for the predictor.

    Args:
        image_size: side of the images in pixels.
        ratio: share of cells to hide, in (0, 1), rounded to whole cells; may be a ramp.
        patch_size: side of a cell in pixels; must divide the image size.

    Raises:
        UserError: for values out of range.
    """

    version = 1
    needs = ("loss_gradient",)
    num_masks = 1

    def __init__(self, image_size: int, ratio: Value, patch_size: int) -> None:
        super().__init__()
        self.grid = Grid(image_size, patch_size)
        self.ratio = self.grid.read_ratio(ratio)

    def forward(self, batch: Batch) -> Proposal:
        """Rank the cells of view 1 by the mean norm over channels of their pixels' gradient."""
        assert batch.loss_gradient is not None
        gradient = full_precision(batch.loss_gradient().detach())
        scores = self.grid.pool(torch.linalg.vector_norm(gradient, dim=1))[:, None]
        count = self.grid.count(self.ratio.at(batch.progress))
        return Proposal(self.grid.hide_highest(scores, count).to(batch.pixels.dtype))
