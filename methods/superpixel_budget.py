"""Sequential masks with a budget of its own for each image (the seed paper, section 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from benchmark.contracts import Batch, UserError
from methods.sequential import BudgetSide, Sequential
from methods.superpixels import cluster_budgets


class SuperpixelBudget(Sequential):
    """b_k is the size of the k-th largest cluster of superpixels, clustered by mean RGB.

    The paper only sketches this. Here: SLIC on view 1 before normalisation, k-means of the
    superpixels' mean colours with one cluster per mask, shares of pixels in descending order,
    clipped so that no mask is free to hide nearly all, or bound to hide nearly nothing.

    Args:
        num_segments: superpixels per image, rounded to a grid.
        compactness: weight of distance against colour in SLIC, in units of RGB in [0, 1].
        slic_iterations: assignment and update steps.
        kmeans_iterations: likewise.
        min_budget: lower clip of b_k, in [0, 1).
        max_budget: upper clip of b_k, in (0, 1].

    The other arguments are those of `Sequential`, which has no fixed budget here.
    """

    version = 1

    def __init__(
        self,
        image_size: int,
        num_masks: int,
        width: int,
        norm: str,
        budget_side: BudgetSide,
        budget_weight: float,
        overlap_weight: float,
        consistency_weight: float,
        penalty_size: int,
        initial_area: float,
        num_segments: int,
        compactness: float,
        slic_iterations: int,
        kmeans_iterations: int,
        min_budget: float,
        max_budget: float,
    ) -> None:
        super().__init__(
            image_size=image_size,
            num_masks=num_masks,
            width=width,
            norm=norm,
            budget=initial_area,
            budget_side=budget_side,
            budget_weight=budget_weight,
            overlap_weight=overlap_weight,
            consistency_weight=consistency_weight,
            penalty_size=penalty_size,
            initial_area=initial_area,
        )
        if not 0 <= min_budget < max_budget <= 1:
            raise UserError(
                f"method.min_budget={min_budget} and max_budget={max_budget} must satisfy "
                "0 <= min_budget < max_budget <= 1"
            )
        if not num_masks <= num_segments <= image_size**2:
            raise UserError(
                f"method.num_segments={num_segments} must lie between num_masks={num_masks} and "
                f"the number of pixels {image_size**2}"
            )
        if compactness <= 0 or slic_iterations < 1 or kmeans_iterations < 1:
            raise UserError(
                f"method.compactness={compactness}, slic_iterations={slic_iterations} and "
                f"kmeans_iterations={kmeans_iterations} must all be positive"
            )
        self.num_segments = num_segments
        self.compactness = compactness
        self.slic_iterations = slic_iterations
        self.kmeans_iterations = kmeans_iterations
        self.min_budget = min_budget
        self.max_budget = max_budget

    @torch.no_grad()
    def budgets(self, batch: Batch) -> Float[Tensor, "b n"]:
        """Cluster sizes of each image, largest first."""
        shares = cluster_budgets(
            batch.pixels,
            num_clusters=self.num_masks,
            num_segments=self.num_segments,
            compactness=self.compactness,
            slic_iterations=self.slic_iterations,
            kmeans_iterations=self.kmeans_iterations,
        )
        return shares.clamp(self.min_budget, self.max_budget)
