"""Masks from filtered noise, as ColorMAE makes them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmark.contracts import MOST_MASKS, Batch, MaskingMethod, Proposal, Reduction
from benchmark.errors import UserError, at_least, at_most
from benchmark.schedule import Value
from benchmark.streams import Streams
from methods.grid import Grid

Colour = Literal["red", "green", "blue", "purple"]

_MOST_IMAGES = 2**16  # of noise


class ColourNoise(MaskingMethod):
    """Hide where coloured noise is highest (ColorMAE, arXiv 2407.13036).

    Two Gaussian blurs split white noise W into three bands: red is what the strong blur leaves,
    blue what the weak one takes away, green what lies between, and purple is W without green. So
    red hides large regions, blue scattered cells and green clusters of a few cells. Noise is
    filtered once, into a bank; a mask takes a window of a bank image, flipped or not, and hides
    exactly a share of it.

    The widths of the blurs are choices of this code, in units of cells. Bank images are periodic
    and a window may lie across their edge, so every cell is equally likely to be hidden.

    Args:
        image_size: side of the images in pixels.
        ratio: share of cells to hide, in (0, 1), constant or a ramp; rounded to whole cells.
        patch_size: side of a cell in pixels; must divide the image size; 1 is allowed.
        colour: "red", "green", "blue" or "purple".
        weak_sigma: standard deviation in cells of the blur that bounds the high frequencies.
        strong_sigma: of the blur that bounds the low frequencies.
        bank_size: noise images, the same for every seed.
        num_masks: independent masks per image.
        reduction: how the losses of the masks become one.

    Raises:
        UserError: for values out of range.
    """

    version = 1
    bank: Float[Tensor, "k s s"]

    def __init__(
        self,
        image_size: int,
        ratio: Value,
        patch_size: int,
        colour: Colour,
        weak_sigma: float,
        strong_sigma: float,
        bank_size: int,
        num_masks: int = 1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.grid = Grid(image_size, patch_size)
        self.ratio = self.grid.read_ratio(ratio)
        if not 0 < weak_sigma < strong_sigma:
            raise UserError(
                f"method.weak_sigma={weak_sigma} must be above 0 and below "
                f"method.strong_sigma={strong_sigma}"
            )
        at_least(1, "method.", bank_size=bank_size, num_masks=num_masks)
        at_most(_MOST_IMAGES, "method.", bank_size=bank_size)
        at_most(MOST_MASKS, "method.", num_masks=num_masks)
        self.num_masks = num_masks
        self.reduction = reduction
        period = 2 * self.grid.side
        white = Streams(0, 0, torch.arange(bank_size)).normal("mask/noise/bank", period, period)
        bank = colour_noise(white, colour, weak_sigma, strong_sigma)
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, batch: Batch) -> Proposal:
        """Take a window of the bank for each mask."""
        which, *place = batch.streams.uniform("mask/noise", self.num_masks, 5).unbind(-1)
        image = (which * len(self.bank)).long()[..., None, None]
        rows = self._window(place[0], place[1])[..., :, None]
        columns = self._window(place[2], place[3])[..., None, :]
        values = self.bank[image, rows, columns].flatten(2)
        masks = self.grid.hide_highest(values, self.grid.count(self.ratio.at(batch.progress)))
        return Proposal(masks.to(batch.pixels.dtype))

    def _window(
        self, start: Float[Tensor, "b n"], flip: Float[Tensor, "b n"]
    ) -> Int[Tensor, "b n g"]:
        """Consecutive places on the circle of a bank image, upwards or downwards."""
        period = self.bank.shape[-1]
        step = torch.where(flip < 0.5, 1, -1)[..., None]
        at = torch.arange(self.grid.side, device=start.device)
        return ((start * period).long()[..., None] + step * at) % period


def colour_noise(
    white: Float[Tensor, "k s s"], colour: str, weak_sigma: float, strong_sigma: float
) -> Float[Tensor, "k s s"]:
    """Filter white noise; the sum of red, green and blue is the noise itself.

    Raises:
        UserError: for an unknown colour.
    """
    weak, strong = blur(white, weak_sigma), blur(white, strong_sigma)
    bands = {
        "red": strong,
        "green": weak - strong,
        "blue": white - weak,
        "purple": white - (weak - strong),
    }
    if colour not in bands:
        raise UserError(f"method.colour={colour} is not one of {', '.join(get_args(Colour))}")
    return bands[colour]


def blur(images: Float[Tensor, "k s s"], sigma: float) -> Float[Tensor, "k s s"]:
    """Gaussian blur of periodic images."""
    at = torch.arange(images.shape[-1], dtype=torch.float64)
    distance = (at[:, None] - at).abs()
    distance = distance.minimum(len(at) - distance)
    weights = (-0.5 * (distance / sigma).square()).exp()
    weights /= weights.sum(1, keepdim=True)
    return (weights @ images.double() @ weights.T).float()
