"""Superpixels: SLIC for a whole batch, and the main colours of an image made of them.

SLIC is Algorithm 1 of Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel
Methods", TPAMI 2012, for all images at once and without waiting for the device. A centre starts
with the mean colour of its grid cell; the paper takes one pixel's colour and therefore has to
move seeds off edges and noise. The paper leaves connectivity to "a post processing step": here
that is `connected_parts.connect`.

Colours are RGB in [0, 1] unless CIELAB is asked for. The unit of compactness is that of the
colours: 0.1 in RGB is about what 10 is in CIELAB, scikit-image's default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmark.contracts import Images, Masks
from benchmark.errors import UserError, at_most
from methods.colour_clusters import ColourSpace, in_colour_space, kmeans
from methods.connected_parts import connect

SuperpixelsOf = Literal["view", "image"]

_MOST_SEGMENTS = 2**15  # numbered from 0 they are kept in 16 bits
_MOST_ITERATIONS = 1000
_FIXED_POINT = 2.0**24
_INFINITY_BITS = 0x7F800000
# Pixels that a CPU, of which the cache is small, takes at once; a GPU takes all images.
_CACHED_PIXELS = 2**18


@dataclass(frozen=True)
class ColourClusters:
    """Clusters of an image's superpixels by their mean colour.

    Attributes:
        num_segments: superpixels per image, about.
        compactness: weight of space against colour in SLIC, in units of the colour space.
        slic_iterations: rounds of SLIC; 0 for the cells of a grid.
        kmeans_iterations: rounds of k-means.
        colour: space in which superpixels and their clusters are formed.
        connected: whether superpixels are.
    """

    num_segments: int = 64
    compactness: float = 0.1
    slic_iterations: int = 5
    kmeans_iterations: int = 10
    colour: ColourSpace = "rgb"
    connected: bool = True

    def check(self, prefix: str) -> None:
        """Refuse what needs no image to be wrong.

        Args:
            prefix: of the settings' names in the message, as "method.".

        Raises:
            UserError: for values out of range.
        """
        if self.num_segments > _MOST_SEGMENTS:
            raise UserError(
                f"{prefix}num_segments={self.num_segments} must be at most {_MOST_SEGMENTS}; try "
                "one segment per 16 pixels"
            )
        if self.compactness <= 0 or self.slic_iterations < 0 or self.kmeans_iterations < 1:
            raise UserError(
                f"{prefix}compactness={self.compactness} and kmeans_iterations="
                f"{self.kmeans_iterations} must be positive, slic_iterations="
                f"{self.slic_iterations} not negative"
            )
        at_most(
            _MOST_ITERATIONS,
            prefix,
            slic_iterations=self.slic_iterations,
            kmeans_iterations=self.kmeans_iterations,
        )

    @property
    def finds(self) -> str:
        """Names the superpixels: the settings of SLIC, and a number to raise when it changes."""
        return (
            f"slic 1 {self.num_segments} {self.compactness} {self.slic_iterations} {self.colour} "
            f"{self.connected}"
        )

    def segment(self, pixels: Images) -> Int[Tensor, "b h w"]:
        """Superpixel of each pixel of images in [0, 1], RGB."""
        return self._slic(in_colour_space(pixels, self.colour))

    def shares(
        self, pixels: Images, num_clusters: int, superpixels: Int[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b k"]:
        """Share of the pixels in each cluster, largest first.

        Args:
            pixels: images in [0, 1], RGB.
            num_clusters: per image; one with fewer distinct colours has shares of 0.
            superpixels: of the images; None to find them.
        """
        return self._find(pixels, num_clusters, superpixels)[0]

    def masks(
        self, pixels: Images, num_clusters: int, superpixels: Int[Tensor, "b h w"] | None = None
    ) -> Masks:
        """Pixels of each cluster; together they are all pixels, their mean areas the shares."""
        _, labels, cluster = self._find(pixels, num_clusters, superpixels)
        shown = cluster.gather(1, labels.flatten(1)).view_as(labels)
        ranks = torch.arange(num_clusters, device=pixels.device)[:, None, None]
        return (shown[:, None] == ranks).to(pixels.dtype)

    def _slic(self, colours: Images) -> Int[Tensor, "b h w"]:
        return slic(
            colours,
            self.num_segments,
            self.compactness,
            self.slic_iterations,
            connected=self.connected,
        )

    def _find(
        self, pixels: Images, num_clusters: int, superpixels: Int[Tensor, "b h w"] | None
    ) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b h w"], Int[Tensor, "b s"]]:
        """Shares, the superpixel of each pixel, and the cluster of each superpixel."""
        colours = in_colour_space(pixels, self.colour)
        labels = self._slic(colours) if superpixels is None else superpixels
        rows, columns = grid_shape(pixels.shape[2], pixels.shape[3], self.num_segments)
        means, sizes = segment_means(colours, labels, rows * columns)
        shares, cluster = kmeans(means, sizes, num_clusters, self.kmeans_iterations)
        return shares, labels, cluster


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
    pixels: Images,
    num_segments: int,
    compactness: float = 0.1,
    iterations: int = 5,
    *,
    colour: ColourSpace = "rgb",
    connected: bool = True,
) -> Int[Tensor, "b h w"]:
    """Superpixel of each pixel, numbered by the grid cell in which its centre starts.

    Args:
        pixels: images, RGB in [0, 1].
        num_segments: rounded to a grid, see ``grid_shape``; a segment may end up empty.
        compactness: how much colour weighs as much as one grid step of distance.
        iterations: rounds of moving the centres and assigning the pixels; 0 leaves the grid.
        colour: "lab" measures colour in CIELAB, "rgb" in the pixels' own space.
        connected: whether each segment is made one connected part.

    Raises:
        UserError: for a number out of its range.
    """
    if compactness <= 0:
        raise UserError(f"compactness={compactness} must be above 0; try 0.1, or 10 in CIELAB")
    if iterations < 0:
        raise UserError(
            f"slic_iterations={iterations} must not be negative; try 5, or 0 for a grid"
        )
    colours = in_colour_space(pixels.float(), colour)
    grid = grid_shape(pixels.shape[2], pixels.shape[3], num_segments)
    at_once = len(pixels)
    if pixels.device.type == "cpu":
        at_once = max(1, _CACHED_PIXELS // pixels[0, 0].numel())
    segments = [_slic(part, grid, compactness, iterations) for part in colours.split(at_once)]
    if connected:
        parts = zip(colours.split(at_once), segments, strict=True)
        segments = [connect(part, labels, grid[0] * grid[1]) for part, labels in parts]
    return torch.cat(segments)


def _slic(
    pixels: Images, grid: tuple[int, int], compactness: float, iterations: int
) -> Int[Tensor, "b h w"]:
    """Superpixels that may be in several parts."""
    b, _, h, w = pixels.shape
    rows, columns = grid
    s = rows * columns
    y = torch.arange(h, device=pixels.device)[:, None].expand(h, w)
    x = torch.arange(w, device=pixels.device).expand(h, w)
    cells = (y * rows // h) * columns + x * columns // w
    labels = cells.flatten().expand(b, -1)
    places = torch.stack([y, x]).to(pixels.dtype).expand(b, -1, -1, -1)
    features = _fixed_point(torch.cat([pixels, places], dim=1).flatten(2))
    centres = pixels.new_zeros(b, 5, s)
    step = math.sqrt(h * w / s)
    for _ in range(iterations):
        sums, counts = _segment_sums(features, labels, s)
        centres = torch.where(counts > 0, sums / counts, centres)
        labels = _assign(pixels, centres, labels, step, compactness)
    return labels.view(b, h, w)


def segment_means(
    pixels: Images, labels: Int[Tensor, "b h w"], num_segments: int
) -> tuple[Float[Tensor, "b s 3"], Float[Tensor, "b s"]]:
    """Mean colour and share of the pixels of every segment; an empty one is black."""
    fixed = _fixed_point(pixels.float().flatten(2))
    sums, counts = _segment_sums(fixed, labels.flatten(1), num_segments)
    shares = counts[:, 0] / labels[0].numel()
    return (sums / counts.clamp(min=1)).transpose(1, 2), shares


def _fixed_point(values: Float[Tensor, "b c p"]) -> Int[Tensor, "b d p"]:
    """Values, and a 1 as one channel more, as integers.

    A parallel scatter adds in any order, and only for integers is the sum the same.
    """
    counted = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    return (counted * _FIXED_POINT).round().long()


def _segment_sums(
    fixed: Int[Tensor, "b d p"], labels: Int[Tensor, "b p"], num_segments: int
) -> tuple[Float[Tensor, "b c s"], Float[Tensor, "b 1 s"]]:
    """Sum and number of pixels of every segment."""
    sums = fixed.new_zeros(*fixed.shape[:2], num_segments)
    sums.scatter_add_(2, labels[:, None].expand_as(fixed), fixed)
    totals = sums / _FIXED_POINT
    return totals[:, :-1], totals[:, -1:]


def _assign(
    pixels: Images,
    centres: Float[Tensor, "b 5 s"],
    labels: Int[Tensor, "b p"],
    step: float,
    compactness: float,
) -> Int[Tensor, "b p"]:
    """Closest centre (colour, y, x) of each pixel among those within ``step`` on both axes.

    Goes through the windows of the centres, a few pixels each, rather than through all pairs of
    pixel and centre. A pixel in no window keeps its label, as in the authors' program.
    """
    b, _, h, w = pixels.shape
    s = centres.shape[2]
    device = pixels.device
    starts, far = [], []
    for position, size in zip(centres[:, 3:].unbind(1), (h, w), strict=True):
        reach = min(size, math.floor(2 * step) + 1)
        start = (position - step).ceil().clamp(0, size - reach)
        offset = (start - position)[..., None] + torch.arange(reach, device=device)
        outside = offset.abs() > step
        starts.append(start.long())
        far.append((offset * (compactness / step)).square().masked_fill(outside, math.inf))
    distance = far[0][..., :, None] + far[1][..., None, :]
    lines, columns = (torch.arange(n, device=device) for n in distance.shape[2:])
    window = lines[:, None] * w + columns
    corner = starts[0] * w + starts[1]
    index = (corner[..., None] + window.flatten()).flatten(1)
    images = torch.arange(b, device=device)[:, None, None] * (h * w)
    line = images + corner[..., None] + window[:, 0]
    for channel, centre in enumerate(centres[:, :3].unbind(1)):
        # Whole lines of windows are cheaper to copy than single pixels.
        found = pixels[:, channel].flatten().unfold(0, len(columns), 1)[line]
        found -= centre[..., None, None]
        distance.addcmul_(found, found)
    # The bits of non-negative floats are ordered like the floats; with the centre in the low
    # digits, one scattered minimum finds the closest centre, the first on a tie.
    digits = s.bit_length()
    key = distance.view(torch.int32).long().bitwise_left_shift_(digits)
    key |= torch.arange(s, device=device)[:, None, None]
    best = labels | ((_INFINITY_BITS - 1) << digits)
    best.scatter_reduce_(1, index, key.flatten(1), "amin")
    return best & ((1 << digits) - 1)
