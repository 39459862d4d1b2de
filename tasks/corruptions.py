"""Disturbed images: parts hidden, parts moved, and corruptions at five severities.

All functions take and give pixels in [0, 1]; what they draw depends on the streams alone. Hidden
cells and noise are drawn alike for all strengths, so a stronger one is more of the weaker one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmark.contracts import Images
from benchmark.image_ops import gaussian_blur
from benchmark.streams import Streams


def occlude(
    pixels: Images, share: float, streams: Streams, *, cells: int, colour: Sequence[float]
) -> Images:
    """Hide random cells of a grid (patch drop of Naseer et al., arXiv 2105.10497).

    Args:
        pixels: in [0, 1].
        share: of the cells, rounded to whole ones; 0 hides none.
        streams: of the samples.
        cells: number of cells along a side.
        colour: what hidden pixels become.
    """
    order = streams.uniform("occlusion", cells**2).argsort(1)
    hidden = (order < round(share * cells**2)).unflatten(1, (cells, cells))
    rows, columns = (
        torch.arange(side, device=pixels.device) * cells // side for side in pixels.shape[2:]
    )
    filling = torch.stack([torch.full_like(pixels[:1, 0], value) for value in colour], dim=1)
    return torch.where(hidden[:, rows][:, :, columns][:, None], filling, pixels)


def shuffle_patches(pixels: Images, grid: int, streams: Streams) -> Images:
    """Rearrange the patches of a ``grid`` by ``grid`` division at random; 1 moves nothing."""
    height, width = (side // grid for side in pixels.shape[2:])
    order = streams.uniform(f"shuffle/{grid}", grid**2).argsort(1)
    patches = pixels.unflatten(3, (grid, width)).unflatten(2, (grid, height))
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # b, patches, 3, height, width
    moved = patches[torch.arange(len(order), device=order.device)[:, None], order]
    whole: Tensor = moved.unflatten(1, (grid, grid)).permute(0, 3, 1, 4, 2, 5)
    return whole.flatten(4, 5).flatten(2, 3)


def gaussian_noise(pixels: Images, std: float, streams: Streams) -> Images:
    """Add noise of a standard deviation to each channel of each pixel."""
    noise = streams.normal("gaussian noise", *pixels.shape[1:])
    return (pixels + std * noise).clamp(0, 1)


def blur(pixels: Images, sigma: float, streams: Streams) -> Images:
    """Gaussian blur up to 4 standard deviations, with reflected borders."""
    taps = 2 * int(4 * sigma + 0.5) + 1
    return gaussian_blur(pixels, torch.full((len(pixels),), sigma, device=pixels.device), taps)


def contrast(pixels: Images, factor: float, streams: Streams) -> Images:
    """Bring each channel closer to its mean over the image."""
    return torch.lerp(pixels.mean((2, 3), keepdim=True), pixels, factor).clamp(0, 1)


def brightness(pixels: Images, added: float, streams: Streams) -> Images:
    """Add to the value of HSV; hue and saturation stay."""
    value = pixels.amax(1, keepdim=True)
    raised = (value + added).clamp(max=1)
    # Colours scale with the value; black, which has no hue, becomes grey.
    return torch.where(value > 0, pixels * (raised / value.clamp(min=1e-6)), raised).clamp(0, 1)


def pixelate(pixels: Images, share: float, streams: Streams) -> Images:
    """Average over boxes, as many along a side as ``share`` of its pixels."""
    rows, columns = (
        _averaging(side, int(side * share), pixels.device) for side in pixels.shape[2:]
    )
    return rows @ pixels @ columns.mT


def _averaging(side: int, boxes: int, device: torch.device) -> Float[Tensor, "{side} {side}"]:
    """The matrix that gives each of ``side`` pixels the mean of the box in which its centre lies.

    What Pillow's box filter does to an image that is made smaller and larger again.
    """
    box = (2 * torch.arange(side, device=device) + 1) * max(boxes, 1) // (2 * side)
    together = (box[:, None] == box).float()
    return together / together.sum(1, keepdim=True)


# Pixels, a strength (a number of the kind that the function takes) and streams to pixels.
Disturb = Callable[[Tensor, Any, Streams], Tensor]

# Sides of the images for which Hendrycks and Dietterich (arXiv 1903.12261) chose strengths:
# CIFAR-10-C, ImageNet-64x64-C and ImageNet-C of github.com/hendrycks/robustness.
_SIDES = (32, 64, 224)
# The strengths of severities 1 to 5, a row for each of these sides.
CORRUPTIONS: dict[str, tuple[Disturb, Sequence[Sequence[float]]]] = {
    "gaussian_noise": (
        gaussian_noise,
        (
            (0.04, 0.06, 0.08, 0.09, 0.1),
            (0.04, 0.08, 0.12, 0.15, 0.18),
            (0.08, 0.12, 0.18, 0.26, 0.38),
        ),
    ),
    "gaussian_blur": (
        blur,
        ((0.4, 0.6, 0.7, 0.8, 1), (0.5, 0.75, 1, 1.25, 1.5), (1, 2, 3, 4, 6)),
    ),
    "contrast": (
        contrast,
        ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1, 0.05)),
    ),
    "brightness": (
        brightness,
        ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5)),
    ),
    "pixelate": (
        pixelate,
        ((0.95, 0.9, 0.85, 0.75, 0.65), (0.9, 0.8, 0.7, 0.6, 0.5), (0.6, 0.5, 0.4, 0.3, 0.25)),
    ),
}


def strengths(corruption: str, side: int) -> list[float]:
    """The strengths of severities 1 to 5 for images of ``side`` pixels.

    The published ones at 32, 64 and 224 pixels; between these sides interpolated linearly in the
    logarithm of the side, beyond them those of the nearest. Unlike the published images, disturbed
    ones are neither rounded to bytes nor compressed as JPEG, and the blur reflects the image at
    its borders instead of repeating the last pixel.
    """
    table: Float[np.ndarray, "3 5"] = np.array(CORRUPTIONS[corruption][1])
    places = np.log(_SIDES)
    return [float(np.interp(math.log(side), places, column)) for column in table.T]
