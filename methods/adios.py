"""ADIOS: N masks at once that share every pixel out among them (Shi et al., arXiv 2201.13100)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmark.contracts import MOST_MASKS, Batch, MaskingMethod, Proposal, Reduction
from benchmark.errors import UserError, at_most
from benchmark.precision import full_precision
from benchmark.processes import count
from methods.mask_net import MaskNet


def sparsity_penalty(area: Float[Tensor, "b n"]) -> Float[Tensor, ""]:
    """``sum_k mean_b 1 / sin(pi * area)``, least at area 1/2 (ADIOS, eq. 6, as its code sums it).

    The area is kept off 0 and 1: in float32 the sine of pi is negative, which would turn the
    penalty for a full mask into a reward.
    """
    area = area.clamp(1e-6, 1 - 1e-6)
    return (1 / (torch.sin(math.pi * area) + 1e-10)).mean(0).sum()


def area_negentropy(area: Float[Tensor, "b n"]) -> Float[Tensor, "b"]:
    """``sum_k p log p`` with p the softmax over slots of the areas (the ADIOS code, not the paper).

    The adversary maximises it, which makes areas unequal.
    """
    log_p = area.log_softmax(dim=1)
    return (log_p.exp() * log_p).sum(1)


class Adios(MaskingMethod):
    """U-Net, 1x1 convolution and a softmax over N slots, so masks add up to one at each pixel.

    Args:
        image_size: side of the images in pixels.
        num_masks: N, at least 2.
        width: channels of the U-Net.
        norm: norm of the U-Net.
        sparsity: weight of the penalty on areas far from 1/2.
        entropy: weight of the reward for unequal areas.
        entropy_reduction: over the batch; the published code sums, so that the term's weight
            grows with the batch size.
        reduction: of the masks' losses, and of the penalties with them; the published code sums.

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
        sparsity: float,
        entropy: float,
        entropy_reduction: Reduction = "sum",
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__()
        if num_masks < 2:
            raise UserError(
                f"method.num_masks={num_masks} must be at least 2: ADIOS' masks share the image out"
            )
        at_most(MOST_MASKS, "method.", num_masks=num_masks)
        self.num_masks = num_masks
        self.sparsity = sparsity
        self.entropy = entropy
        self.entropy_reduction = entropy_reduction
        self.reduction = reduction
        self.unet = MaskNet(image_size, width, norm)
        self.head = nn.Conv2d(width, num_masks, 1)

    def forward(self, batch: Batch) -> Proposal:
        """Propose N soft masks of view 1."""
        logits = self.head(self.unet(batch.views[1]))
        return Proposal(full_precision(logits).softmax(dim=1))

    def costly_nets(self) -> Iterable[nn.Module]:
        """The U-Net."""
        return (self.unet,)

    def penalties(self, proposal: Proposal) -> dict[str, Tensor]:
        """Sparsity, and the negative of the rewarded entropy term."""
        area = proposal.masks.mean((2, 3))
        negentropy = area_negentropy(area)
        # The mean over processes of what is returned is to be the sum over their whole batch.
        summed = self.entropy_reduction == "sum"
        total = negentropy.sum() * count() if summed else negentropy.mean()
        # With the mean of the losses everything is N times smaller, so that nothing else changes.
        scale = 1 / self.num_masks if self.reduction == "mean" else 1.0
        return {
            "sparsity": scale * self.sparsity * sparsity_penalty(area),
            "entropy": -scale * self.entropy * total,
        }
