import itertools
import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from benchmark import augment as module
from benchmark.augment import Augment
from benchmark.errors import UserError
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
from benchmark.views import normalise

TOLERANCE = 0.01 / 255


def noise(count: int, *size: int, seed: int = 0) -> Tensor:
    """Images of smooth and of rough noise, the last one black and the one before flat."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    images[::2] = tv.gaussian_blur(images[::2], [5, 5])
    images[-1], images[-2] = 0, 90
    return images


def streams(count: int, *, epoch: int = 0, seed: int = 0) -> Streams:
    return Streams(seed, epoch, torch.arange(count))


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [16, 32, 48])
def test_crop_resize__is_torchvisions(size: int, mode: Literal["bicubic", "bilinear"]) -> None:
    images = noise(40, 33, 40)
    boxes = crop_boxes(uniform(40, 10, 2), uniform(40, 2), (33, 40), 0.08, (3 / 4, 4 / 3))
    boxes[:3] = torch.tensor([[0, 0, 33, 40], [5, 7, 1, 2], [32, 39, 1, 1]])
    ours = crop_resize(images, boxes, size, mode)
    for image, box, got in zip(images, boxes.tolist(), ours, strict=True):
        expected = tv.resized_crop(
            image / 255, *box, [size, size], InterpolationMode(mode), antialias=True
        )
        assert_close(got, expected.clamp(0, 1))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_jitter__is_torchvisions_in_every_order(order: tuple[int, ...]) -> None:
    pixels = noise(12, 16, 16) / 255
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
def test_gaussian_blur__is_torchvisions(taps: int) -> None:
    pixels, sigma = noise(8, 12, 16) / 255, 0.1 + 1.9 * uniform(8)
    ours = gaussian_blur(pixels, sigma, taps)
    for image, s, got in zip(pixels, sigma, ours, strict=True):
        assert_close(got, tv.gaussian_blur(image, [taps, taps], [s.item()] * 2))


def test_gaussian_blur__sigma_zero_changes_nothing() -> None:
    pixels = noise(4, 12, 12) / 255
    assert torch.equal(gaussian_blur(pixels, torch.zeros(4), 9), pixels)


def test_grayscale_and_flip__change_the_chosen_images_only() -> None:
    pixels, chosen = noise(4, 12, 16) / 255, torch.tensor([True, False, True, False])
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
    drawn = streams(count).uniform("test", 11, 2)
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


def test_augment__has_range_shape_and_is_deterministic() -> None:
    images, augment = noise(64, 40, 40), Augment(image_size=32)
    view = augment(images, streams(64), 0)
    assert view.shape == (64, 3, 32, 32)
    assert view.dtype == torch.float32
    assert view.min() >= 0
    assert view.max() <= 1
    assert torch.equal(view, augment(images, streams(64), 0))


def test_augment__differs_between_views_epochs_and_seeds() -> None:
    images, augment = noise(8, 32, 32), Augment(image_size=32)
    views = [
        augment(images, streams(8), 0),
        augment(images, streams(8), 1),
        augment(images, streams(8, epoch=1), 0),
        augment(images, streams(8, seed=1), 0),
    ]
    for a, b in itertools.combinations(views, 2):
        assert ((a - b)[:6].abs().amax((1, 2, 3)) > 0.01).all()


def test_augment__does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Tensor]] = {}

    def spy(name: str) -> None:
        original = getattr(module, name)

        def spied(pixels: Tensor, *parameters: Any) -> Tensor:
            seen[name] = [p for p in parameters if isinstance(p, Tensor)]
            result: Tensor = original(pixels, *parameters)
            return result

        monkeypatch.setattr(module, name, spied)

    for name in ("crop_resize", "jitter", "grayscale", "gaussian_blur", "flip"):
        spy(name)
    images, augment, index = noise(16, 40, 40), Augment(image_size=32), torch.arange(16)
    together = augment(images, Streams(0, 0, index), 1)
    parameters = {name: list(values) for name, values in seen.items()}
    for own in (torch.tensor([5]), torch.tensor([9, 2, 13])):
        alone = augment(images[own], Streams(0, 0, index[own]), 1)
        torch.testing.assert_close(alone, together[own], rtol=0, atol=1e-5)
        assert seen.keys() == parameters.keys()
        for name, values in seen.items():
            for a, b in zip(values, parameters[name], strict=True):
                assert torch.equal(a, b[own]), name


def test_augment__applies_each_operation_to_its_share_of_images() -> None:
    images, count = torch.zeros(2000, 3, 8, 8, dtype=torch.uint8), 2000
    images[:, 0, :, 4:] = 200
    off = {"min_scale": 1.0, "ratio": (1.0, 1.0), "blur_kernel": 5}
    off |= {f"{name}_prob": 0.0 for name in ("jitter", "grayscale", "blur", "flip")}
    plain = images / 255
    assert_close(Augment(8, **off)(images, streams(count), 0), plain)
    shares = {"jitter": 0.8, "grayscale": 0.2, "blur": 0.5, "flip": 0.5}
    for name, share in shares.items():
        knobs = off | {f"{name}_prob": share, "blur_sigma": (1.0, 2.0)}
        view = Augment(8, **knobs)(images, streams(count), 0)
        changed = ((view - plain).abs().amax((1, 2, 3)) > 1e-3).float().mean().item()
        assert changed == pytest.approx(share, abs=0.04), name


def test_augment__is_the_same_inside_autocast() -> None:
    images, augment = noise(4, 32, 32), Augment(image_size=32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = augment(images, streams(4), 0)
    assert torch.equal(inside, augment(images, streams(4), 0))


def test_augment__never_reads_a_value_back() -> None:
    # Fake tensors have no values: reading one, for which a GPU would have to be waited for, raises.
    with FakeTensorMode():
        images = torch.empty(4, 3, 40, 40, dtype=torch.uint8)
        view = Augment(image_size=32)(images, streams(4), 0)
        assert normalise(view, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)).shape == (4, 3, 32, 32)
        with pytest.raises(RuntimeError):
            view.mean().item()


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("image_size", 0),
        ("min_scale", 0.0),
        ("min_scale", 1.1),
        ("ratio", (2.0, 1.0)),
        ("blur_sigma", (0.0, 1.0)),
        ("contrast", -0.1),
        ("hue", 0.6),
        ("jitter_prob", 1.5),
        ("blur_kernel", 8),
        ("blur_kernel", 65),
    ],
)
def test_augment__names_the_knob_that_is_wrong(knob: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"augment.{knob}="):
        Augment(**{"image_size": 32, knob: value})


def blocks(count: int, *size: int) -> Tensor:
    """Object of each pixel: blocks of 8 pixels, numbered at random from 0 to 5."""
    rows, columns = ((s + 7) // 8 for s in size)
    numbers = (6 * uniform(count, rows, columns)).to(torch.uint8)
    return numbers.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, : size[0], : size[1]]


@pytest.mark.parametrize("size", [(40, 40), (24, 50)])
@pytest.mark.parametrize("flip_prob", [0.0, 0.5])
def test_segments__take_the_object_below_each_pixels_centre(
    size: tuple[int, int], flip_prob: float
) -> None:
    objects = (256 * uniform(20, *size)).to(torch.uint8)
    ours = Augment(32, flip_prob=flip_prob).segments(objects, streams(20), 1)
    drawn = streams(20).uniform("augment/1/crop", 11, 2)
    boxes = crop_boxes(drawn[:, :-1], drawn[:, -1], size, 0.08, (3 / 4, 4 / 3)).tolist()
    mirrored = (streams(20).uniform("augment/1/flip") < flip_prob).tolist()
    assert any(mirrored) == (flip_prob > 0)
    for k, (top, left, height, width) in enumerate(boxes):
        for i in range(32):
            for j in range(32):
                x = 31 - j if mirrored[k] else j
                row, column = top + (i + 0.5) / 32 * height, left + (x + 0.5) / 32 * width
                assert ours[k, i, j] == objects[k, math.floor(row), math.floor(column)]


def test_segments__see_the_crop_and_the_flip_of_the_pixels() -> None:
    # Colours tell the objects, and stay what they are well inside of them.
    objects, off = blocks(64, 48, 48), {f"{k}_prob": 0.0 for k in ("jitter", "grayscale", "blur")}
    augment = Augment(24, min_scale=0.3, **off)
    images = (objects * 51)[:, None].expand(-1, 3, -1, -1)
    for view in (0, 1):
        levels = augment(images, streams(64), view)[:, 0] * 5
        ours = augment.segments(objects, streams(64), view)
        assert ours.shape == (64, 24, 24)
        inside = (levels - levels.round()).abs() < 1e-3
        inside[:, 2:-2, 2:-2] &= ours.unfold(1, 5, 1).unfold(2, 5, 1).flatten(3).amax(3) == (
            ours.unfold(1, 5, 1).unfold(2, 5, 1).flatten(3).amin(3)
        )
        inside[:, [0, 1, -2, -1]] = inside[:, :, [0, 1, -2, -1]] = False
        assert inside.float().mean() > 0.02
        assert torch.equal(ours[inside].float(), levels.round()[inside])


def test_segments__draw_as_each_sample_does_and_read_nothing_back() -> None:
    augment, objects = Augment(32), blocks(16, 40, 40)
    together = augment.segments(objects, streams(16), 0)
    alone = augment.segments(objects[5:6], Streams(0, 0, torch.tensor([5])), 0)
    assert torch.equal(alone[0], together[5])
    assert not torch.equal(together, augment.segments(objects, streams(16), 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment.segments(objects, streams(16), 0), together)
    with FakeTensorMode():
        ours = augment.segments(torch.empty(4, 40, 40, dtype=torch.uint8), streams(4), 0)
        with pytest.raises(RuntimeError):
            ours.max().item()
