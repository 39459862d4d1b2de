"""How a mask hides: what the hidden pixels become."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from benchmark.contracts import Images, Masks
from benchmark.errors import UserError
from benchmark.streams import Streams

KINDS = ("zero", "mean", "blur", "noise")


@dataclass(frozen=True)
class Fill:
    """What a hidden pixel becomes, the same for every mask of an image and for both players.

    Attributes:
        kind: "zero" is the mean colour of the data set, as in the ADIOS code; "mean" is that of
            the image; "blur" is the blurred image, which keeps layout and colour but no detail;
            "noise" is Gaussian noise with the data set's mean and variance.
        blur_sigma: standard deviation of the blur in sides of the image.

    Raises:
        UserError: for an unknown kind or a blur that is none or wider than the image.
    """

    kind: str = "zero"
    blur_sigma: float = 0.125

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"fill={self.kind} is not one of {', '.join(KINDS)}")
        if not 0 < self.blur_sigma <= 0.25:
            raise UserError(f"fill_blur_sigma={self.blur_sigma} must be above 0 and at most 0.25")

    def __call__(self, images: Images, streams: Streams) -> Images | None:
        """What to show instead of normalised ``images``; None for zero."""
        if self.kind == "zero":
            return None
        if self.kind == "mean":
            return images.mean((2, 3), keepdim=True).expand_as(images)
        if self.kind == "noise":
            return streams.normal("fill/noise", *images.shape[1:]).to(images.dtype)
        sigma = self.blur_sigma * images.shape[-1]
        with torch.autocast(images.device.type, enabled=False):
            taps = 2 * math.ceil(3 * sigma) + 1
            for kernel in ([taps, 1], [1, taps]):  # two passes instead of one of taps squared
                images = gaussian_blur(images, kernel, [sigma, sigma])
        return images


def hide(images: Images, masks: Masks, filling: Images | None = None) -> Float[Tensor, "n b 3 h w"]:
    """Each image under each of its masks; hidden pixels become ``filling``, or 0 without one."""
    weights = masks.transpose(0, 1).unsqueeze(2)
    shown = images * (1 - weights)
    return shown if filling is None else shown + filling * weights
