from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import hsv2rgb, rgb2hsv
from skimage.filters import gaussian
from torch import Tensor

from benchmark.streams import Streams
from tasks import corruptions
from tasks.corruptions import CORRUPTIONS, Disturb, occlude, shuffle_patches, strengths

SIZE = 32
COLOUR = (0.2, 0.4, 0.6)
HIDE = partial(occlude, cells=8, colour=COLOUR)
# Name of a disturbance to what it does, the strength of severity 0, and some other.
ALL: dict[str, tuple[Disturb, float, float]] = {
    "occlusion": (HIDE, 0.0, 0.5),
    "shuffle": (shuffle_patches, 1, 4),
    "gaussian_noise": (corruptions.gaussian_noise, 0.0, 0.1),
    "gaussian_blur": (corruptions.blur, 0.0, 1.0),
    "contrast": (corruptions.contrast, 1.0, 0.3),
    "brightness": (corruptions.brightness, 0.0, 0.2),
    "pixelate": (corruptions.pixelate, 1.0, 0.6),
}
DRAWN = ("occlusion", "shuffle", "gaussian_noise")


def streams(count: int, seed: int = 0) -> Streams:
    return Streams(seed, 0, torch.arange(count))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def images(count: int = 6, size: int = SIZE) -> Tensor:
    """Smooth shapes and some noise, with black and white among the pixels."""
    draws = seeded()
    coarse = torch.rand(count, 3, 6, 6, generator=draws) * 1.6 - 0.3
    found = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    found[:, :, 0, 0] = 0
    return found


@pytest.mark.parametrize("name", ALL)
def test_disturbances__severity_0_changes_nothing(name: str) -> None:
    disturb, none, some = ALL[name]
    assert torch.equal(disturb(images(), none, streams(6)), images())
    assert not torch.equal(disturb(images(), some, streams(6)), images())


@pytest.mark.parametrize("name", ALL)
def test_disturbances__depend_on_sample_and_seed_alone(name: str) -> None:
    disturb, _, strength = ALL[name]
    whole = disturb(images(), strength, streams(6))
    assert torch.equal(whole, disturb(images(), strength, streams(6)))
    part = disturb(images()[4:], strength, Streams(0, 0, torch.arange(4, 6)))
    torch.testing.assert_close(whole[4:], part, atol=1e-6, rtol=0)
    other = disturb(images(), strength, streams(6, seed=1))
    assert torch.equal(whole, other) == (name not in DRAWN)
    assert whole.min() >= 0
    assert whole.max() <= 1


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [32, 45])
def test_occlude__hides_whole_cells_and_as_many_as_asked(share: float, size: int) -> None:
    pixels = images(20, size)
    disturbed = HIDE(pixels, share, streams(20))
    hidden = (disturbed == torch.tensor(COLOUR)[:, None, None]).all(1)
    assert torch.equal(disturbed.where(~hidden[:, None], pixels), pixels)
    edges = [-(-k * size // 8) for k in range(9)]  # cell k begins at the next whole pixel
    for mask in hidden:
        cells = [
            mask[edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
            for i in range(8)
            for j in range(8)
        ]
        assert all(cell.all() or not cell.any() for cell in cells)
        assert sum(bool(cell.all()) for cell in cells) == round(share * 64)
    if share < 1:
        assert not torch.equal(hidden[0], hidden[1])


def test_occlude__more_hides_what_less_did() -> None:
    less, more = (HIDE(images(), share, streams(6)) != images() for share in (0.3, 0.5))
    assert (less <= more).all()


def test_occlude__all_places_are_hidden_equally_often() -> None:
    black = torch.ones(2000, 3, 8, 8)
    often = (HIDE(black, 0.25, streams(2000)) != 1).any(1).float().mean(0)
    assert (often - 0.25).abs().max() < 5 * (0.25 * 0.75 / 2000) ** 0.5


@pytest.mark.parametrize("grid", [2, 4, 8])
def test_shuffle_patches__is_a_permutation_of_patches(grid: int) -> None:
    side = SIZE // grid
    number = torch.arange(grid**2).view(grid, grid)
    number = number.repeat_interleave(side, 0).repeat_interleave(side, 1)
    place = torch.arange(side).repeat(grid)
    rows, columns = place[:, None].expand(SIZE, SIZE), place.expand(SIZE, SIZE)
    pixels = torch.stack([number, rows, columns]).float().expand(12, -1, -1, -1)
    moved = shuffle_patches(pixels, grid, streams(12))
    assert torch.equal(moved[:, 1:], pixels[:, 1:])  # inside of a patch nothing moves
    patches = moved[:, 0].unflatten(2, (grid, side)).unflatten(1, (grid, side))
    patches = patches.transpose(2, 3).flatten(3).flatten(1, 2)
    assert (patches == patches[..., :1]).all()
    orders = patches[..., 0]
    assert torch.equal(orders.sort(1).values, torch.arange(grid**2.0).expand(12, -1))
    assert len({tuple(order.tolist()) for order in orders}) > 6


def test_gaussian_noise__variance_and_nesting() -> None:
    grey = torch.full((50, 3, SIZE, SIZE), 0.5)
    noise = [corruptions.gaussian_noise(grey, std, streams(50)) - 0.5 for std in (0.04, 0.08)]
    for std, found in zip((0.04, 0.08), noise, strict=True):
        assert found.std() == pytest.approx(std, rel=0.01)
        assert found.mean().abs() < 4 * std / found.numel() ** 0.5
    torch.testing.assert_close(2 * noise[0], noise[1], atol=1e-6, rtol=0)
    assert not torch.equal(noise[0][:, 0], noise[0][:, 1])


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.3])
def test_blur__equals_scikit_image(sigma: float) -> None:
    blurred = corruptions.blur(images(), sigma, streams(6))
    for image, found in zip(images(), blurred, strict=True):
        # "mirror" is scikit-image's name for borders reflected at the centre of the last pixel.
        expected = gaussian(image.numpy(), sigma, mode="mirror", channel_axis=0)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_contrast__equals_the_definition() -> None:
    found = corruptions.contrast(images(), 0.3, streams(6))
    for image, changed in zip(images().numpy(), found.numpy(), strict=True):
        means = image.mean(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(changed, (image - means) * 0.3 + means, atol=1e-6)


@pytest.mark.parametrize("added", [0.1, 0.5])
def test_brightness__equals_the_value_of_hsv(added: float) -> None:
    found = corruptions.brightness(images(), added, streams(6))
    for image, changed in zip(images().numpy(), found.numpy(), strict=True):
        hsv = rgb2hsv(image, channel_axis=0)
        hsv[2] = np.clip(hsv[2] + added, 0, 1)
        np.testing.assert_allclose(changed, hsv2rgb(hsv, channel_axis=0), atol=1e-5)
    torch.testing.assert_close(found[:, :, 0, 0], torch.full((6, 3), added))  # black becomes grey


@pytest.mark.parametrize("share", [0.95, 0.75, 0.65, 0.5, 0.25])
def test_pixelate__equals_pillow(share: float) -> None:
    pixels = (torch.rand(6, 3, SIZE, SIZE, generator=seeded()) * 255).round() / 255
    found = corruptions.pixelate(pixels, share, streams(6))
    small = (int(SIZE * share), int(SIZE * share))
    for image, changed in zip(pixels, found, strict=True):
        as_bytes = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        picture = Image.fromarray(as_bytes).resize(small, Image.Resampling.BOX)
        expected = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX))
        # Pillow rounds to bytes twice, after columns and after rows.
        np.testing.assert_allclose(255 * changed.permute(1, 2, 0).numpy(), expected, atol=1.01)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_strengths__are_the_published_ones_and_between_them_in_between(name: str) -> None:
    _, table = CORRUPTIONS[name]
    for side, row in zip((32, 64, 224), table, strict=True):
        assert strengths(name, side) == pytest.approx(list(row))
    assert strengths(name, 16) == strengths(name, 32)
    assert strengths(name, 512) == strengths(name, 224)
    lower, middle, upper = strengths(name, 64), strengths(name, 96), strengths(name, 224)
    for low, between, high in zip(lower, middle, upper, strict=True):
        assert min(low, high) <= between <= max(low, high)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [32, 96])
def test_corruptions__grow_with_severity(name: str, side: int) -> None:
    disturb, _ = CORRUPTIONS[name]
    pixels = torch.rand(8, 3, side, side, generator=seeded())
    changes = [
        float((disturb(pixels, strength, streams(8)) - pixels).square().mean())
        for strength in strengths(name, side)
    ]
    assert len(changes) == 5
    assert all(weaker < stronger for weaker, stronger in itertools.pairwise(changes))
