"""The regular grid of square cells that masks are made on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from benchmark.errors import UserError
from benchmark.schedule import Ramp, Value


@dataclass(frozen=True)
class Grid:
    """A square image cut into square cells, which are numbered row by row.

    Attributes:
        image_size: side of the image in pixels.
        patch_size: side of a cell in pixels; must divide the image size.

    Raises:
        UserError: if it does not.
    """

    image_size: int
    patch_size: int

    def __post_init__(self) -> None:
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise UserError(
                f"method.patch_size={self.patch_size} must divide the image size {self.image_size}"
            )

    @property
    def side(self) -> int:
        """Cells per side."""
        return self.image_size // self.patch_size

    @property
    def cells(self) -> int:
        """Cells in all."""
        return self.side**2

    def count(self, ratio: float) -> int:
        """The whole number of cells that comes closest to a share of the image."""
        return round(ratio * self.cells)

    def read_ratio(self, value: Value) -> Ramp:
        """Read ``method.ratio``, a share of the cells, constant or a ramp.

        Raises:
            UserError: if it is no share, or at any time hides no cell or every cell.
        """
        ramp = Ramp.share("method.ratio", value)
        for ratio in ramp.ends:
            if not 0 < self.count(ratio) < self.cells:
                raise UserError(
                    f"method.ratio={ratio} hides {self.count(ratio)} of {self.cells} cells; "
                    "choose a smaller patch_size or another ratio"
                )
        return ramp

    def hide_highest(
        self, scores: Float[Tensor, "b n cells"], count: int
    ) -> Float[Tensor, "b n h w"]:
        """Masks that hide exactly ``count`` cells, those with the highest scores."""
        first = scores.argsort(dim=-1, descending=True, stable=True)[..., :count]
        hidden = torch.zeros_like(scores, dtype=torch.float32).scatter(-1, first, 1.0)
        return self.expand(hidden.unflatten(-1, (self.side, self.side)))

    def expand(self, cells: Float[Tensor, "b n g g"]) -> Float[Tensor, "b n h w"]:
        """Give every pixel the value of its cell."""
        return cells.repeat_interleave(self.patch_size, 2).repeat_interleave(self.patch_size, 3)

    def pool(self, values: Float[Tensor, "b h w"]) -> Float[Tensor, "b cells"]:
        """Mean of each cell's pixels."""
        shape = (self.side, self.patch_size, self.side, self.patch_size)
        return values.reshape(-1, *shape).mean((2, 4)).flatten(1)

    def blocks(
        self,
        area: Float[Tensor, "*k"],
        aspect: Float[Tensor, "*k"],
        place: Float[Tensor, "*k 2"],
    ) -> Bool[Tensor, "*k g g"]:
        """Rectangles of whole cells inside the grid.

        Args:
            area: cells that a rectangle should have, before its sides are rounded and limited.
            aspect: its height over its width.
            place: where it lies, down and across, uniform in [0, 1) for every place equally likely.
        """
        height = (area * aspect).sqrt().round().clamp(1, self.side)
        width = (area / aspect).sqrt().round().clamp(1, self.side)
        top = (place[..., 0] * (self.side - height + 1)).floor()
        left = (place[..., 1] * (self.side - width + 1)).floor()
        return rectangles(self.side, top, left, height, width)


def rank(scores: Float[Tensor, "*b n"]) -> Int[Tensor, "*b n"]:
    """Place of each score in falling order; of equal scores the first leads."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def rectangles(
    side: int,
    top: Float[Tensor, "*k"],
    left: Float[Tensor, "*k"],
    height: Float[Tensor, "*k"],
    width: Float[Tensor, "*k"],
) -> Bool[Tensor, "*k s s"]:
    """What lies inside rectangles on a square of ``side`` by ``side``, which may cut them off."""
    at = torch.arange(side, device=top.device)
    rows = (at >= top[..., None]) & (at < (top + height)[..., None])
    columns = (at >= left[..., None]) & (at < (left + width)[..., None])
    return rows[..., :, None] & columns[..., None, :]
