"""What a net sees of images as they are: the view of the data set, normalised."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from benchmark.contracts import Images


def plain_view(
    images: UInt8[Tensor, "b 3 H W"], size: int | None, view: Literal["whole", "centre"]
) -> Images:
    """Un-augmented images in [0, 1], ``size`` pixels wide; None leaves them as they are.

    Args:
        images: square images.
        size: side of the result.
        view: "whole" resizes, bicubic with antialiasing; "centre" cuts the central square out.
    """
    if size in (None, images.shape[-1]):
        return images / 255
    assert size is not None
    if view == "centre":
        start = (images.shape[-1] - size) // 2
        return images[..., start : start + size, start : start + size] / 255
    resized = F.interpolate(images / 255, size=(size, size), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)


def plain_segments(
    segments: UInt8[Tensor, "b H W"], size: int | None, view: Literal["whole", "centre"]
) -> UInt8[Tensor, "b h w"]:
    """The same view of the objects of pixels, that at each pixel's centre."""
    if size in (None, segments.shape[-1]):
        return segments
    assert size is not None
    if view == "centre":
        start = (segments.shape[-1] - size) // 2
        return segments[..., start : start + size, start : start + size]
    sampled = F.interpolate(segments[:, None].float(), size=(size, size), mode="nearest-exact")
    return sampled[:, 0].to(torch.uint8)


def normalise(
    pixels: Images, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Images:
    """Zero mean and unit variance over a data set with these statistics."""
    # Numbers rather than tensors: making a tensor on a GPU from numbers waits for the device.
    planes = zip(pixels.unbind(1), mean, std, strict=True)
    return torch.stack([(plane - m) / s for plane, m, s in planes], dim=1)
