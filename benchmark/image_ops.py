"""Operations on whole batches of images, each with its own parameters for each image.

They equal torchvision's on float images. Every operation is a pure function of pixels and
parameters, and nothing branches on a value, so the device is never waited for: an image that an
operation spares gets the parameters that change nothing.

Selections are written as ``lerp`` with a weight of 0 or 1, which is exact, because
``torch.where`` on whole images is some ten times slower on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from benchmark.contracts import Images

_GREY = (0.2989, 0.587, 0.114)


def crop_boxes(
    candidates: Float[Tensor, "b n 2"],
    corner: Float[Tensor, "b 2"],
    size: tuple[int, int],
    min_scale: float,
    ratio: Sequence[float],
) -> Int[Tensor, "b 4"]:
    """Crops (top, left, height, width) as ``torchvision.transforms.RandomResizedCrop``'s.

    Args:
        candidates: uniform draws for area and aspect ratio; the first that fits is taken, and
            where none does the largest centred crop with an allowed ratio.
        corner: uniform draws for the place of the crop.
        size: height and width of the image.
        min_scale: smallest share of the image's area.
        ratio: smallest and largest width / height.
    """
    full_height, full_width = size
    area = full_height * full_width * (min_scale + (1 - min_scale) * candidates[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * candidates[..., 1])
    largest_height = min(full_height, round(full_width / ratio[0]))
    largest_width = min(full_width, round(full_height * ratio[1]))
    # The largest crop fits, so listed last it is the first that fits where no other does.
    height = F.pad((area / aspect).sqrt().round(), (0, 1), value=largest_height)
    width = F.pad((area * aspect).sqrt().round(), (0, 1), value=largest_width)
    fits = (width > 0) & (width <= full_width) & (height > 0) & (height <= full_height)
    first = fits.int().argmax(dim=1, keepdim=True)
    height, width = height.gather(1, first).long(), width.gather(1, first).long()
    room = torch.cat([full_height - height, full_width - width], dim=1)
    drawn = (corner * (room + 1)).long()
    place = torch.where(first == candidates.shape[1], room // 2, drawn)
    return torch.cat([place, height, width], dim=1)


def crop_resize(
    images: UInt8[Tensor, "b 3 H W"],
    boxes: Int[Tensor, "b 4"],
    size: int,
    mode: Literal["bicubic", "bilinear"] = "bicubic",
) -> Float[Tensor, "b 3 {size} {size}"]:
    """Cut out each image's box and resize it, with antialiasing, to [0, 1]."""
    top, left, height, width = boxes.unbind(1)
    kernel = {"bicubic": _keys, "bilinear": _triangle}[mode]
    rows = _weights(top, height, images.shape[2], size, kernel)
    columns = _weights(left, width, images.shape[3], size, kernel)
    return _separable(images / 255, rows, columns)


def _weights(
    start: Int[Tensor, "b"],
    length: Int[Tensor, "b"],
    size_in: int,
    size_out: int,
    kernel: Callable[[Tensor], Tensor],
) -> Float[Tensor, "b {size_out} {size_in}"]:
    """What each output pixel takes from each input pixel along one axis.

    The kernel is widened by the scale where that shrinks the image. Pixels outside of the crop have
    no weight; those inside are rescaled to a sum of 1.
    """
    scale = (length / size_out)[:, None]
    stretch = scale.clamp(min=1)
    taken = torch.arange(size_in, device=start.device) - start[:, None]
    outside = (taken < 0) | (taken >= length[:, None])
    taken = ((taken + 0.5) / stretch).masked_fill_(outside, math.inf)
    centre = (torch.arange(size_out, device=start.device) + 0.5) * scale / stretch
    weights = kernel((taken[:, None] - centre[..., None]).abs_())
    return weights.div_(weights.sum(2, keepdim=True))


def _keys(distance: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5."""
    # 1.5 x^3 - 2.5 x^2 + 1 below 1, in terms of 1 - x, and from there to 2
    # -0.5 (x - 1) (2 - x)^2, in terms of 2 - x.
    near = (1 - distance).clamp_(min=0)
    far = (2 - distance).clamp_(0, 1)
    weights = (near * -1.5).add_(2).mul_(near).add_(0.5).mul_(near)
    return weights.addcmul_(far.square(), far - 1, value=0.5)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_(min=0)


def jitter(
    pixels: Images,
    factors: Float[Tensor, "b 3"],
    shift: Float[Tensor, "b"] | None,
    order: Int[Tensor, "b 4"],
) -> Images:
    """ColorJitter with an order of its own for each image.

    Hue is shifted once for all, between the blends that come before it and those after it.

    Args:
        pixels: images in [0, 1].
        factors: brightness, contrast, saturation; 1 changes nothing.
        shift: hue, in turns; None to leave it.
        order: the operation done k-th: 0 brightness, 1 contrast, 2 saturation, 3 hue.
    """
    place = torch.arange(3, device=order.device)
    hue_place = (order == 3).int().argmax(dim=1, keepdim=True)
    late = place >= hue_place
    blends = order.gather(1, place + late.long())
    factors = factors.gather(1, blends)
    if shift is None:
        return _blend_in_turn(pixels, blends, factors)
    pixels = _blend_in_turn(pixels, blends, torch.where(late, 1.0, factors))
    pixels = shift_hue(pixels, shift)
    return _blend_in_turn(pixels, blends, torch.where(late, factors, 1.0))


def _blend_in_turn(
    pixels: Images, blends: Int[Tensor, "b 3"], factors: Float[Tensor, "b 3"]
) -> Images:
    """Blend with black (0, brightness), mean grey (1, contrast), grey (2, saturation) in turn."""
    turns = (factors, (blends == 1).float(), (blends == 2).float())
    turns_by_place = (turn.view(-1, 3, 1, 1, 1).unbind(1) for turn in turns)
    for factor, contrast, saturation in zip(*turns_by_place, strict=True):
        grey = _grey(pixels)
        mean = contrast * grey.mean((2, 3), keepdim=True)
        target = grey.mul_(saturation).add_(mean)
        pixels = torch.lerp(target, pixels, factor).clamp_(0, 1)
    return pixels


def shift_hue(pixels: Images, shift: Float[Tensor, "b"]) -> Images:
    """Turn the hue of the HSV hexagon by ``shift`` turns; value and saturation stay."""
    r, g, b = pixels.unbind(1)
    value = torch.maximum(torch.maximum(r, g), b)
    lowest = torch.minimum(torch.minimum(r, g), b)
    chroma = value - lowest
    # The hue in sixths of a turn, times chroma, by which channel is the largest. Where two are,
    # their formulas agree.
    below_g = (value - g).sign_()
    below_r = (value - r).sign_()
    from_g, from_b = (b - r).add_(chroma, alpha=2), (r - g).add_(chroma, alpha=4)
    hue = torch.lerp(from_g, from_b, below_g)
    hue = torch.lerp(g - b, hue, below_r)
    turns = hue.div_((6 * chroma).clamp_(min=torch.finfo(chroma.dtype).tiny))
    turns += shift[:, None, None] + 1  # from -1/6 - 1/2 at least, so frac() sees no negative
    hue = turns.frac_().mul_(6)
    red = (hue - 3).abs_().sub_(1).clamp_(0, 1)
    green = (2 - (hue - 2).abs_()).clamp_(0, 1)
    blue = (2 - (hue - 4).abs_()).clamp_(0, 1)
    return torch.stack([torch.addcmul(lowest, chroma, c) for c in (red, green, blue)], dim=1)


def grayscale(pixels: Images, chosen: Bool[Tensor, "b"]) -> Images:
    """Replace the colours of the chosen images by their luma."""
    return torch.lerp(pixels, _grey(pixels), chosen.float()[:, None, None, None])


def _grey(pixels: Images) -> Float[Tensor, "b 1 h w"]:
    r, g, b = pixels.split(1, dim=1)
    return torch.add(r * _GREY[0], g, alpha=_GREY[1]).add_(b, alpha=_GREY[2])


def gaussian_blur(pixels: Images, sigma: Float[Tensor, "b"], taps: int) -> Images:
    """Blur with an odd number of taps and reflected borders; a ``sigma`` of 0 changes nothing."""
    offsets = torch.arange(taps, device=pixels.device) - taps // 2
    kernel = ((offsets / sigma.clamp(min=1e-3)[:, None]).square() / -2).softmax(dim=1)
    return _correlate(_correlate(pixels, kernel, dim=2), kernel, dim=3).clamp_(0, 1)


def _correlate(pixels: Images, kernel: Float[Tensor, "b t"], dim: Literal[2, 3]) -> Images:
    """Slide each image's own kernel along rows (2) or columns (3), reflected at the borders.

    A sum of shifted images: a matrix product would multiply mostly with zeros.
    """
    size, around = pixels.shape[dim], kernel.shape[1] // 2
    padding = (0, 0, around, around) if dim == 2 else (around, around, 0, 0)
    padded = F.pad(pixels, padding, mode="reflect")
    first, *others = kernel.view(*kernel.shape, 1, 1, 1).unbind(1)
    total = padded.narrow(dim, 0, size) * first
    for start, weight in enumerate(others, start=1):
        total.addcmul_(padded.narrow(dim, start, size), weight)
    return total


def flip(pixels: Images, chosen: Bool[Tensor, "b"]) -> Images:
    """Mirror the chosen images left to right."""
    return torch.lerp(pixels, pixels.flip(3), chosen.float()[:, None, None, None])


def _separable(
    pixels: Float[Tensor, "b 3 H W"],
    rows: Float[Tensor, "b h H"],
    columns: Float[Tensor, "b w W"],
) -> Float[Tensor, "b 3 h w"]:
    """Multiply each image by two matrices of its own, one per axis, and clamp to [0, 1]."""
    across = torch.bmm(pixels.flatten(1, 2), columns.mT).unflatten(1, (3, -1))
    return torch.matmul(rows[:, None], across).clamp_(0, 1)
