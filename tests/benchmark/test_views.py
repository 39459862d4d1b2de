"""What a net sees of images as they are: Pillow and torchvision as oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from benchmark.views import normalise, plain_segments, plain_view

IMAGES = torch.randint(0, 256, (3, 3, 24, 24), generator=torch.Generator().manual_seed(0)).byte()


def test_normalise__is_torchvisions() -> None:
    pixels, mean, std = IMAGES / 255, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    torch.testing.assert_close(normalise(pixels, mean, std), tv.normalize(pixels, mean, std))


@pytest.mark.parametrize("size", [None, 24])
@pytest.mark.parametrize("view", ["whole", "centre"])
def test_plain_view__same_size_is_the_same_pixels(size, view) -> None:
    assert torch.equal((plain_view(IMAGES, size, view) * 255).round().byte(), IMAGES)


def test_plain_view__centre() -> None:
    assert torch.equal(plain_view(IMAGES, 10, "centre"), IMAGES[..., 7:17, 7:17] / 255)


@pytest.mark.parametrize("size", [10, 36])
def test_plain_view__whole_is_pillows_bicubic(size: int) -> None:
    smooth = torch.from_numpy(
        np.stack(
            [
                np.asarray(
                    Image.fromarray(i.permute(1, 2, 0).numpy()).resize((5, 5)).resize((24, 24))
                )
                for i in IMAGES
            ]
        )
    ).permute(0, 3, 1, 2)
    found = plain_view(smooth, size, "whole")
    for image, seen in zip(smooth, found, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)) / 255
        # Pillow rounds to bytes after each axis.
        np.testing.assert_allclose(seen.permute(1, 2, 0), expected, atol=2.5 / 255)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize(("size", "view"), [(12, "whole"), (48, "whole"), (10, "centre")])
def test_plain_segments__move_with_the_pixels(size: int, view) -> None:
    segments = torch.zeros(1, 24, 24, dtype=torch.uint8)
    segments[0, 8:16, 4:12] = 2
    seen = plain_segments(segments, size, view)
    shown = plain_view((segments * 100)[:, None].expand(-1, 3, -1, -1), size, view)[:, 0] * 255
    assert seen.shape == (1, size, size)
    assert ((shown / 100 - seen).abs() < 0.5).float().mean() > 0.95
    assert set(seen.unique().tolist()) == {0, 2}
