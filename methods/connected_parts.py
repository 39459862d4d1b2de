"""Makes each superpixel one connected part, for a whole batch and without waiting for the device.

The main body of a segment is the part around its most inner pixel, the one farthest from other
segments. All that is cut off from it is adopted from the outside in: round by round, each
homeless pixel next to a main body joins the neighbour of the most similar colour. So what is
adopted is connected to a body, and a segment that is not empty ends as exactly one part.

Neighbours are the four that share a side. Images lie one behind the other in memory, and a pair
of neighbours is a pair of places 1 or w apart, or it is two edges that are no neighbours. All
steps are minima and logical operations: the same bytes whatever the order in which they run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from benchmark.contracts import Images

_NOBODY = 0x7FFFFFFF


@dataclass(frozen=True)
class _Pairs:
    """Pixels and those ``apart`` places further on.

    Attributes:
        apart: 1 for the right neighbour, w for the lower one.
        beside: whether the two are neighbours, and not at opposite edges.
        linked: whether they are and belong to the same segment.
    """

    apart: int
    beside: Bool[Tensor, "q"]
    linked: Bool[Tensor, "q"]


def connect(
    pixels: Images, labels: Int[Tensor, "b h w"], num_segments: int
) -> Int[Tensor, "b h w"]:
    """Labels of which each one in use is a single connected part and none has come or gone.

    Args:
        pixels: images, in the colour space that decides similarity.
        labels: segment of each pixel, below ``num_segments``.
        num_segments: also sets the number of rounds: bodies are found within two grid steps of
            their inner pixel, and adoption by similarity goes half a grid step deep. Whatever
            lies beyond joins the nearest body in its row, else in its column.
    """
    b, h, w = labels.shape
    step = math.ceil(math.sqrt(h * w / num_segments))
    flat = labels.flatten()
    pairs = [_pair(flat, apart, beside) for apart, beside in _beside(labels)]
    reached = _innermost(labels, pairs, num_segments, rounds=step)
    for _ in range(2 * step):
        for pair in pairs:
            reached[pair.apart :] |= reached[: -pair.apart] & pair.linked
            reached[: -pair.apart] |= reached[pair.apart :] & pair.linked
    owner = flat.int().masked_fill_(~reached, _NOBODY)
    owner = _adopt(pixels, owner, pairs, num_segments.bit_length(), rounds=step // 2)
    return _fill(owner.view(b, h, w)).contiguous().long()


def _beside(labels: Int[Tensor, "b h w"]) -> Sequence[tuple[int, Bool[Tensor, "q"]]]:
    b, h, w = labels.shape
    right = torch.arange(w, device=labels.device).expand(b, h, w) < w - 1
    below = torch.arange(h, device=labels.device)[:, None].expand(b, h, w) < h - 1
    return [(1, right.flatten()[:-1]), (w, below.flatten()[:-w])]


def _pair(flat: Int[Tensor, "n"], apart: int, beside: Bool[Tensor, "q"]) -> _Pairs:
    return _Pairs(apart, beside, (flat[apart:] == flat[:-apart]) & beside)


def _innermost(
    labels: Int[Tensor, "b h w"], pairs: Sequence[_Pairs], num_segments: int, rounds: int
) -> Bool[Tensor, "n"]:
    """The pixel of each segment that survives most rounds of erosion, the first on a tie."""
    b, h, w = labels.shape
    inner = torch.ones(labels.numel(), dtype=torch.bool, device=labels.device)
    depth = torch.zeros(labels.numel(), dtype=torch.int16, device=labels.device)
    edges = [(pair.apart, pair.linked, ~pair.beside) for pair in pairs]
    for _ in range(rounds):
        before = inner.clone()
        for apart, linked, outside in edges:
            inner[apart:] &= (before[:-apart] & linked) | outside
            inner[:-apart] &= (before[apart:] & linked) | outside
        depth += inner
    place = torch.arange(h * w, device=labels.device)
    key = (rounds - depth.view(b, h * w).long()) * (h * w) + place
    # Without pixels a segment keeps a key that stands for place 0 behind the last one.
    best = key.new_full((b, num_segments), (rounds + 1) * h * w)
    best.scatter_reduce_(1, labels.flatten(1), key, "amin")
    # Only a segment's own best key equals its pixel's, so no other pixel is marked.
    return (best.gather(1, labels.flatten(1)) == key).flatten()


def _adopt(
    pixels: Images, owner: Int[Tensor, "n"], pairs: Sequence[_Pairs], digits: int, rounds: int
) -> Int[Tensor, "n"]:
    """Pixels that nobody owns join, round by round, their most similar neighbour that is owned.

    A candidate is the squared difference in colour, as the bits of a float, with the owner in
    place of the last digits. So the smallest one is the most similar, the first on a tie.
    """
    planes = pixels.float().unbind(1)
    costs = []
    for pair in pairs:
        cost = torch.zeros(len(owner) - pair.apart, device=pixels.device)
        for plane in planes:
            cost += (plane.flatten()[pair.apart :] - plane.flatten()[: -pair.apart]).square_()
        bits = cost.view(torch.int32) & (-1 << digits)
        costs.append((pair.apart, bits.masked_fill_(~pair.beside, _NOBODY)))
    free = owner == _NOBODY
    for _ in range(rounds):
        best = torch.full_like(owner, _NOBODY)
        for apart, cost in costs:
            torch.minimum(best[apart:], owner[:-apart] | cost, out=best[apart:])
            torch.minimum(best[:-apart], owner[apart:] | cost, out=best[:-apart])
        found = best != _NOBODY
        owner = torch.where(free & found, best & ((1 << digits) - 1), owner)
        free &= ~found
    return owner


def _fill(owner: Int[Tensor, "b h w"]) -> Int[Tensor, "b h w"]:
    """Pixels that nobody owns join the closest owned one before them; four times, turned."""
    for _ in range(4):
        owner = owner.contiguous()
        place = torch.arange(1, owner.shape[2] + 1, device=owner.device, dtype=torch.int32)
        last = (place * (owner != _NOBODY)).cummax(2).indices
        owner = torch.rot90(owner.gather(2, last), 1, (1, 2))
    return owner
