"""Each image under the masks of another one: does it matter what a mask hides?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from benchmark.contracts import Batch, MaskingMethod, Proposal
from benchmark.errors import UserError


class Swapped(MaskingMethod):
    """The encoder trains each image under the masks that another method made for a neighbour.

    Shapes, areas and number of the masks stay, what they cover becomes arbitrary, as under the
    random regions of Context Encoders (arXiv 1604.07379, sec. 3.3) and the shuffled masks of the
    ADIOS code. The inner method's adversary trains as ever on the images that its masks are for.

    The neighbour is the batch's next image: the order of a batch is random anyway.

    Args:
        inner: the method that makes the masks.
    """

    version = 1
    same_masks = False

    def __init__(self, inner: MaskingMethod) -> None:
        super().__init__()
        self.inner = inner
        self.num_masks = inner.num_masks
        self.segmenter = inner.segmenter
        self.reduction = inner.reduction

    @property
    def needs(self) -> tuple[Literal["segments", "loss_gradient"], ...]:  # type: ignore[override]
        """What the inner method needs."""
        return self.inner.needs

    def forward(self, batch: Batch) -> Proposal:
        """Propose the inner method's masks, and for the encoder each to the image before.

        Raises:
            UserError: for a batch of one image, which has no neighbour.
        """
        if len(batch.index) < 2:
            raise UserError(
                "method=swapped takes masks from another image, but the batch has 1 image alone; "
                "use a batch_size of at least 2"
            )
        proposal: Proposal = self.inner(batch)
        return replace(proposal, trained=proposal.encoder_masks.roll(1, 0))

    def penalties(self, proposal: Proposal) -> dict[str, Tensor]:
        """Those of the inner method."""
        return self.inner.penalties(proposal)

    def costly_nets(self) -> Iterable[nn.Module]:
        """Those of the inner method."""
        return self.inner.costly_nets()

    def after_step(self, proposal: Proposal) -> None:
        """Pass on what the inner method had proposed."""
        self.inner.after_step(proposal)
