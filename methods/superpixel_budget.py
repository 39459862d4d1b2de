"""A budget of its own for each image, from its superpixels (the seed paper, section 5)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from benchmark.contracts import Batch, Masks
from benchmark.errors import UserError
from methods.budgets import BudgetRule
from methods.colour_clusters import ColourSpace
from methods.grid import rank
from methods.superpixels import ColourClusters, SuperpixelsOf, grid_shape

Order = Literal["descending", "ascending", "random", "matched"]
Control = Literal["none", "shuffled", "equal"]


class SuperpixelBudget(BudgetRule):
    """b_k is the size of a cluster of superpixels, clustered by mean colour.

    The paper only sketches this. Here: SLIC on view 1 before normalisation, k-means of the
    superpixels' mean colours, and shares of pixels as budgets, clipped so that no mask is free to
    hide nearly all, or bound to hide nearly nothing.

    Args:
        image_size: side of the images in pixels.
        num_segments: superpixels per image, rounded to a grid.
        compactness: weight of distance against colour in SLIC.
        slic_iterations: rounds of SLIC; 0 leaves the grid.
        colour: space of SLIC and clusters, "rgb" (the paper's) or "lab".
        num_clusters: K; None for as many as masks. With more clusters than masks the largest
            count, with fewer the masks over get ``min_budget``.
        kmeans_iterations: rounds of k-means.
        order: which slot gets which cluster. "descending" and "ascending" by size; "random" for
            each image; "matched" to the areas that the masks have already, at the least total
            squared change.
        min_budget: lower clip of b_k, in [0, 1).
        max_budget: upper clip of b_k, in (0, 1].
        control: "shuffled" gives each image the budgets of another image of the batch, "equal"
            gives every mask 1/N: is it the image's own sizes that help?
        superpixels_of: what SLIC cuts up, the augmented "view" or the "image" before it is
            augmented, whose superpixels are found once and follow the crop.

    Raises:
        UserError: for values out of range.
    """

    version = 2

    def __init__(
        self,
        image_size: int,
        num_segments: int,
        compactness: float,
        slic_iterations: int,
        colour: ColourSpace,
        num_clusters: int | None,
        kmeans_iterations: int,
        order: Order,
        min_budget: float,
        max_budget: float,
        control: Control = "none",
        superpixels_of: SuperpixelsOf = "view",
    ) -> None:
        if not 0 <= min_budget < max_budget <= 1:
            raise UserError(
                f"method.budget.min_budget={min_budget} and max_budget={max_budget} must satisfy "
                "0 <= min_budget < max_budget <= 1"
            )
        grid_shape(image_size, image_size, num_segments)  # refuses more segments than pixels
        if num_clusters is not None and not 1 <= num_clusters <= num_segments:
            raise UserError(
                f"method.budget.num_clusters={num_clusters} must lie between 1 and "
                f"num_segments={num_segments}, or be null"
            )
        self.clusters = ColourClusters(
            num_segments, compactness, slic_iterations, kmeans_iterations, colour
        )
        self.clusters.check("method.budget.")
        self.num_clusters = num_clusters
        self.order: Order = order
        self.min_budget = min_budget
        self.max_budget = max_budget
        self.control: Control = control
        self.needs_masks = order == "matched"
        wanted = superpixels_of == "image" and control != "equal"
        self.segmenter = self.clusters if wanted else None

    @torch.no_grad()
    def __call__(self, batch: Batch, num_masks: int, masks: Masks | None) -> Float[Tensor, "b n"]:
        """Cluster sizes of each image in the order asked for."""
        b = batch.views.shape[1]
        if self.control == "equal":
            return batch.views.new_full((b, num_masks), 1 / num_masks)
        superpixels = None if batch.superpixels is None else batch.superpixels[1]
        sizes = self.clusters.shares(batch.pixels[1], self.num_clusters or num_masks, superpixels)
        if self.control == "shuffled":
            sizes = sizes.roll(1, 0)
        sizes = F.pad(sizes[:, :num_masks], (0, max(0, num_masks - sizes.shape[1])))
        budgets = sizes.clamp(self.min_budget, self.max_budget)
        if self.order == "descending":
            return budgets
        if self.order == "ascending":
            return budgets.flip(1)
        if self.order == "random":
            wanted = batch.streams.uniform("mask/budget_order", num_masks)
        else:
            assert masks is not None, "a rule that needs masks is given them"
            wanted = masks.mean((2, 3))
        # The k-th largest wish gets the k-th largest budget: for squared differences of numbers,
        # pairing both in sorted order is the optimal assignment.
        return budgets.gather(1, rank(wanted))
