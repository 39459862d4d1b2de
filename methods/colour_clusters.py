"""Main colours: k-means of the mean colours of superpixels, and the spaces to measure them in.

Sums are written out rather than matrix products, which autocast would round to bfloat16.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmark.contracts import Images
from benchmark.errors import UserError

ColourSpace = Literal["rgb", "lab"]

# sRGB to CIE XYZ (IEC 61966-2-1), each row divided by the white point D65.
_TO_XYZ = (
    (0.412453 / 0.95047, 0.357580 / 0.95047, 0.180423 / 0.95047),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.08883, 0.119193 / 1.08883, 0.950227 / 1.08883),
)


def in_colour_space(pixels: Images, colour: ColourSpace) -> Images:
    """RGB in [0, 1] as it is, or as CIELAB under D65, whose lightness goes from 0 to 100."""
    if colour == "rgb":
        return pixels
    curve = ((pixels.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    r, g, b = torch.where(pixels > 0.04045, curve, pixels / 12.92).unbind(1)
    x, y, z = (_lightness(row[0] * r + row[1] * g + row[2] * b) for row in _TO_XYZ)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _lightness(t: Tensor) -> Tensor:
    """CIELAB's f: the cube root, and a straight line near 0 (CIE 15)."""
    return torch.where(t > (6 / 29) ** 3, t.clamp(min=1e-3) ** (1 / 3), t * 841 / 108 + 4 / 29)


def kmeans(
    means: Float[Tensor, "b s 3"],
    sizes: Float[Tensor, "b s"],
    num_clusters: int,
    iterations: int = 10,
) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b s"]]:
    """Size-weighted k-means of mean colours: share and members of each cluster, largest first.

    Deterministic: each next start is the superpixel that contributes most to the cost so far,
    size times squared distance to the nearest start, the first one measured from the mean.

    Args:
        means: mean colour of each superpixel.
        sizes: their sizes in any unit; one of size 0 counts nowhere.
        num_clusters: k; where there are fewer distinct colours, the last clusters are empty.
        iterations: rounds of moving the centres and assigning the superpixels.

    Returns:
        The share of each cluster, and the cluster of each superpixel.

    Raises:
        UserError: for a number out of its range.
    """
    if num_clusters < 1:
        raise UserError(f"num_clusters={num_clusters} must be at least 1; try 5")
    if iterations < 1:
        raise UserError(f"kmeans_iterations={iterations} must be at least 1; try 10")
    sizes = sizes / sizes.sum(1, keepdim=True)
    mean = (means * sizes[..., None]).sum(1, keepdim=True)
    nearest = (means - mean).square().sum(2)
    starts: list[Tensor] = []
    for _ in range(num_clusters):
        pick = (sizes * nearest).argmax(1)[:, None, None].expand(-1, 1, 3)
        starts.append(means.gather(1, pick))
        distance = (means - starts[-1]).square().sum(2)
        nearest = torch.minimum(nearest, distance) if starts[1:] else distance
    centres = torch.cat(starts, dim=1)
    cluster, weights = _assign(means, sizes, centres)
    for _ in range(iterations):
        mass = weights.sum(1)[..., None]
        sums = (weights[..., None] * means[:, :, None]).sum(1)
        centres = torch.where(mass > 0, sums / mass, centres)
        cluster, weights = _assign(means, sizes, centres)
    shares, order = weights.sum(1).sort(dim=1, descending=True, stable=True)
    return shares, order.argsort(1).gather(1, cluster)


def _assign(
    means: Float[Tensor, "b s 3"], sizes: Float[Tensor, "b s"], centres: Float[Tensor, "b k 3"]
) -> tuple[Int[Tensor, "b s"], Float[Tensor, "b s k"]]:
    """Nearest centre of each point, the first on a tie, and the point's size in its column."""
    nearest = (means[:, :, None] - centres[:, None]).square().sum(3).argmin(2)
    columns = torch.arange(centres.shape[1], device=means.device)
    return nearest, (nearest[..., None] == columns) * sizes[..., None]
