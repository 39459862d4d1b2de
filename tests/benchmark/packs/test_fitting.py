"""How images and their ground truth become squares, against slow definitions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from benchmark.packs.fitting import FILL, square
from benchmark.sources.source import Sample

SIZES = [(32, 32), (33, 32), (100, 64), (64, 211), (7, 9), (16, 5), (240, 180)]  # width, height


def sample(size, seed=0):
    draw = np.random.default_rng(seed)
    width, height = size
    return Sample(
        Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8)),
        draw.integers(0, 20, (height, width), np.uint8),
        draw.integers(0, 9, (height, width), np.uint8),
    )


def nearest(truth, height, width):
    """Each pixel takes the value under its centre."""
    found = np.empty((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            row = (y + Fraction(1, 2)) * truth.shape[0] / height
            column = (x + Fraction(1, 2)) * truth.shape[1] / width
            found[y, x] = truth[int(row), int(column)]
    return found


@pytest.mark.parametrize("size", SIZES)
def test_square__crop_keeps_the_centre_of_image_and_truth(size):
    given = sample(size)
    width, height = (side * 32 // min(size) for side in size)
    top, left = (height - 32) // 2, (width - 32) // 2
    scaled = np.asarray(given.image.resize((width, height), Image.Resampling.BICUBIC))
    found = square(given, 32, "crop").arrays
    expected = scaled[top : top + 32, left : left + 32].transpose(2, 0, 1)
    assert np.array_equal(found["images"], expected)
    for name in ("pixel_labels", "segments"):
        whole = nearest(getattr(given, name), height, width)
        assert np.array_equal(found[name], whole[top : top + 32, left : left + 32])


@pytest.mark.parametrize("size", SIZES)
def test_square__pad_scales_down_and_fills_up(size):
    given = sample(size)
    longer = max(size)
    width, height = (side * 32 // longer if longer > 32 else side for side in size)
    scaled = np.asarray(given.image.resize((width, height), Image.Resampling.BICUBIC))
    found = square(given, 32, "pad")
    inside = np.zeros((32, 32), bool)
    inside[:height, :width] = True
    images = found.arrays["images"]
    assert np.array_equal(images[:, :height, :width], scaled.transpose(2, 0, 1))
    assert (images[:, ~inside] == FILL["images"]).all()
    for name, fill in (("pixel_labels", 255), ("segments", 0)):
        truth = found.arrays[name]
        assert np.array_equal(truth[:height, :width], nearest(getattr(given, name), height, width))
        assert (truth[~inside] == fill).all()
    for channel in range(3):  # of the image alone
        values = np.bincount(scaled[..., channel].ravel(), minlength=256)
        assert np.array_equal(found.counts[channel], values)


def test_square__a_thread_keeps_a_pixel():
    found = square(Sample(Image.new("RGB", (500, 2), "red")), 32, "pad").arrays["images"]
    assert (found[0, 0] == 255).all()
    assert (found[:, 1:] == FILL["images"]).all()


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_square__truth_lies_on_its_object(fit):
    """A disc in the image stays where its segment is."""
    y, x = np.mgrid[:120, :200]
    disc = ((y - 50) ** 2 + (x - 90) ** 2 < 30**2).astype(np.uint8)
    given = Sample(Image.fromarray(disc * 255), segments=disc)
    arrays = square(given, 40, fit).arrays
    height = 24 if fit == "pad" else 40
    seen = arrays["images"][0, :height] > 127
    differ = seen != (arrays["segments"][:height] == 1)
    assert arrays["segments"].any()
    assert differ.mean() < 0.01  # of the edge, a pixel here and there


def test_square__truth_of_another_size_is_refused():
    given = Sample(Image.new("RGB", (8, 6)), pixel_labels=np.zeros((8, 6), np.uint8))
    with pytest.raises(ValueError, match="its pixel_labels are 6 x 8 pixels and the image 8 x 6"):
        square(given, 4, "crop")
