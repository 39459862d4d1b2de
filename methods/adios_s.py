"""ADIOS-s: ADIOS at the price of one mask (Shi et al., arXiv 2201.13100, section 3.3)."""

from __future__ import annotations

from dataclasses import replace

from benchmark.contracts import Batch, Proposal
from methods.adios import Adios


class AdiosS(Adios):
    """Of the N masks of an image a random one counts, for both players; penalties see all.

    So the penalties weigh N times as much against the one loss as in ADIOS, as in the published
    code. That code draws the slot anew for the adversary's turn; here both turns share the draw,
    and with it one forward of the mask net.

    The arguments are those of `Adios`.
    """

    version = 1

    def forward(self, batch: Batch) -> Proposal:
        """Propose N masks and choose one for each image."""
        proposal = super().forward(batch)
        _, n, h, w = proposal.masks.shape
        slot = (batch.streams.uniform("mask/adios_s") * n).long()
        index = slot[:, None, None, None].expand(-1, 1, h, w)
        return replace(proposal, shown=proposal.masks.gather(1, index))
