"""A context block without the target blocks, as I-JEPA shows it."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from benchmark.contracts import Batch, MaskingMethod, Proposal
from benchmark.errors import UserError, at_least, at_most
from methods.grid import Grid, rank

_MOST_TARGETS = 1000


class MultiBlock(MaskingMethod):
    """Show a large block minus several smaller ones (I-JEPA, arXiv 2301.08243, sec. 3).

    I-JEPA's context encoder sees a context block from which the target blocks are removed, and
    predicts what the target encoder, which sees the whole image, makes of the targets. In a
    two-view objective the clean view is the target encoder's input and the masked view the context
    encoder's; the prediction is of the whole image at once, so an image has one mask, not one loss
    for each target. Everything outside the remaining context is hidden, which with the paper's
    numbers is 54% of the image on average; there is no ratio to set.

    Each image and block has a size of its own, area and aspect ratio drawn apart; the released
    code gives a batch one size, from one draw.

    Args:
        image_size: side of the images in pixels.
        patch_size: side of a cell in pixels; must divide the image size.
        num_targets: target blocks.
        target_scale: smallest and largest share of the image in a target block.
        target_aspect: smallest and largest height over width of a target block.
        context_scale: smallest and largest share of the image in the context block, a square.
        min_visible: cells that stay visible even where the targets cover the context: those of
            the context that the fewest targets cover.

    Raises:
        UserError: for values out of range.
    """

    version = 1
    num_masks = 1

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_targets: int,
        target_scale: Sequence[float],
        target_aspect: Sequence[float],
        context_scale: Sequence[float],
        min_visible: int,
    ) -> None:
        super().__init__()
        self.grid = Grid(image_size, patch_size)
        at_least(1, "method.", num_targets=num_targets)
        at_most(_MOST_TARGETS, "method.", num_targets=num_targets)
        if not 1 <= min_visible < self.grid.cells:
            raise UserError(
                f"method.min_visible={min_visible} must be at least 1 and less than the "
                f"{self.grid.cells} cells of an image"
            )
        self.num_targets = num_targets
        self.target_scale = _range("target_scale", target_scale, 1.0)
        self.target_aspect = _range("target_aspect", target_aspect, float("inf"))
        self.context_scale = _range("context_scale", context_scale, 1.0)
        self.min_visible = min_visible

    def forward(self, batch: Batch) -> Proposal:
        """Hide what is outside the context or inside a target."""
        draws = batch.streams.uniform("mask/multiblock", 1 + self.num_targets, 4)
        context = self._blocks(draws[:, :1], self.context_scale, (1.0, 1.0))
        targets = self._blocks(draws[:, 1:], self.target_scale, self.target_aspect)
        outside = (1 + self.num_targets) * ~context
        reasons = (targets.sum(1, keepdim=True) + outside).float()
        spared = rank(-reasons.flatten(2)) < self.min_visible
        hidden = (reasons > 0) & ~spared.view_as(reasons)
        return Proposal(self.grid.expand(hidden.to(batch.pixels.dtype)))

    def _blocks(
        self,
        draws: Float[Tensor, "b k 4"],
        scale: tuple[float, float],
        aspect: tuple[float, float],
    ) -> Bool[Tensor, "b k g g"]:
        share = scale[0] + draws[..., 0] * (scale[1] - scale[0])
        height_to_width = aspect[0] + draws[..., 1] * (aspect[1] - aspect[0])
        return self.grid.blocks(share * self.grid.cells, height_to_width, draws[..., 2:])


def _range(key: str, ends: Sequence[float], limit: float) -> tuple[float, float]:
    pair = isinstance(ends, Sequence) and [type(end) in (int, float) for end in ends] == [True] * 2
    if not (pair and 0 < ends[0] <= ends[1] <= limit):
        allowed = "above 0" if limit == float("inf") else f"above 0 and up to {limit:g}"
        raise UserError(f"method.{key}={ends} must be two numbers {allowed}, the smaller one first")
    return float(ends[0]), float(ends[1])
