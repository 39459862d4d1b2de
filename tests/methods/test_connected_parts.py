"""Superpixels made connected, against a slow oracle and by property."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor

from methods.connected_parts import connect
from methods.superpixels import slic


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def photos(height: int, width: int) -> Tensor:
    """Crops of a photograph, at half its size."""
    photo = torch.from_numpy(load_sample_image("china.jpg")[::2, ::2].copy()).permute(2, 0, 1)
    corners = [(20, 20), (60, 110), (100, 200), (150, 60)]
    return torch.stack([photo[:, y : y + height, x : x + width] for y, x in corners]) / 255


def neighbours(y: int, x: int, h: int, w: int) -> list[tuple[int, int]]:
    near = [(y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)]
    return [(v, u) for v, u in near if 0 <= v < h and 0 <= u < w]


def body(labels: list[list[int]], start: tuple[int, int]) -> set[tuple[int, int]]:
    """The connected part of equal labels around a pixel."""
    h, w = len(labels), len(labels[0])
    found, todo = {start}, [start]
    while todo:
        y, x = todo.pop()
        for v, u in neighbours(y, x, h, w):
            if labels[v][u] == labels[y][x] and (v, u) not in found:
                found.add((v, u))
                todo.append((v, u))
    return found


def connect_in_loops(image: Tensor, labels: list[list[int]], segments: int) -> list[list[int]]:
    """Main bodies, adoption and filling, pixel by pixel."""
    h, w = len(labels), len(labels[0])
    rgb = image.double().permute(1, 2, 0).tolist()
    step = math.ceil(math.sqrt(h * w / segments))
    places = [(y, x) for y in range(h) for x in range(w)]
    owner: dict[tuple[int, int], int] = {}
    for k in sorted({value for row in labels for value in row}):
        others = [(y, x) for y, x in places if labels[y][x] != k]
        own = [(y, x) for y, x in places if labels[y][x] == k]
        deep = [min([step, *(abs(y - v) + abs(x - u) - 1 for v, u in others)]) for y, x in own]
        owner |= dict.fromkeys(body(labels, own[deep.index(max(deep))]), k)
    for _ in range(step // 2):
        adopted = {}
        for y, x in places:
            if (y, x) not in owner:
                near = [p for p in neighbours(y, x, h, w) if p in owner]
                costs = [(math.dist(rgb[y][x], rgb[v][u]) ** 2, owner[v, u]) for v, u in near]
                if costs:
                    adopted[y, x] = min(costs)[1]
        owner |= adopted
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        for y, x in places if dy + dx > 0 else places[::-1]:
            if (y, x) not in owner and (y - dy, x - dx) in owner:
                owner[y, x] = owner[y - dy, x - dx]
    return [[owner[y, x] for x in range(w)] for y in range(h)]


def fragments(kind: str, height: int = 14, width: int = 18) -> tuple[Tensor, Tensor, int]:
    """Images of few colours, so that squares are exact and ties common, with labels to connect."""
    images = (noise(4, 3, height, width, seed=3) * 8).floor() / 8
    if kind == "slic":
        return images, slic(images, 6, 0.05, connected=False), 6
    if kind == "two colours":
        return images, (images[:, 0] > 0.4).long(), 2
    labels = (noise(4, height, width, seed=4) * 9).long()
    return images, labels.repeat_interleave(2, 2)[..., :width], 9


@pytest.mark.parametrize("kind", ["slic", "two colours", "random"])
def test_connect__is_what_loops_find(kind: str) -> None:
    images, labels, segments = fragments(kind)
    found = connect(images, labels, segments)
    assert not torch.equal(found, labels)
    for image, given, got in zip(images, labels, found, strict=True):
        assert got.tolist() == connect_in_loops(image, given.tolist(), segments)


def is_one_part_each(before: Tensor, after: Tensor) -> bool:
    """Whether the labels in use are the same as before and each is a single connected part."""
    rows = after.tolist()
    first = {k: (y, x) for y in reversed(range(len(rows))) for x, k in enumerate(rows[y])}
    same_labels = set(before.unique().tolist()) == set(first)
    return same_labels and sum(len(body(rows, start)) for start in first.values()) == after.numel()


def spiral(size: int) -> Tensor:
    """One long arm of 1, one pixel wide, in a field of 0."""
    arm, y, x, dy, dx = torch.zeros(size, size, dtype=torch.long), 0, 0, 0, 1
    for length in [size - 1, *(n for k in range(size - 1, 1, -2) for n in (k, k))]:
        for _ in range(length):
            arm[y, x] = 1
            y, x = y + dy, x + dx
        dy, dx = dx, -dy
    return arm


@pytest.mark.parametrize("segments", [1, 7, 64, 700])
@pytest.mark.parametrize("compactness", [0.001, 0.1])
def test_slic__every_segment_is_one_connected_part(compactness: float, segments: int) -> None:
    images = torch.cat([photos(24, 32), noise(4, 3, 24, 32)])
    before = slic(images, segments, compactness, connected=False)
    for given, got in zip(before, slic(images, segments, compactness), strict=True):
        assert is_one_part_each(given, got)


@pytest.mark.parametrize("segments", [2, 30, 1024])
def test_connect__leaves_one_part_however_hard_it_is(segments: int) -> None:
    coarse = (torch.arange(32)[:, None] // 16 + torch.arange(32) // 16) % 2
    stripes = (torch.arange(32)[:, None] % 2).expand(32, 32)
    rare = torch.zeros(32, 32, dtype=torch.long)
    rare[31, 0] = 1
    labels = [spiral(32), coarse, stripes, (noise(32, 32) * 2).long(), rare, torch.ones_like(rare)]
    for given in labels:
        got = connect(noise(1, 3, 32, 32), given[None], segments)[0]
        assert is_one_part_each(given, got)


def test_connect__changes_nothing_that_is_connected() -> None:
    labels = (torch.arange(33)[:, None] // 4) * 10 + torch.arange(47) // 5
    assert torch.equal(connect(noise(2, 3, 33, 47), labels.expand(2, 33, 47), 90)[1], labels)


def test_connect__a_fragment_joins_the_neighbour_it_resembles() -> None:
    image = torch.zeros(1, 3, 12, 24)
    image[..., 8:16] = 0.3
    image[..., 16:] = 1.0
    image[..., 4:6, 15] = 0.9
    labels = (torch.arange(24) // 8).expand(1, 12, 24).clone()
    labels[..., 4:6, 15] = 0
    expected = labels.clone()
    expected[..., 4:6, 15] = 2
    assert torch.equal(connect(image, labels, 3), expected)
