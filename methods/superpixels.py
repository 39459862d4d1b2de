"""Superpixels and what they say about an image's colours: SLIC, then k-means of mean colours.

SLIC is Algorithm 1 of Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel
Methods", TPAMI 2012, for a whole batch at once and without waiting for the device. Colours are
RGB in [0, 1] rather than CIELAB, because the budgets built on top cluster superpixels by average
RGB and one colour space should decide both; so compactness counts in units of that range, and
0.1 is about what 10 is in CIELAB.

Deviations: a centre starts with the mean colour of its grid cell, where the paper takes the
colour of one pixel and moves the seed off edges for want of a robust one; connectivity is not
enforced, because only areas and mean colours are used.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmark.contracts import Images, UserError

_FIXED_POINT = 2.0**24
_NOBODY = torch.iinfo(torch.int64).max


def grid_shape(height: int, width: int, num_segments: int) -> tuple[int, int]:
    """Rows and columns of near-square cells, about ``num_segments`` of them.

    Raises:
        UserError: if there are not between 1 and one per pixel.
    """
    if not 1 <= num_segments <= height * width:
        raise UserError(
            f"num_segments={num_segments} must lie in 1..{height * width}, the pixels of a "
            f"{height}x{width} image; choose about one per 16 pixels"
        )
    step = math.sqrt(height * width / num_segments)
    return min(height, max(1, round(height / step))), min(width, max(1, round(width / step)))


def _segment_sums(
    values: Float[Tensor, "b c p"], labels: Int[Tensor, "b p"], num_segments: int
) -> tuple[Float[Tensor, "b c s"], Float[Tensor, "b 1 s"]]:
    """Sum and pixel count of every segment.

    Integer sums do not depend on the order of addition, which a parallel scatter leaves open.
    """
    counted = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    fixed = (counted * _FIXED_POINT).round().long()
    sums = fixed.new_zeros(*fixed.shape[:2], num_segments)
    sums.scatter_add_(2, labels[:, None].expand_as(fixed), fixed)
    totals = sums / _FIXED_POINT
    return totals[:, :-1], totals[:, -1:]


def _nearest_centre(
    pixels: Images, centres: Float[Tensor, "b 5 s"], labels: Int[Tensor, "b p"], *,
    step: float, compactness: float,
) -> Int[Tensor, "b p"]:
    """Assign each pixel to the closest centre (R, G, B, y, x) whose window holds the pixel.

    Works through the windows, not through all pairs of pixel and centre. Distance and centre go
    into one integer, so that a scattered minimum finds the closest centre, the first on a tie.
    A pixel in no window keeps its label, as in the authors' program.
    """
    b, _, h, w = pixels.shape
    s = centres.shape[2]
    device = pixels.device
    reach = torch.arange(math.floor(2 * step) + 1, device=device)
    places, squares, inside = [], [], []
    for position, size in zip(centres[:, 3:].unbind(1), (h, w), strict=True):
        place = (position - step).ceil()[..., None] + reach
        distance = place - position[..., None]
        places.append(place.long().clamp(0, size - 1))
        squares.append(distance.square())
        inside.append((distance <= step) & (place >= 0) & (place < size))
    first = torch.arange(b, device=device)[:, None, None, None] * (h * w)
    index = (first + places[0][..., None] * w + places[1][..., None, :]).flatten()
    colours = pixels.transpose(0, 1).reshape(3, -1)
    distance = (squares[0][..., None] + squares[1][..., None, :]).mul_((compactness / step) ** 2)
    for colour, centre in zip(colours, centres[:, :3].unbind(1), strict=True):
        found = colour.index_select(0, index).view_as(distance).sub_(centre[..., None, None])
        distance.addcmul_(found, found)
    # The bits of non-negative floats are ordered like the floats.
    key = distance.view(torch.int32).long().mul_(s).add_(torch.arange(s, device=device)[:, None, None])
    key.masked_fill_(~(inside[0][..., None] & inside[1][..., None, :]), _NOBODY)
    best = torch.full((b * h * w,), _NOBODY, device=device)
    best = best.scatter_reduce(0, index, key.flatten(), "amin").view(b, h * w)
    return torch.where(best == _NOBODY, labels, best % s)
