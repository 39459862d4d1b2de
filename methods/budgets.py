"""Rules that give each mask of each image its budget, and masks that keep one exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from benchmark.contracts import Batch, Masks, Segmenter
from benchmark.schedule import Ramp, Value


class BudgetRule(ABC):
    """Share of the pixels that each mask may hide.

    Attributes:
        version: raised whenever a change of the code changes its results.
        needs_masks: whether the budgets depend on the masks proposed.
        segmenter: as of `benchmark.contracts.MaskingMethod`.
    """

    version: ClassVar[int]
    needs_masks: bool = False
    segmenter: Segmenter | None = None

    @abstractmethod
    def __call__(self, batch: Batch, num_masks: int, masks: Masks | None) -> Float[Tensor, "b n"]:
        """Budgets for the masks of a batch, without graph.

        Args:
            batch: whose view 1 is masked.
            num_masks: masks per image.
            masks: as proposed, if the rule needs them.
        """


class FixedBudget(BudgetRule):
    """The same budget for every mask of every image (arXiv 2212.08277, section 3)."""

    version = 1  # in no hash: a change here raises the version of `Sequential`

    def __init__(self, name: str, share: Value) -> None:
        self.share = Ramp.share(name, share)

    def __call__(self, batch: Batch, num_masks: int, masks: Masks | None) -> Float[Tensor, "b n"]:
        """The share at this point of training."""
        share = self.share.at(batch.progress)
        return batch.views.new_full((batch.views.shape[1], num_masks), share)


def keep_largest(soft: Float[Tensor, "b h w"], share: Float[Tensor, "b"]) -> Float[Tensor, "b h w"]:
    """Hide exactly a share of the pixels: those with the largest values, the first on a tie.

    The gradient passes straight through to the soft values (Bengio et al., arXiv 1308.3432).
    """
    flat = soft.detach().flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    count = (share * flat.shape[1]).round()
    kept = (torch.arange(flat.shape[1], device=flat.device) < count[:, None]).to(flat.dtype)
    hard = torch.zeros_like(flat).scatter(1, order, kept).view_as(soft)
    return hard + (soft - soft.detach())
