"""Operations on batches of images, against torchvision's on each image alone."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from benchmark.image_ops import (
    crop_boxes,
    crop_resize,
    flip,
    gaussian_blur,
    grayscale,
    jitter,
    shift_hue,
)
from benchmark.streams import Streams

TOLERANCE = 0.01 / 255
SIZES = (32, 96)  # of views


def noise(count: int, *size: int, seed: int = 0) -> Tensor:
    """Images of smooth and of rough noise, the last one black and the one before flat."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    images[::2] = tv.gaussian_blur(images[::2], [5, 5])
    images[-1], images[-2] = 0, 90
    return images


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("source", [(32, 32), (33, 40), (96, 96), (160, 120), (375, 500)])
@pytest.mark.parametrize("size", SIZES)
def test_crop_resize__is_torchvisions(
    size: int, source: tuple[int, int], mode: Literal["bicubic", "bilinear"]
) -> None:
    (height, width), images = source, noise(20, *source)
    boxes = crop_boxes(uniform(20, 10, 2), uniform(20, 2), source, 0.08, (3 / 4, 4 / 3))
    edges = [[0, 0, height, width], [5, 7, 1, 2], [height - 1, width - 1, 1, 1]]
    boxes[:3] = torch.tensor(edges)
    ours = crop_resize(images, boxes, size, mode)
    for image, box, got in zip(images, boxes.tolist(), ours, strict=True):
        expected = tv.resized_crop(
            image / 255, *box, [size, size], InterpolationMode(mode), antialias=True
        )
        assert_close(got, expected.clamp(0, 1))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
@pytest.mark.parametrize("size", SIZES)
def test_jitter__is_torchvisions_in_every_order(size: int, order: tuple[int, ...]) -> None:
    pixels = noise(12, size, size) / 255
    factors, shift = 1.8 * uniform(12, 3), uniform(12) - 0.5
    ours = jitter(pixels, factors, shift, torch.tensor(order).expand(12, -1))
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for k, expected in enumerate(pixels):
        for op in order:
            amount = shift[k] if op == 3 else factors[k, op]
            expected = operations[op](expected, amount.item())
        assert_close(ours[k], expected)


def test_jitter__each_image_has_its_own_order() -> None:
    pixels = noise(24, 16, 16) / 255
    factors, shift = 1.8 * uniform(24, 3), uniform(24) - 0.5
    orders = torch.tensor(list(itertools.permutations(range(4))))
    together = jitter(pixels, factors, shift, orders)
    for k in range(24):
        own = slice(k, k + 1)
        assert_close(together[own], jitter(pixels[own], factors[own], shift[own], orders[own]))


def test_jitter__without_hue_is_a_shift_of_zero() -> None:
    pixels, orders = noise(24, 16, 16) / 255, list(itertools.permutations(range(4)))
    factors = 1.8 * uniform(24, 3)
    plain = jitter(pixels, factors, None, torch.tensor(orders))
    assert_close(plain, jitter(pixels, factors, torch.zeros(24), torch.tensor(orders)))


def test_jitter__neutral_factors_change_nothing() -> None:
    pixels, order = noise(6, 16, 16) / 255, torch.arange(4).expand(6, -1)
    assert torch.equal(jitter(pixels, torch.ones(6, 3), None, order), pixels)
    assert_close(jitter(pixels, torch.ones(6, 3), torch.zeros(6), order), pixels)


def test_shift_hue__handles_equal_channels_and_whole_turns() -> None:
    levels = torch.tensor(list(itertools.product((0.0, 0.3, 1.0), repeat=3)))
    pixels = levels.T.reshape(1, 3, 1, 27)
    for shift in (-0.5, -1 / 3, -0.1, 0.0, 0.25, 0.5):
        assert_close(shift_hue(pixels, torch.tensor([shift])), tv.adjust_hue(pixels, shift))


@pytest.mark.parametrize("taps", [1, 5, 9, 23])
@pytest.mark.parametrize("size", [(12, 16), (32, 32), (96, 96)])
def test_gaussian_blur__is_torchvisions(size: tuple[int, int], taps: int) -> None:
    pixels, sigma = noise(8, *size) / 255, 0.1 + 1.9 * uniform(8)
    ours = gaussian_blur(pixels, sigma, taps)
    for image, s, got in zip(pixels, sigma, ours, strict=True):
        assert_close(got, tv.gaussian_blur(image, [taps, taps], [s.item()] * 2))


def test_gaussian_blur__sigma_zero_changes_nothing() -> None:
    pixels = noise(4, 12, 12) / 255
    assert torch.equal(gaussian_blur(pixels, torch.zeros(4), 9), pixels)


@pytest.mark.parametrize("size", [(12, 16), (32, 32), (96, 96)])
def test_grayscale_and_flip__change_the_chosen_images_only(size: tuple[int, int]) -> None:
    pixels, chosen = noise(4, *size) / 255, torch.tensor([True, False, True, False])
    grey, mirrored = grayscale(pixels, chosen), flip(pixels, chosen)
    assert_close(grey[chosen], tv.rgb_to_grayscale(pixels[chosen], 3))
    assert torch.equal(mirrored[chosen], tv.horizontal_flip(pixels[chosen]))
    assert torch.equal(grey[~chosen], pixels[~chosen])
    assert torch.equal(mirrored[~chosen], pixels[~chosen])


def box_in_loops(
    candidates: list[list[float]], corner: list[float], size: tuple[int, int], min_scale: float,
    ratio: tuple[float, float],
) -> list[int]:  # fmt: skip
    """RandomResizedCrop's parameters from given draws, as its documentation and code have it."""
    height, width = size
    for u, v in candidates:
        area = height * width * (min_scale + (1 - min_scale) * u)
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * v)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(corner[0] * (height - h + 1)), int(corner[1] * (width - w + 1))
            return [top, left, h, w]
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize("size", [(32, 32), (24, 50), (50, 24), (40, 44)])
@pytest.mark.parametrize("min_scale", [0.08, 0.95])
def test_crop_boxes__take_the_first_candidate_that_fits(
    size: tuple[int, int], min_scale: float
) -> None:
    candidates, corner, ratio = uniform(500, 3, 2), uniform(500, 2), (3 / 4, 4 / 3)
    ours = crop_boxes(candidates, corner, size, min_scale, ratio)
    expected = [
        box_in_loops(c, d, size, min_scale, ratio)
        for c, d in zip(candidates.tolist(), corner.tolist(), strict=True)
    ]
    assert ours.tolist() == expected


def test_crop_boxes__are_distributed_like_torchvisions() -> None:
    count, ratio = 4000, (3 / 4, 4 / 3)
    drawn = Streams(0, 0, torch.arange(count)).uniform("test", 11, 2)
    boxes = crop_boxes(drawn[:, :10], drawn[:, 10], (96, 96), 0.08, ratio).double()
    top, left, height, width = boxes.unbind(1)
    assert (boxes >= torch.tensor([0, 0, 1, 1])).all()
    assert (top + height <= 96).all()
    assert (left + width <= 96).all()
    # Half a pixel of rounding on either side of the bounds.
    assert ((height + 0.5) * (width + 0.5) / 96**2 >= 0.08).all()
    assert ((width + 0.5) / (height - 0.5) >= ratio[0]).all()
    assert ((width - 0.5) / (height + 0.5) <= ratio[1]).all()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.empty(3, 96, 96)
        reference = [
            RandomResizedCrop.get_params(image, [0.08, 1.0], list(ratio)) for _ in range(count)
        ]
    theirs = torch.tensor(reference, dtype=torch.float64)
    error = (boxes.var(0) / count + theirs.var(0) / count).sqrt()
    assert ((boxes.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    assert torch.allclose(boxes.std(0), theirs.std(0), rtol=0.06)
