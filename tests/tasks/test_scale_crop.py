from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.streams import Streams
from tasks.scale_crop import IGNORE, ScaleCrop

HEIGHT, WIDTH = 12, 16


def streams(count: int, *, seed: int = 0, epoch: int = 0, first: int = 0) -> Streams:
    return Streams(seed, epoch, torch.arange(first, first + count))


def coordinates(count: int) -> tuple[Tensor, Tensor]:
    """Images that show where each pixel comes from: row, column and 1; the truth is the row."""
    rows, columns = torch.meshgrid(
        torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij"
    )
    image = torch.stack([rows, columns, torch.ones_like(rows)])
    truth = rows.long().to(torch.uint8)
    return image.expand(count, -1, -1, -1), truth.expand(count, -1, -1)


def augmented(count: int = 64, **settings: Any) -> tuple[Tensor, Tensor]:
    images, truth = coordinates(count)
    return ScaleCrop(**{"flip_prob": 0.0} | settings)(images, truth, streams(count))


def test_call__flips_image_and_truth_together() -> None:
    truth = torch.arange(WIDTH).expand(200, HEIGHT, -1).to(torch.uint8)
    images = truth[:, None].expand(-1, 3, -1, -1).float()
    flipped, labels = ScaleCrop(0.3)(images, truth, streams(200))
    assert torch.equal(flipped[:, 0], labels.float())
    mirrored = (labels == truth.flip(2)).all((1, 2))
    assert torch.equal(mirrored, ~(labels == truth).all((1, 2)))
    assert 0.2 < mirrored.float().mean() < 0.4


def test_call__a_crop_at_scale_1_is_a_window() -> None:
    images, truth = augmented(crop_size=8)
    assert images.shape == (64, 3, 8, 8)
    tops = set()
    for image, labels in zip(images, truth, strict=True):
        top, left = round(float(image[0, 0, 0]) - 0.5), round(float(image[1, 0, 0]) - 0.5)
        tops.add((top, left))
        whole, rows = coordinates(1)
        window = (slice(top, top + 8), slice(left, left + 8))
        torch.testing.assert_close(image, whole[0][:, *window], atol=1e-4, rtol=0)
        assert torch.equal(labels, rows[0][window])
    # All places occur: rows 0 to 4 and columns 0 to 8.
    assert {top for top, _ in tops} == set(range(HEIGHT - 8 + 1))
    assert {left for _, left in tops} == set(range(WIDTH - 8 + 1))


@pytest.mark.parametrize("bounds", [(0.5, 2.0), (0.4, 0.6), (1.5, 3.0)])
def test_call__image_and_truth_stay_aligned(bounds: tuple[float, float]) -> None:
    low, high = bounds
    images, truth = augmented(256, crop_size=10, min_scale=low, max_scale=high, flip_prob=0.5)
    inside = images[:, 2] > 0.999  # not mixed with the padding
    assert (truth[images[:, 2] < 1e-4] == IGNORE).all()
    assert (truth[inside] != IGNORE).all()
    # The row of the nearest pixel differs from the interpolated one by half a pixel at most.
    apart = (images[:, 0][inside] - truth[inside].float() - 0.5).abs()
    assert apart.max() <= 0.5 + 1e-3
    # One step to the right is 1 / factor pixels of the image: all of the range, and evenly drawn.
    both = inside[:, 5, 5] & inside[:, 5, 6]
    step = (images[:, 1, 5, 6] - images[:, 1, 5, 5])[both].abs()
    factors = 1 / step
    slack = 1 / WIDTH / low  # sides are rounded to whole pixels
    assert low - slack < factors.min() < low + 0.2 * (high - low)
    assert high + slack > factors.max() > high - 0.2 * (high - low)


def test_call__what_is_smaller_than_the_crop_is_shown_whole() -> None:
    images, truth = augmented(128, min_scale=0.5, max_scale=0.5)
    assert images.shape[2:] == (HEIGHT, WIDTH)
    counted = truth != IGNORE
    assert (counted.sum((1, 2)) == HEIGHT // 2 * WIDTH // 2).all()
    rows = counted.any(2)
    tops = rows.int().argmax(1)
    assert torch.equal(rows.sum(1), torch.full((128,), HEIGHT // 2))
    assert set(tops.tolist()) == set(range(HEIGHT // 2 + 1))


def test_call__ignored_pixels_stay_ignored() -> None:
    images, truth = coordinates(8)
    truth = torch.full_like(truth, IGNORE)
    _, labels = ScaleCrop(0.5, 8, 0.5, 2.0)(images, truth, streams(8))
    assert (labels == IGNORE).all()


def test_call__draws_belong_to_sample_epoch_and_seed() -> None:
    images, truth = coordinates(6)
    augment = ScaleCrop(0.5, 8, 0.5, 2.0)
    whole, labels = augment(images, truth, streams(6))
    part, some = augment(images[4:], truth[4:], streams(2, first=4))
    torch.testing.assert_close(whole[4:], part, atol=0, rtol=0)
    assert torch.equal(labels[4:], some)
    for other in (streams(6, seed=1), streams(6, epoch=1)):
        assert not torch.equal(augment(images, truth, other)[0], whole)


def test_scale_crop__says_what_it_does() -> None:
    assert str(ScaleCrop(0.5)) == "flipped with probability 0.5"
    assert str(ScaleCrop(0.5, 320, 0.5, 2.0)) == (
        "flipped with probability 0.5, scaled by a factor from 0.5 to 2, cropped to 320 pixels, "
        "padded with ignored pixels"
    )
    assert "cropped to their own size" in str(ScaleCrop(0.5, None, 0.5, 2.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((2.0,), r"flip_prob=2\.0 must lie between 0 and 1"),
        ((0.5, 0), "crop_size=0 must be at least 1, or null"),
        ((0.5, 8, 0.0, 1.0), "min_scale=0 and max_scale=1 must be above 0"),
        ((0.5, 8, 2.0, 1.0), "min_scale=2 and max_scale=1 must be above 0, the smaller one first"),
    ],
)
def test_scale_crop__refuses(settings: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ScaleCrop(*settings)
