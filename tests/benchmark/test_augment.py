"""Views of a whole batch: what is drawn for them, their range, shares, labels and wrong knobs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from benchmark import augment as module
from benchmark.augment import Augment
from benchmark.errors import UserError
from benchmark.image_ops import crop_boxes
from benchmark.streams import Streams
from benchmark.views import normalise

MakeImages = Callable[..., Tensor]


def streams(count: int, *, epoch: int = 0, seed: int = 0) -> Streams:
    return Streams(seed, epoch, torch.arange(count))


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_augment__has_range_shape_and_is_deterministic(noise: MakeImages) -> None:
    images, augment = noise(64, 40, 40), Augment(image_size=32)
    view = augment(images, streams(64), 0)
    assert view.shape == (64, 3, 32, 32)
    assert view.dtype == torch.float32
    assert view.min() >= 0
    assert view.max() <= 1
    assert torch.equal(view, augment(images, streams(64), 0))


def test_augment__differs_between_views_epochs_and_seeds(noise: MakeImages) -> None:
    images, augment = noise(8, 32, 32), Augment(image_size=32)
    views = [
        augment(images, streams(8), 0),
        augment(images, streams(8), 1),
        augment(images, streams(8, epoch=1), 0),
        augment(images, streams(8, seed=1), 0),
    ]
    for a, b in itertools.combinations(views, 2):
        assert ((a - b)[:6].abs().amax((1, 2, 3)) > 0.01).all()


def test_augment__does_not_depend_on_the_batch(
    noise: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, augment, index = noise(16, 40, 40), Augment(image_size=32), torch.arange(16)
    together = augment(images, Streams(0, 0, index), 1)
    drawn = augment.draw(Streams(0, 0, index), (40, 40), 1)
    for own in (torch.tensor([5]), torch.tensor([9, 2, 13])):
        alone = augment(images[own], Streams(0, 0, index[own]), 1)
        assert_close(alone, together[own])
        for name, value in vars(augment.draw(Streams(0, 0, index[own]), (40, 40), 1)).items():
            assert torch.equal(value, getattr(drawn, name)[own]), name
    monkeypatch.setattr(module, "_values_at_once", lambda _: 3 * 3 * 40 * 40)
    assert_close(augment(images, Streams(0, 0, index), 1), together)


@pytest.mark.parametrize(
    ("size", "room", "expected"),
    [
        (32, 4 * 3 * 32 * 32 + 1, [4, 4, 2]),  # views larger than the images
        (16, 4 * 3 * 40 * 20 + 1, [4, 4, 2]),  # and smaller
        (16, 6 * 3 * 40 * 20, [5, 5]),
        (16, 1, [1] * 10),
    ],
)
def test_apply__works_on_no_more_than_fits(
    noise: MakeImages, size: int, room: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, original = [], module.crop_resize

    def spied(images: Tensor, boxes: Tensor, size: int) -> Tensor:
        counts.append(len(images))
        return original(images, boxes, size)

    monkeypatch.setattr(module, "crop_resize", spied)
    monkeypatch.setattr(module, "_values_at_once", lambda _: room)
    Augment(size)(noise(10, 40, 20), streams(10), 0)
    assert counts == expected


def test_augment__of_no_images_are_no_views(noise: MakeImages) -> None:
    assert Augment(16)(noise(2, 20, 20)[:0], streams(0), 0).shape == (0, 3, 16, 16)


def test_draw__is_uniform_and_spares_the_others() -> None:
    augment = Augment(32, brightness=0.4, contrast=0.8, saturation=1.5, hue=0.1)
    drawn = vars(augment.draw(streams(6000), (40, 40), 0))
    jittered, blurred = (drawn["factors"] != 1).any(1), drawn["sigma"] > 0
    for chosen, share in ((jittered, 0.8), (blurred, 0.5), (drawn["grey"], 0.2)):
        assert chosen.float().mean().item() == pytest.approx(share, abs=0.02)
    assert not drawn["shift"][~jittered].any()
    spans = [
        *drawn["factors"][jittered].unbind(1),
        drawn["shift"][jittered],
        drawn["sigma"][blurred],
    ]
    bounds = [(0.6, 1.4), (0.2, 1.8), (0.0, 2.5), (-0.1, 0.1), (0.1, 2.0)]
    for values, (low, high) in zip(spans, bounds, strict=True):
        places = (values.double() - low) / (high - low)
        assert places.min().item() == pytest.approx(0, abs=5e-3)
        assert places.max().item() == pytest.approx(1, abs=5e-3)
        assert places.mean().item() == pytest.approx(0.5, abs=0.025)
    _, counts = drawn["order"].unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert (counts - 250).abs().max() < 80  # five standard deviations


def test_draw__has_nothing_for_operations_that_are_off() -> None:
    off = {f"{name}_prob": 0.0 for name in ("jitter", "grayscale", "blur", "flip")}
    drawn = vars(Augment(32, **off).draw(streams(4), (40, 40), 0))
    assert [name for name, value in drawn.items() if value is not None] == ["boxes"]
    drawn = vars(Augment(32, hue=0.0).draw(streams(4), (40, 40), 0))
    assert [name for name, value in drawn.items() if value is None] == ["shift"]


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


def test_augment__is_the_same_inside_autocast(noise: MakeImages) -> None:
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
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_segments__take_the_label_below_each_pixels_centre(
    size: tuple[int, int], flip_prob: float, dtype: torch.dtype
) -> None:
    objects = (min(torch.iinfo(dtype).max + 1, 400) * uniform(20, *size)).to(dtype)
    ours = Augment(32, flip_prob=flip_prob).segments(objects, streams(20), 1)
    drawn = streams(20).uniform("augment/1/crop", 11, 2)
    boxes = crop_boxes(drawn[:, :-1], drawn[:, -1], size, 0.08, (3 / 4, 4 / 3)).tolist()
    mirrored = (streams(20).uniform("augment/1/flip") < flip_prob).tolist()
    assert any(mirrored) == (flip_prob > 0)
    assert ours.dtype == torch.int64
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
