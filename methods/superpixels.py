"""Superpixels and what they say about an image's colours: SLIC, then k-means of mean colours.

SLIC is Algorithm 1 of Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel
Methods", TPAMI 2012, for a whole batch at once and without waiting for the device. Colours are
RGB in [0, 1] rather than CIELAB, because the budgets built on top cluster superpixels by average
RGB and one colour space should decide both; so compactness counts in units of that range, and
0.1 is about what 10 is in CIELAB.

Two deviations. A centre starts with the mean colour of its grid cell; the paper takes one
pixel's colour and therefore has to move seeds off edges and noise. Connectivity is not
enforced, since only areas and mean colours are used.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmark.contracts import Images, UserError

_FIXED_POINT = 2.0**24
_INFINITY_BITS = 0x7F800000


def cluster_budgets(
    pixels: Images,
    *,
    num_clusters: int,
    num_segments: int = 64,
    compactness: float = 0.1,
    slic_iterations: int = 5,
    kmeans_iterations: int = 10,
) -> Float[Tensor, "b k"]:
    """Share of the pixels in each of an image's main colours, largest first.

    Args:
        pixels: images in [0, 1].
        num_clusters: main colours per image; one with fewer distinct colours has shares of 0.
        num_segments: superpixels, about.
        compactness: weight of space against colour in SLIC.
        slic_iterations: rounds of SLIC.
        kmeans_iterations: rounds of k-means.
    """
    labels = slic(pixels, num_segments, compactness, slic_iterations)
    rows, columns = grid_shape(pixels.shape[2], pixels.shape[3], num_segments)
    mean_rgb, sizes = segment_means(pixels, labels, rows * columns)
    return cluster_shares(mean_rgb, sizes, num_clusters, kmeans_iterations)


def grid_shape(height: int, width: int, num_segments: int) -> tuple[int, int]:
    """Rows and columns of near-square cells, together about ``num_segments``.

    Raises:
        UserError: for no segments, or more than pixels.
    """
    if not 1 <= num_segments <= height * width:
        raise UserError(
            f"num_segments={num_segments} must lie between 1 and {height * width}, the pixels of "
            f"a {height}x{width} image; try one segment per 16 pixels"
        )
    step = math.sqrt(height * width / num_segments)
    return min(height, max(1, round(height / step))), min(width, max(1, round(width / step)))


def slic(
    pixels: Images, num_segments: int, compactness: float = 0.1, iterations: int = 5
) -> Int[Tensor, "b h w"]:
    """Superpixel of each pixel, numbered by the grid cell in which its centre starts.

    Args:
        pixels: images in [0, 1].
        num_segments: rounded to a grid, see ``grid_shape``; a segment may end up empty.
        compactness: how much colour, in [0, 1], weighs as much as one grid step of distance.
        iterations: rounds of moving the centres and assigning the pixels.

    Raises:
        UserError: for a number out of its range.
    """
    if compactness <= 0:
        raise UserError(f"compactness={compactness} must be above 0; try 0.1")
    if iterations < 1:
        raise UserError(f"slic_iterations={iterations} must be at least 1; try 5")
    pixels = pixels.float()
    b, _, h, w = pixels.shape
    rows, columns = grid_shape(h, w, num_segments)
    s = rows * columns
    step = math.sqrt(h * w / s)
    y = torch.arange(h, device=pixels.device)[:, None].expand(h, w)
    x = torch.arange(w, device=pixels.device).expand(h, w)
    cells = (y * rows // h) * columns + x * columns // w
    labels = cells.flatten().expand(b, -1)
    places = torch.stack([y, x]).to(pixels.dtype).expand(b, -1, -1, -1)
    features = torch.cat([pixels, places], dim=1).flatten(2)
    centres = features.new_zeros(b, 5, s)
    for _ in range(iterations):
        sums, counts = _segment_sums(features, labels, s)
        centres = torch.where(counts > 0, sums / counts, centres)
        labels = _assign(pixels, centres, labels, step, compactness)
    return labels.view(b, h, w)


def segment_means(
    pixels: Images, labels: Int[Tensor, "b h w"], num_segments: int
) -> tuple[Float[Tensor, "b s 3"], Float[Tensor, "b s"]]:
    """Mean colour and share of the pixels of every segment; an empty one is black."""
    sums, counts = _segment_sums(pixels.flatten(2), labels.flatten(1), num_segments)
    shares = counts[:, 0] / labels[0].numel()
    return (sums / counts.clamp(min=1)).transpose(1, 2), shares


def cluster_shares(
    mean_rgb: Float[Tensor, "b s 3"],
    sizes: Float[Tensor, "b s"],
    num_clusters: int,
    iterations: int = 10,
) -> Float[Tensor, "b k"]:
    """Size-weighted k-means of mean colours; the share of each cluster, largest first.

    Deterministic: each next start is the superpixel that contributes most to the cost so far,
    size times squared distance to the nearest start, the first one measured from the mean.
    Sums are written out rather than matrix products, which autocast would round to bfloat16.

    Raises:
        UserError: for a number out of its range.
    """
    if num_clusters < 1:
        raise UserError(f"num_clusters={num_clusters} must be at least 1; try 5")
    if iterations < 1:
        raise UserError(f"kmeans_iterations={iterations} must be at least 1; try 10")
    sizes = sizes / sizes.sum(1, keepdim=True)
    mean = (mean_rgb * sizes[..., None]).sum(1, keepdim=True)
    nearest = (mean_rgb - mean).square().sum(2)
    starts: list[Tensor] = []
    for _ in range(num_clusters):
        pick = (sizes * nearest).argmax(1)[:, None, None].expand(-1, 1, 3)
        starts.append(mean_rgb.gather(1, pick))
        distance = (mean_rgb - starts[-1]).square().sum(2)
        nearest = torch.minimum(nearest, distance) if starts[1:] else distance
    centres = torch.cat(starts, dim=1)
    members = _weighted_members(mean_rgb, sizes, centres)
    for _ in range(iterations):
        mass = members.sum(1)[..., None]
        sums = (members[..., None] * mean_rgb[:, :, None]).sum(1)
        centres = torch.where(mass > 0, sums / mass, centres)
        members = _weighted_members(mean_rgb, sizes, centres)
    return members.sum(1).sort(1, descending=True).values


def _weighted_members(
    points: Float[Tensor, "b s 3"], sizes: Float[Tensor, "b s"], centres: Float[Tensor, "b k 3"]
) -> Float[Tensor, "b s k"]:
    """Size of each point in the column of its nearest centre, the first on a tie; 0 elsewhere."""
    nearest = (points[:, :, None] - centres[:, None]).square().sum(3).argmin(2, keepdim=True)
    return (nearest == torch.arange(centres.shape[1], device=points.device)) * sizes[..., None]


def _segment_sums(
    values: Float[Tensor, "b c p"], labels: Int[Tensor, "b p"], num_segments: int
) -> tuple[Float[Tensor, "b c s"], Float[Tensor, "b 1 s"]]:
    """Sum and number of pixels of every segment.

    In integers, because a parallel scatter adds in any order and only for them is it the same.
    """
    counted = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    fixed = (counted * _FIXED_POINT).round().long()
    sums = fixed.new_zeros(*fixed.shape[:2], num_segments)
    sums.scatter_add_(2, labels[:, None].expand_as(fixed), fixed)
    totals = (sums / _FIXED_POINT).to(values.dtype)
    return totals[:, :-1], totals[:, -1:]


def _assign(
    pixels: Images,
    centres: Float[Tensor, "b 5 s"],
    labels: Int[Tensor, "b p"],
    step: float,
    compactness: float,
) -> Int[Tensor, "b p"]:
    """Closest centre (R, G, B, y, x) of each pixel among those within ``step`` on both axes.

    Goes through the windows of the centres, a few pixels each, rather than through all pairs of
    pixel and centre. A pixel in no window keeps its label, as in the authors' program.
    """
    b, _, h, w = pixels.shape
    s = centres.shape[2]
    device = pixels.device
    reach = torch.arange(math.floor(2 * step) + 1, device=device)
    places, far = [], []
    for position, size in zip(centres[:, 3:].unbind(1), (h, w), strict=True):
        place = (position - step).ceil()[..., None] + reach
        offset = place - position[..., None]
        outside = (offset > step) | (place < 0) | (place >= size)
        places.append(place.long().clamp(0, size - 1))
        far.append((offset * (compactness / step)).square().masked_fill(outside, math.inf))
    image = torch.arange(b, device=device)[:, None, None, None] * (h * w)
    index = (image + places[0][..., :, None] * w + places[1][..., None, :]).flatten()
    distance = far[0][..., :, None] + far[1][..., None, :]
    colours = pixels.transpose(0, 1).reshape(3, -1)
    for colour, centre in zip(colours, centres[:, :3].unbind(1), strict=True):
        found = colour.index_select(0, index).view_as(distance).sub_(centre[..., None, None])
        distance.addcmul_(found, found)
    # The bits of non-negative floats are ordered like the floats; with the centre in the low
    # digits, one scattered minimum finds the closest centre, the first on a tie.
    key = distance.view(torch.int32).long().mul_(s)
    key += torch.arange(s, device=device)[:, None, None]
    nobody = _INFINITY_BITS * s
    best = torch.full((b * h * w,), nobody, device=device)
    best = best.scatter_reduce(0, index, key.flatten(), "amin").view(b, h * w)
    return torch.where(best == nobody, labels, best % s)
