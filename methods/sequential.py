"""Sequential adversarial masks under a budget (the seed paper, arXiv 2212.08277, section 3)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from benchmark.contracts import Batch, MaskingMethod, Masks, Proposal, UserError
from benchmark.precision import full_precision
from methods.mask_net import MaskNet

BudgetSide = Literal["upper", "two"]


def budget_penalty(
    masks: Masks, budgets: Float[Tensor, "b n"], side: BudgetSide
) -> Float[Tensor, ""]:
    """R_b of section 3, ``(area - b)^2``, averaged over masks and batch.

    The paper sums pixels but calls b a share of them, so the area is the mean over pixels. With
    ``side="upper"`` only an excess counts: the one reading that leaves a mask free to hide
    nothing, as Appendix B observes.
    """
    excess = masks.mean((2, 3)) - budgets
    if side == "upper":
        excess = excess.clamp_min(0)
    return excess.square().mean()


def overlap_penalty(masks: Masks) -> Float[Tensor, ""]:
    """``m^i . sum_{j<i} m^j`` (section 3), averaged over masks, batch and pixels."""
    earlier = masks.cumsum(1) - masks
    return (masks * earlier).mean()


def consistency_penalty(masks: Masks) -> Float[Tensor, ""]:
    """``||m - m*||^2``, m* the 3x3 average of m (Appendix C), per mask, image and pixel."""
    smooth = F.avg_pool2d(masks, 3, stride=1, padding=1, count_include_pad=False)
    return (masks - smooth).square().mean()


class Sequential(MaskingMethod):
    """Masks one after another: m^k from the image and all earlier masks.

    A U-Net runs once; head k is a 1x1 convolution with a sigmoid on its features and on
    m^1 ... m^{k-1}, which breaks the symmetry between slots.

    Args:
        image_size: side of the images in pixels.
        num_masks: N.
        width: channels of the U-Net.
        norm: norm of the U-Net.
        budget: b, the share of pixels that a mask may hide, in (0, 1).
        budget_side: "upper" penalises only what exceeds the budget, "two" any difference.
        budget_weight: of the budget penalty.
        overlap_weight: of the overlap penalty, a sum over pixels in the paper.
        consistency_weight: of the consistency penalty, likewise.
        penalty_size: side in pixels of the image for which the two weights above are meant; at
            other sizes they are rescaled by the number of pixels.
        initial_area: share of pixels that each mask hides at the start.

    Raises:
        UserError: for values out of range.
    """

    version = 1

    def __init__(
        self,
        image_size: int,
        num_masks: int,
        width: int,
        norm: str,
        budget: float,
        budget_side: BudgetSide,
        budget_weight: float,
        overlap_weight: float,
        consistency_weight: float,
        penalty_size: int,
        initial_area: float,
    ) -> None:
        super().__init__()
        if num_masks < 1:
            raise UserError(f"method.num_masks={num_masks} must be at least 1")
        for key, share in (("budget", budget), ("initial_area", initial_area)):
            if not 0 < share < 1:
                raise UserError(f"method.{key}={share} must lie between 0 and 1, both excluded")
        for key, weight in (
            ("budget_weight", budget_weight),
            ("overlap_weight", overlap_weight),
            ("consistency_weight", consistency_weight),
            ("penalty_size", penalty_size),
        ):
            if weight < 0:
                raise UserError(f"method.{key}={weight} must not be negative")
        self.num_masks = num_masks
        self.budget = budget
        self.budget_side = budget_side
        self.budget_weight = budget_weight
        self.overlap_weight = overlap_weight * penalty_size**2
        self.consistency_weight = consistency_weight * penalty_size**2
        self.unet = MaskNet(image_size, width, norm)
        heads = [nn.Conv2d(width + k, 1, 1) for k in range(num_masks)]
        for head in heads:
            assert head.bias is not None
            nn.init.constant_(head.bias, math.log(initial_area / (1 - initial_area)))
        self.heads = nn.ModuleList(heads)

    def forward(self, batch: Batch) -> Proposal:
        """Propose N soft masks of view 1, in order."""
        seen = self.unet(batch.views[1])
        masks: list[Tensor] = []
        for head in self.heads:
            mask = full_precision(head(seen)).sigmoid()
            masks.append(mask)
            seen = torch.cat([seen, mask.to(seen.dtype)], dim=1)
        return Proposal(torch.cat(masks, dim=1), self.budgets(batch))

    def budgets(self, batch: Batch) -> Float[Tensor, "b n"]:
        """The share that each mask of each image may hide."""
        return batch.pixels.new_full((len(batch.pixels), self.num_masks), self.budget)

    def penalties(self, proposal: Proposal) -> dict[str, Tensor]:
        """Budget, overlap and consistency."""
        masks, budgets = proposal.masks, proposal.budgets
        assert budgets is not None
        return {
            "budget": self.budget_weight * budget_penalty(masks, budgets, self.budget_side),
            "overlap": self.overlap_weight * overlap_penalty(masks),
            "consistency": self.consistency_weight * consistency_penalty(masks),
        }
