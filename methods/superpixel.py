"""Clusters of superpixels as masks: what the dynamic budget is worth without an adversary."""

from __future__ import annotations

import torch

from benchmark.contracts import MOST_MASKS, Batch, MaskingMethod, Proposal, Reduction
from benchmark.errors import UserError, at_most
from methods.colour_clusters import ColourSpace
from methods.superpixels import ColourClusters, SuperpixelsOf


class Superpixel(MaskingMethod):
    """Mask k hides the k-th largest cluster of view 1's superpixels, clustered by mean colour.

    The masks share the image out. Their areas are the budgets that `SuperpixelBudget` sets for
    the seed paper's idea (section 5), so the two differ by what an adversary learns to hide.

    Args:
        image_size: side of the images in pixels.
        num_masks: N, and the number of clusters; masks beyond the distinct colours of an image
            hide nothing.
        num_segments: superpixels per image, rounded to a grid.
        compactness: weight of distance against colour in SLIC.
        slic_iterations: rounds of SLIC; 0 leaves the grid.
        kmeans_iterations: rounds of k-means.
        colour: space of SLIC and clusters, "rgb" (the paper's) or "lab".
        superpixels_of: what SLIC cuts up, the augmented "view" or the "image" before it is
            augmented, whose superpixels are found once and follow the crop.
        reduction: how the losses of the masks become one.

    Raises:
        UserError: for values out of range.
    """

    version = 1

    def __init__(
        self,
        image_size: int,
        num_masks: int,
        num_segments: int,
        compactness: float,
        slic_iterations: int,
        kmeans_iterations: int,
        colour: ColourSpace,
        superpixels_of: SuperpixelsOf = "view",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not 1 <= num_masks <= num_segments <= image_size**2:
            raise UserError(
                f"method.num_masks={num_masks} and num_segments={num_segments} must satisfy "
                f"1 <= num_masks <= num_segments <= {image_size**2}, the pixels of an image"
            )
        self.clusters = ColourClusters(
            num_segments, compactness, slic_iterations, kmeans_iterations, colour
        )
        self.clusters.check("method.")
        self.segmenter = self.clusters if superpixels_of == "image" else None
        at_most(MOST_MASKS, "method.", num_masks=num_masks)
        self.num_masks = num_masks
        self.reduction = reduction

    @torch.no_grad()
    def forward(self, batch: Batch) -> Proposal:
        """Segment view 1 before normalisation and cluster the superpixels."""
        superpixels = None if batch.superpixels is None else batch.superpixels[1]
        return Proposal(self.clusters.masks(batch.pixels[1], self.num_masks, superpixels))
