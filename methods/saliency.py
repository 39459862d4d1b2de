"""Masks by saliency without a network: the spectral residual of Hou and Zhang, CVPR 2007."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from benchmark.contracts import Batch, Images, MaskingMethod, Proposal
from benchmark.schedule import Value
from methods.grid import Grid

Hidden = Literal["salient", "background"]

_SIDE = 64  # pixels; the paper's size of an image, at which objects are what stands out
_SIGMA = 2.5  # of the smoothing in those pixels, as in the authors' program; the paper says 8
_FLOOR = 1e-5  # of the amplitude: above float32's rounding, below that of 8-bit pixels


def saliency_map(pixels: Images) -> Float[Tensor, "b h w"]:
    """Saliency of each pixel, measured on the mean of the channels at 64 pixels or fewer a side."""
    size = min(_SIDE, pixels.shape[-1])
    grey = F.interpolate(pixels.mean(1, keepdim=True), (size, size), mode="area")
    salient = spectral_residual(grey[:, 0], sigma=_SIGMA * size / _SIDE)
    return F.interpolate(salient[:, None], pixels.shape[2:], mode="bilinear")[:, 0]


def spectral_residual(
    grey: Float[Tensor, "b n n"], sigma: float = _SIGMA
) -> Float[Tensor, "b n n"]:
    """``S = g * |F^-1[exp(L - h * L + iP)]|^2``, L the log amplitude and P the phase of F[grey].

    Up to a factor. h is the 3x3 average; a spectrum is periodic, so it wraps around, where the
    authors' program repeats the border. g is a Gaussian to which, as in that program, nothing
    beyond the image contributes: the image's ends do not meet, which shows as saliency there.
    """
    spectrum = torch.fft.fft2(grey, norm="ortho")
    log_amplitude = spectrum.abs().clamp(min=_FLOOR).log()
    around = F.pad(log_amplitude[:, None], (1, 1, 1, 1), mode="circular")
    average = F.avg_pool2d(around, 3, stride=1)[:, 0]
    # exp(L + iP) is the spectrum itself.
    power = torch.fft.ifft2(spectrum * (-average).exp(), norm="ortho").abs().square()
    place = torch.arange(grey.shape[-1], device=grey.device)
    smooth = ((place[:, None] - place).square() / (-2 * sigma**2)).exp()
    smoothed: Tensor = smooth @ power @ smooth.mT
    return smoothed


class Saliency(MaskingMethod):
    """Hide the most salient cells of a grid, or the least salient ones.

    Chin et al. (arXiv 2309.12757) mask by saliency for ConvNets, but localise objects with a
    frozen network, spread a mask over foreground and background, and use masks of the foreground
    for negatives. Here nothing is learned and one mask is either kind alone.

    Args:
        image_size: side of the images in pixels.
        ratio: share of cells to hide, in (0, 1), rounded to whole cells; may be a ramp.
        patch_size: side of a cell in pixels; must divide the image size.
        hide: "salient" or "background".

    Raises:
        UserError: for values out of range.
    """

    version = 1
    num_masks = 1

    def __init__(
        self, image_size: int, ratio: Value, patch_size: int, hide: Hidden = "salient"
    ) -> None:
        super().__init__()
        self.grid = Grid(image_size, patch_size)
        self.ratio = self.grid.read_ratio(ratio)
        self.hide = hide

    @torch.no_grad()
    def forward(self, batch: Batch) -> Proposal:
        """Rank the cells of view 1 by their mean saliency."""
        # Matrix products would be rounded to bfloat16 inside an autocast region.
        with torch.autocast(batch.pixels.device.type, enabled=False):
            scores = self.grid.pool(saliency_map(batch.pixels[1]))[:, None]
        count = self.grid.count(self.ratio.at(batch.progress))
        masks = self.grid.hide_highest(scores if self.hide == "salient" else -scores, count)
        return Proposal(masks.to(batch.pixels.dtype))
