"""No masks: the plain objective."""

from __future__ import annotations

import torch

from benchmark.contracts import Batch, MaskingMethod, Proposal


class NoMask(MaskingMethod):
    """One mask that hides nothing, so that the trainer needs no special case."""

    version = 1
    hides = False
    num_masks = 1

    def __init__(self) -> None:
        super().__init__()

    def forward(self, batch: Batch) -> Proposal:
        """Propose the empty mask."""
        return Proposal(torch.zeros_like(batch.views[1, :, :1]))
