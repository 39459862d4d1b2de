"""No masks: the plain objective."""

from __future__ import annotations

from benchmark.contracts import Batch, MaskingMethod, Proposal


class NoMask(MaskingMethod):
    """One mask that hides nothing, so that the trainer needs no special case."""

    version = 1
    num_masks = 1

    def __init__(self) -> None:
        super().__init__()

    def forward(self, batch: Batch) -> Proposal:
        """Propose the empty mask."""
        b, _, h, w = batch.pixels.shape
        return Proposal(batch.pixels.new_zeros(b, 1, h, w))
