"""Sequential adversarial masks under a budget (the seed paper, arXiv 2212.08277, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmark.contracts import MOST_MASKS, Batch, MaskingMethod, Proposal, Reduction
from benchmark.errors import UserError, at_least, at_most
from benchmark.processes import averaged
from methods.budgets import BudgetRule, FixedBudget
from methods.mask_heads import Activation, HistoryInput, SequentialHeads
from methods.penalties import (
    BudgetOver,
    BudgetSide,
    BudgetUnit,
    History,
    budget_excess,
    budget_penalty,
    consistency_penalty,
    overlap_penalty,
)

_CURVATURE = 20.0  # of the augmented Lagrangian: twice the weight of its quadratic part


class Sequential(MaskingMethod):
    """Masks one after another: m^k from the image and all earlier masks.

    Where the paper is silent an argument decides; docs/reproduction.md says what each changes.

    Args:
        image_size: side of the images in pixels.
        num_masks: N.
        width: channels of the U-Net.
        norm: norm of the U-Net.
        budget: b, the share of pixels that a mask may hide: a number in (0, 1), a ramp over
            training, or a rule that decides for each image.
        budget_side: "upper" penalises only what exceeds the budget, "two" any difference, and
            "hard" hides exactly the budget's share of pixels, with no penalty.
        budget_unit: see `methods.penalties.budget_excess`.
        budget_over: see `methods.penalties.budget_penalty`.
        budget_weight: of the budget penalty; "auto" for an augmented Lagrangian whose multiplier
            for each slot climbs until the mean area of the batch keeps the budget.
        budget_rate: of that climb, per step and unit of area.
        overlap_weight: of the overlap penalty, a sum over pixels in the paper.
        overlap_history: see `methods.penalties.overlap_penalty`.
        consistency_weight: of the consistency penalty, likewise a sum.
        consistency_kernel: side of the pooling window, odd.
        consistency_detach: take the pooled mask as a fixed target.
        penalty_size: side in pixels of the image for which the two weights of sums are meant; at
            other sizes they are rescaled by the number of pixels. The image's own size gives the
            paper's sums, 1 gives means.
        history_input: see `methods.mask_heads.SequentialHeads`.
        share_head: likewise.
        activation: likewise.
        detach_history: keep gradients from the earlier masks, where they are an "input", in the
            "overlap" penalty, in "both" or in "none".
        initial_area: share of pixels that each mask hides at the start.
        reduction: of losses and penalties over the masks; the paper's is the mean.

    Raises:
        UserError: for values out of range.
    """

    version = 2

    def __init__(
        self,
        image_size: int,
        num_masks: int,
        width: int,
        norm: str,
        budget: float | Mapping[str, Any] | BudgetRule,
        budget_side: BudgetSide = "upper",
        budget_unit: BudgetUnit = "share",
        budget_over: BudgetOver = "image",
        budget_weight: float | Literal["auto"] = 100.0,
        budget_rate: float = 0.1,
        overlap_weight: float = 1e-4,
        overlap_history: History = "sum",
        consistency_weight: float = 1e-4,
        consistency_kernel: int = 3,
        consistency_detach: bool = False,
        penalty_size: int = 96,
        history_input: HistoryInput = "head",
        share_head: bool = False,
        activation: Activation = "sigmoid",
        detach_history: Literal["none", "input", "overlap", "both"] = "none",
        initial_area: float = 0.25,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        at_least(1, "method.", num_masks=num_masks)
        at_most(MOST_MASKS, "method.", num_masks=num_masks)
        if not 0 < initial_area < 1:
            raise UserError(
                f"method.initial_area={initial_area} must lie between 0 and 1, both excluded"
            )
        for key, value in (
            ("budget_weight", 0 if budget_weight == "auto" else budget_weight),
            ("budget_rate", budget_rate),
            ("overlap_weight", overlap_weight),
            ("consistency_weight", consistency_weight),
            ("penalty_size", penalty_size),
        ):
            if value < 0:
                raise UserError(f"method.{key}={value} must not be negative")
        if not 1 <= consistency_kernel < 2 * image_size or consistency_kernel % 2 == 0:
            raise UserError(f"method.consistency_kernel={consistency_kernel} must be odd and fit")
        rule = budget if isinstance(budget, BudgetRule) else FixedBudget("method.budget", budget)
        if budget_side == "hard" and activation != "sigmoid":
            raise UserError(
                f"method.budget_side=hard ranks soft values, and activation={activation} has "
                "others; use activation=sigmoid"
            )
        if budget_weight == "auto" and budget_unit != "share":
            raise UserError(
                f"method.budget_weight=auto counts areas as shares; budget_unit={budget_unit} "
                "must be share"
            )
        if budget_side == "hard" and rule.needs_masks:
            raise UserError(
                "method.budget_side=hard needs the budgets before the masks; "
                "choose another order than matched, or another side"
            )
        self.num_masks = num_masks
        self.budget_rule = rule
        self.segmenter = rule.segmenter
        self.budget_side: BudgetSide = budget_side
        self.budget_unit: BudgetUnit = budget_unit
        self.budget_over: BudgetOver = budget_over
        self.budget_weight = budget_weight
        self.budget_rate = budget_rate
        self.overlap_weight = overlap_weight * penalty_size**2
        self.overlap_history: History = overlap_history
        self.consistency_weight = consistency_weight * penalty_size**2
        self.consistency_kernel = consistency_kernel
        self.consistency_detach = consistency_detach
        self.detach_overlap = detach_history in ("overlap", "both")
        self.reduction = reduction
        self.heads = SequentialHeads(
            image_size,
            num_masks,
            width,
            norm,
            history_input,
            share_head,
            detach_history in ("input", "both"),
            activation,
            initial_area,
        )
        self.register_buffer("multipliers", torch.zeros(num_masks))
        self.multipliers: Tensor

    def forward(self, batch: Batch) -> Proposal:
        """Propose N masks of view 1, in order."""
        hard = self.budget_rule(batch, self.num_masks, None) if self.budget_side == "hard" else None
        masks = self.heads(batch.views[1], batch.streams, hard)
        budgets = self.budget_rule(batch, self.num_masks, masks.detach()) if hard is None else hard
        return Proposal(masks, budgets=budgets)

    def costly_nets(self) -> Iterable[nn.Module]:
        """The U-Net."""
        return (self.heads.unet,)

    def penalties(self, proposal: Proposal) -> dict[str, Tensor]:
        """Budget, overlap and consistency."""
        masks = proposal.masks
        overlap = overlap_penalty(masks, self.overlap_history, detach=self.detach_overlap)
        consistency = consistency_penalty(
            masks, self.consistency_kernel, detach=self.consistency_detach
        )
        per_slot = {
            "overlap": self.overlap_weight * overlap,
            "consistency": self.consistency_weight * consistency,
        }
        if self.budget_side != "hard":
            per_slot = {"budget": self._budget(proposal), **per_slot}
        mean = self.reduction == "mean"
        return {name: v.mean() if mean else v.sum() for name, v in per_slot.items()}

    def _excess(self, proposal: Proposal) -> Float[Tensor, "b n"]:
        assert proposal.budgets is not None
        return budget_excess(proposal.masks, proposal.budgets, self.budget_unit)

    def _budget(self, proposal: Proposal) -> Float[Tensor, "n"]:
        excess = self._excess(proposal)
        if isinstance(self.budget_weight, str):
            return self._lagrangian(averaged(excess.mean(0)))
        return self.budget_weight * budget_penalty(excess, self.budget_side, self.budget_over)

    def _lagrangian(self, excess: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Augmented Lagrangian (Nocedal, Wright: Numerical Optimization, 2006, eq. 17.65)."""
        reached = self._bounded(self.multipliers + _CURVATURE * excess)
        return (reached.square() - self.multipliers.square()) / (2 * _CURVATURE)

    def _bounded(self, multipliers: Tensor) -> Tensor:
        """An upper bound never pushes areas up."""
        return multipliers.clamp_min(0) if self.budget_side == "upper" else multipliers

    @torch.no_grad()
    def after_step(self, proposal: Proposal) -> None:
        """Let the multipliers climb."""
        if self.budget_weight == "auto" and self.budget_side != "hard":
            excess = averaged(self._excess(proposal).mean(0))
            self.multipliers.copy_(self._bounded(self.multipliers + self.budget_rate * excess))
