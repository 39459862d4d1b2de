"""Masks that nobody learns: each against loops written from its paper, and by property."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch._subclasses import FakeTensorMode

from benchmark.contracts import Batch, MaskingMethod
from benchmark.errors import UserError
from benchmark.schedule import Ramp
from benchmark.streams import Streams
from methods.block import Blocks
from methods.complementary import ComplementaryPatches
from methods.cutout import Cutout
from methods.grid import Grid, rank
from methods.multiblock import MultiBlock
from methods.noise import ColourNoise, blur, colour_noise
from methods.random_patches import RandomPatches

CONF = Path(__file__).parents[2] / "benchmark" / "conf" / "method"
CLASSES = {
    "random": RandomPatches,
    "complementary": ComplementaryPatches,
    "block": Blocks,
    "multiblock": MultiBlock,
    "cutout": Cutout,
    "noise": ColourNoise,
}
WITH_RATIO = ["random", "block", "noise"]  # and meet it exactly
few = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 2**31)
grids = st.tuples(st.integers(2, 12), st.integers(1, 4))  # cells per side, pixels per cell


def build(name: str, image_size: int = 32, **changes) -> MaskingMethod:
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    del node["_target_"]
    return CLASSES[name](**{**node, "image_size": image_size, **changes})


def make_batch(
    size: int = 32, count: int = 5, *, seed: int = 0, epoch: int = 0, progress: float = 0.5, **other
) -> Batch:
    index = other.get("index", torch.arange(count))
    pixels = torch.zeros(2, len(index), 3, size, size, dtype=other.get("dtype", torch.float32))
    return Batch(
        views=pixels.float(),
        pixels=pixels,
        index=index,
        labels=None,
        segments=None,
        progress=progress,
        streams=Streams(seed, epoch, index),
    )


def cells(masks: Tensor, patch: int) -> Tensor:
    """One value per cell, after checking that a cell's pixels agree and are 0 or 1."""
    tiles = masks.unfold(2, patch, patch).unfold(3, patch, patch).flatten(4)
    assert torch.equal(tiles.amin(-1), tiles.amax(-1))
    assert ((masks == 0) | (masks == 1)).all()
    return tiles[..., 0]


# The grid -----------------------------------------------------------------------------------------


def best_in_loops(scores: list[float], count: int) -> list[float]:
    left, hidden = list(range(len(scores))), [0.0] * len(scores)
    for _ in range(count):
        best = left[0]
        for i in left:
            if scores[i] > scores[best]:
                best = i
        left.remove(best)
        hidden[best] = 1.0
    return hidden


@few
@given(grid=grids, levels=st.integers(1, 50), seed=seeds, share=st.floats(0, 1))
def test_hide_highest__loop_with_ties_by_first_index(
    grid: tuple[int, int], levels: int, seed: int, share: float
) -> None:
    side, patch = grid
    scores = (Streams(seed, 0, torch.arange(2)).uniform("test", 2, side**2) * levels).floor()
    masks = Grid(side * patch, patch).hide_highest(scores, round(share * side**2))
    assert masks.dtype == torch.float32
    expected = [[best_in_loops(s, round(share * side**2)) for s in two] for two in scores.tolist()]
    assert cells(masks, patch).flatten(2).tolist() == expected
    places = rank(scores)
    assert torch.equal((places < round(share * side**2)).float(), torch.tensor(expected))


@few
@given(grid=grids, seed=seeds)
def test_pool_and_expand__loop(grid: tuple[int, int], seed: int) -> None:
    side, patch = grid
    values = Streams(seed, 0, torch.arange(2)).uniform("test", side * patch, side * patch)
    means = Grid(side * patch, patch).pool(values)
    for y in range(side):
        for x in range(side):
            cell = values[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            torch.testing.assert_close(means[:, y * side + x], cell.mean((1, 2)))
    square = means.view(2, 1, side, side)
    expanded = Grid(side * patch, patch).expand(square)
    for y in range(side * patch):
        for x in range(side * patch):
            assert torch.equal(expanded[:, :, y, x], square[:, :, y // patch, x // patch])


@pytest.mark.parametrize("patch", [-1, 0, 5, 64])
def test_grid__refuses_cells_that_do_not_tile_the_image(patch: int) -> None:
    with pytest.raises(UserError, match=f"patch_size={patch} must divide the image size 32"):
        Grid(32, patch)


# Every method -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_method__depends_on_seed_epoch_and_sample_alone(name: str) -> None:
    method = build(name)
    together = method(make_batch(count=8)).masks
    assert torch.equal(together, build(name)(make_batch(count=8, progress=0.1)).masks)
    assert torch.equal(together[[6, 2]], method(make_batch(index=torch.tensor([6, 2]))).masks)
    assert not torch.equal(together, method(make_batch(count=8, epoch=1)).masks)
    assert not torch.equal(together, method(make_batch(count=8, seed=1)).masks)
    assert len(together.flatten(1).unique(dim=0)) > 4


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_method__masks_are_binary_in_the_type_of_the_pixels(name: str, dtype: torch.dtype) -> None:
    method = build(name)
    masks = method(make_batch(dtype=dtype)).masks
    assert masks.dtype == dtype
    assert masks.shape == (5, method.num_masks, 32, 32)
    assert ((masks == 0) | (masks == 1)).all()
    assert not method.adversarial
    assert not method.state_dict()


@pytest.mark.parametrize("name", CLASSES)
def test_method__does_not_touch_torchs_own_generator(name: str) -> None:
    state = torch.get_rng_state()
    build(name)(make_batch())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", CLASSES)
def test_method__never_reads_a_value_back(name: str) -> None:
    # Fake tensors have no values: reading one, for which a GPU would have to be waited for, raises.
    with FakeTensorMode():
        masks = build(name)(make_batch(count=4)).masks
        assert masks.shape[0] == 4
        with pytest.raises(RuntimeError):
            masks.sum().item()


@pytest.mark.parametrize("name", ["random", "block", "cutout", "noise"])
def test_method__masks_of_an_image_are_independent(name: str) -> None:
    method = build(name, num_masks=3, reduction="sum")
    masks = method(make_batch(count=400)).masks
    assert (method.num_masks, method.reduction, masks.shape[1]) == (3, "sum", 3)
    product = (masks[:, 0] * masks[:, 2]).mean((1, 2)).mean()
    marginal = (masks.mean(0)[0] * masks.mean(0)[2]).mean()
    assert product == pytest.approx(marginal.item(), rel=0.1)


@pytest.mark.parametrize("name", WITH_RATIO)
@few
@given(grid=grids, ratio=st.floats(0.02, 0.98), seed=seeds)
def test_method__hides_exactly_the_ratio_in_whole_cells(
    name: str, grid: tuple[int, int], ratio: float, seed: int
) -> None:
    side, patch = grid
    hidden = round(ratio * side**2)
    changes = {"ratio": ratio, "patch_size": patch, "num_masks": 2}
    if not 0 < hidden < side**2:
        with pytest.raises(UserError, match=f"hides {hidden} of {side**2} cells"):
            build(name, side * patch, **changes)
        return
    masks = build(name, side * patch, **changes)(make_batch(side * patch, 3, seed=seed)).masks
    assert (cells(masks, patch).sum((2, 3)) == hidden).all()


@pytest.mark.parametrize("name", [*WITH_RATIO, "cutout"])
@pytest.mark.parametrize(("progress", "ratio"), [(0.0, 0.125), (0.5, 0.28125), (1.0, 0.4375)])
def test_method__follows_a_ramp(name: str, progress: float, ratio: float) -> None:
    ramp = {"start": 0.125, "end": 0.4375}
    followed, constant = build(name, ratio=ramp), build(name, ratio=ratio)
    batch = make_batch(progress=progress)
    assert torch.equal(followed(batch).masks, constant(batch).masks)
    if name != "cutout":
        assert followed(batch).masks.mean().item() == ratio


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (name, changes, message)
        for name in [*WITH_RATIO, "cutout"]
        for changes, message in [
            ({"ratio": 0.0}, "method.ratio=0.0 must lie between 0 and 1"),
            ({"ratio": 1.0}, "method.ratio=1.0 must lie between 0 and 1"),
            ({"ratio": {"start": 0.25, "end": 1.5}}, "method.ratio=1.5 must lie between"),
            ({"ratio": {"start": 0.25}}, "method.ratio: lacks 'end'"),
            ({"num_masks": 0}, "method.num_masks=0 must be at least 1"),
        ]
    ]
    + [
        (name, changes, message)
        for name in WITH_RATIO
        for changes, message in [
            ({"ratio": 0.001}, "ratio=0.001 hides 0 of 64 cells; choose a smaller patch_size"),
            ({"ratio": {"start": 0.25, "end": 0.999}}, "ratio=0.999 hides 64 of 64 cells"),
        ]
    ]
    + [
        (name, {"patch_size": 5}, "patch_size=5 must divide the image size 32")
        for name in CLASSES
        if name != "cutout"
    ]
    + [
        ("complementary", {"num_masks": 1}, "num_masks=1 must lie between 2 and the 64 cells"),
        ("complementary", {"num_masks": 65}, "num_masks=65 must lie between 2 and the 64 cells"),
        ("block", {"min_cells": 0}, "min_cells=0 must lie between 1 and the 64 cells"),
        ("block", {"min_cells": 65}, "min_cells=65 must lie between 1 and the 64 cells"),
        ("block", {"min_aspect": 0.0}, "min_aspect=0.0 must lie between 0, excluded, and 1"),
        ("block", {"min_aspect": 1.5}, "min_aspect=1.5 must lie between"),
        ("block", {"max_blocks": 0}, "max_blocks=0 must be at least 1"),
        ("multiblock", {"num_targets": 0}, "num_targets=0 must be at least 1"),
        ("multiblock", {"min_visible": 0}, "min_visible=0 must be at least 1 and less than the 64"),
        ("multiblock", {"min_visible": 64}, "min_visible=64 must be at least 1"),
        ("multiblock", {"target_scale": [0.2, 0.1]}, r"target_scale=\[0.2, 0.1\] must be two"),
        ("multiblock", {"target_scale": [0.2]}, r"target_scale=\[0.2\] must be two numbers"),
        ("multiblock", {"context_scale": [0.5, 1.5]}, "context_scale=.* above 0 and up to 1, the"),
        ("multiblock", {"target_aspect": [0.0, 1.5]}, "target_aspect=.* above 0, the smaller"),
        ("cutout", {"ratio": 0.0001}, "makes a square of 0 in 32 pixels; choose another ratio"),
        ("cutout", {"ratio": 0.999}, "makes a square of 32 in 32 pixels"),
        ("noise", {"weak_sigma": 0.0}, "weak_sigma=0.0 must be above 0 and below"),
        ("noise", {"weak_sigma": 1.5}, "below method.strong_sigma=1.5"),
        ("noise", {"bank_size": 0}, "bank_size=0 must be at least 1"),
        ("noise", {"num_masks": -1}, "num_masks=-1 must be at least 1"),
    ],
)
def test_method__refuses(name: str, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, **changes)


def test_read_ratio__accepts_what_hides_some_and_not_all_cells() -> None:
    for ratio in (0.01, 0.99, {"start": 0.99, "end": 0.01}):
        assert Grid(32, 4).read_ratio(ratio) == Ramp.parse("method.ratio", ratio)


@pytest.mark.parametrize("name", ["random", "complementary", "noise"])
def test_method__hides_every_cell_equally_often(name: str) -> None:
    count = 4000
    shares = build(name, 16, bank_size=64) if name == "noise" else build(name, 16)
    share = cells(shares(make_batch(16, count)).masks, 4)[:, 0].mean(0)
    # Four standard errors, three times as wide for windows of the bank, which have much in common.
    allowed = (3 if name == "noise" else 1) * 4 * math.sqrt(0.25 * 0.75 / count)
    assert (share - 0.25).abs().max() < allowed


@pytest.mark.parametrize("name", ["block", "multiblock", "cutout"])
def test_method__prefers_no_side(name: str) -> None:
    changes = {"ratio": 0.2345} if name != "multiblock" else {}  # so that blocks are cut
    share = build(name, **changes)(make_batch(count=4000)).masks[:, 0].mean(0)
    if name == "cutout":  # an even square has no pixel in its middle
        assert round(math.sqrt(0.2345) * 32) % 2 == 1
    # I-JEPA's blocks are more often tall than wide: its aspect ratios are 0.75 to 1.5.
    turned = [] if name == "multiblock" else [share.T]
    for mirrored in (share.flip(0), share.flip(1), *turned):
        assert (share - mirrored).abs().max() < 4 * math.sqrt(2 * 0.25 / 4000)


# Random and complementary -------------------------------------------------------------------------


@few
@given(grid=grids, share=st.floats(0, 1), seed=seeds)
def test_random_patches__loop(grid: tuple[int, int], share: float, seed: int) -> None:
    side, patch = grid
    hidden = 1 + round(share * (side**2 - 2))
    batch = make_batch(side * patch, 2, seed=seed)
    masks = RandomPatches(side * patch, hidden / side**2, patch, num_masks=2)(batch).masks
    keys = batch.streams.uniform("mask/random", 2, side**2).tolist()
    for got, of_image in zip(cells(masks, patch).flatten(2).tolist(), keys, strict=True):
        for mask, own in zip(got, of_image, strict=True):
            smallest = sorted(range(side**2), key=lambda i, own=own: own[i])[:hidden]
            assert mask == [float(i in smallest) for i in range(side**2)]


@few
@given(grid=grids, seed=seeds, data=st.data())
def test_complementary__is_a_partition_into_equal_parts(
    grid: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    side, patch = grid
    num_masks = data.draw(st.integers(2, min(side**2, 9)))
    batch = make_batch(side * patch, 2, seed=seed)
    masks = ComplementaryPatches(side * patch, patch, num_masks)(batch).masks
    assert (masks.sum(1) == 1).all()
    sizes = cells(masks, patch).sum((2, 3))
    assert sizes.max() - sizes.min() <= 1
    keys = batch.streams.uniform("mask/complementary", side**2).tolist()
    for got, own in zip(cells(masks, patch).flatten(2).tolist(), keys, strict=True):
        deck = sorted(range(side**2), key=lambda i, own=own: -own[i])
        for card, cell in enumerate(deck):
            assert [mask[cell] for mask in got] == [
                float(card % num_masks == k) for k in range(num_masks)
            ]


# Blocks -------------------------------------------------------------------------------------------


def place(side: int, area: float, aspect: float, u: float, v: float) -> set[tuple[int, int]]:
    height = min(max(round(math.sqrt(area * aspect)), 1), side)
    width = min(max(round(math.sqrt(area / aspect)), 1), side)
    top, left = int(u * (side - height + 1)), int(v * (side - width + 1))
    return {(y, x) for y in range(top, top + height) for x in range(left, left + width)}


def beit_in_loops(
    side: int, target: int, smallest: int, aspect: float, draws: list, slope: list
) -> set[tuple[int, int]]:
    """Algorithm 1 for one mask; the last block, or in the end the image, is cut to size."""
    hidden: set[tuple[int, int]] = set()
    everything = {(y, x) for y in range(side) for x in range(side)}
    for area, stretch, u, v in [*draws, (None, 0, 0, 0)]:
        missing = target - len(hidden)
        if area is None:
            new = everything - hidden
        else:
            s = smallest + area * max(missing - smallest, 0)
            r = math.exp(math.log(aspect) + stretch * (math.log(1 / aspect) - math.log(aspect)))
            new = place(side, s, r, u, v) - hidden
        order = sorted(new, key=lambda at: (slope[0] * at[0] + slope[1] * at[1], at))
        hidden |= set(order[:missing])
    return hidden


@few
@given(
    grid=grids,
    share=st.floats(0, 1),
    smallest=st.floats(0, 1),
    aspect=st.floats(0.1, 1),
    blocks=st.integers(1, 12),
    seed=seeds,
)
def test_block__is_the_papers_algorithm(
    grid: tuple[int, int], share: float, smallest: float, aspect: float, blocks: int, seed: int
) -> None:
    side, patch = grid
    target = 1 + round(share * (side**2 - 2))
    min_cells = 1 + round(smallest * (target - 1))
    batch = make_batch(side * patch, 3, seed=seed)
    method = Blocks(side * patch, target / side**2, patch, min_cells, aspect, blocks, num_masks=2)
    got = cells(method(batch).masks, patch)
    draws = batch.streams.uniform("mask/block", 2, blocks, 4).tolist()
    slopes = (batch.streams.uniform("mask/block/cut", 2, 2) - 0.5).tolist()
    for b in range(3):
        for k in range(2):
            hidden = beit_in_loops(side, target, min_cells, aspect, draws[b][k], slopes[b][k])
            assert len(hidden) == target
            assert {(y, x) for y, x in got[b, k].nonzero().tolist()} == hidden


def test_block__aspect_ratio_is_log_uniform() -> None:
    # One block of exactly its area: 144 cells of 64 x 64, a ratio at which nothing is cut by much.
    method = Blocks(64, 144 / 64**2, 1, 144, 0.3, 1)
    masks = method(make_batch(64, 1000)).masks[:, 0]
    height, width = masks.amax(2).sum(1), masks.amax(1).sum(1)
    logarithm = (height / width).log() / math.log(0.3)  # uniform in [-1, 1]
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        at = logarithm.quantile(quantile).item()
        assert at == pytest.approx(2 * quantile - 1, abs=0.1)
    assert (height / width).median().item() == pytest.approx(1, abs=0.1)


def test_block__rest_of_an_exhausted_mask_is_cut_from_the_image() -> None:
    method = Blocks(64, 0.7, 2, 1, 0.3, 1)  # one block can be far from 70%
    assert (method(make_batch(64, 50)).masks.mean((1, 2, 3)) == round(0.7 * 1024) / 1024).all()


# Multi-block --------------------------------------------------------------------------------------


def ijepa_in_loops(method: MultiBlock, side: int, draws: list) -> set[tuple[int, int]]:
    """Cells of the context without the targets; of too few, also those least hidden."""

    def block(scale: tuple, aspect: tuple, u: list) -> set[tuple[int, int]]:
        share = scale[0] + u[0] * (scale[1] - scale[0])
        ratio = aspect[0] + u[1] * (aspect[1] - aspect[0])
        return place(side, share * side**2, ratio, u[2], u[3])

    context = block(method.context_scale, (1, 1), draws[0])
    targets = [block(method.target_scale, method.target_aspect, u) for u in draws[1:]]
    visible = set(context)
    for target in targets:
        visible -= target
    everywhere = [(y, x) for y in range(side) for x in range(side)]
    everywhere.sort(key=lambda at: (at not in context, sum(at in t for t in targets), at))
    return visible | set(everywhere[: method.min_visible])


@few
@given(
    grid=grids,
    targets=st.integers(1, 6),
    low=st.floats(0.05, 0.3),
    aspect=st.floats(0.3, 1),
    context=st.floats(0.3, 1),
    seed=seeds,
)
def test_multiblock__is_the_papers_context(
    grid: tuple[int, int], targets: int, low: float, aspect: float, context: float, seed: int
) -> None:
    side, patch = grid
    method = MultiBlock(
        side * patch, patch, targets, [low, 0.35], [aspect, 1 / aspect], [context, 1.0], 2
    )
    batch = make_batch(side * patch, 4, seed=seed)
    shown = 1 - cells(method(batch).masks, patch)[:, 0]
    draws = batch.streams.uniform("mask/multiblock", 1 + targets, 4).tolist()
    for b in range(4):
        expected = ijepa_in_loops(method, side, draws[b])
        assert {(y, x) for y, x in shown[b].nonzero().tolist()} == expected


def test_multiblock__hides_the_targets_and_leaves_enough() -> None:
    hidden = cells(build("multiblock", 96)(make_batch(96, 2000)).masks, 4).mean((1, 2, 3))
    assert hidden.mean().item() == pytest.approx(0.54, abs=0.02)
    assert hidden.min() > 0.15
    crowded = build("multiblock", 16, num_targets=40)(make_batch(16, 200)).masks
    assert (1 - cells(crowded, 4)).sum((1, 2, 3)).min() == 4


# Cutout -------------------------------------------------------------------------------------------


@few
@given(size=st.integers(8, 40), ratio=st.floats(0.02, 0.85), inside=st.booleans(), seed=seeds)
def test_cutout__loop(size: int, ratio: float, inside: bool, seed: int) -> None:
    batch = make_batch(size, 3, seed=seed)
    masks = Cutout(size, ratio, inside, num_masks=2)(batch).masks
    side = round(math.sqrt(ratio) * size)
    draws = batch.streams.uniform("mask/cutout", 2, 2).tolist()
    for b in range(3):
        for k in range(2):
            u, v = draws[b][k]
            expected = torch.zeros(size, size)
            if inside:
                top, left = int(u * (size - side + 1)), int(v * (size - side + 1))
            else:
                top, left = int(u * size) - side // 2, int(v * size) - side // 2
            for y in range(max(top, 0), min(top + side, size)):
                for x in range(max(left, 0), min(left + side, size)):
                    expected[y, x] = 1
            assert torch.equal(masks[b, k], expected)
            assert not inside or masks[b, k].sum() == side**2


def test_cutout__is_cut_off_at_the_border_as_often_as_its_centre_is_near_it() -> None:
    area = Cutout(32, 0.25)(make_batch(count=4000)).masks.sum((1, 2, 3))
    assert area.max() == 16**2
    assert area.min() == 8**2
    assert (area == 16**2).float().mean().item() == pytest.approx((17 / 32) ** 2, abs=0.03)
    mean_side = sum(min(c + 8, 32) - max(c - 8, 0) for c in range(32)) / 32
    assert area.mean().item() == pytest.approx(mean_side**2, rel=0.02)


# Noise --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "side"), [(0.5, 8), (1.5, 24), (3.0, 48)])
def test_blur__is_scipys_gaussian_filter(sigma: float, side: int) -> None:
    white = Streams(0, 0, torch.arange(2)).normal("test", side, side)
    for got, image in zip(blur(white, sigma), white, strict=True):
        expected = gaussian_filter(image.double().numpy(), sigma, mode="wrap", truncate=7)
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_colour_noise__of_loops_and_bands_that_sum_to_the_noise() -> None:
    white = Streams(0, 0, torch.arange(3)).normal("test", 8, 8)
    weak, strong = (torch.zeros(3, 8, 8, dtype=torch.float64) for _ in range(2))
    for blurred, sigma in ((weak, 0.7), (strong, 1.2)):
        weights = {
            (y, x): math.exp(-(y * y + x * x) / 2 / sigma**2)
            for y in range(-3, 5)
            for x in range(-3, 5)
        }
        for y in range(8):
            for x in range(8):
                for (v, u), weight in weights.items():
                    source = white[:, (y + v) % 8, (x + u) % 8]
                    blurred[:, y, x] += weight / sum(weights.values()) * source
    bands = {c: colour_noise(white, c, 0.7, 1.2) for c in ("red", "green", "blue", "purple")}
    torch.testing.assert_close(bands["red"], strong.float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(bands["blue"], white - weak.float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(bands["green"], (weak - strong).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(bands["purple"], bands["red"] + bands["blue"], atol=1e-5, rtol=0)
    torch.testing.assert_close(sum(bands[c] for c in ("red", "green", "blue")), white)


def test_colour_noise__has_its_power_where_its_name_says() -> None:
    white = Streams(0, 0, torch.arange(16)).normal("test", 32, 32)
    across = torch.fft.fftfreq(32)
    frequency = (across[:, None].square() + across.square()).sqrt()

    def power(colour: str) -> list[float]:
        spectrum = torch.fft.fft2(colour_noise(white, colour, 0.75, 1.5)).abs().square().mean(0)
        edges = [(0, 0.06), (0.15, 0.25), (0.45, 0.75)]
        return [spectrum[(frequency >= a) & (frequency < b)].mean().item() / 1024 for a, b in edges]

    low, middle, high = power("red")
    assert low > 0.5 > 10 * middle > 10 * high
    low, middle, high = power("blue")
    assert high > 0.5 > 3 * middle > 30 * low
    low, middle, high = power("green")
    assert middle > 4 * max(low, high)
    low, middle, high = power("purple")
    assert min(low, high) > 2 * middle


@few
@given(
    grid=grids,
    share=st.floats(0, 1),
    colour=st.sampled_from(["red", "green", "blue", "purple"]),
    seed=seeds,
)
def test_noise__loop(grid: tuple[int, int], share: float, colour: str, seed: int) -> None:
    side, patch = grid
    hidden = 1 + round(share * (side**2 - 2))
    batch = make_batch(side * patch, 3, seed=seed)
    method = ColourNoise(side * patch, hidden / side**2, patch, colour, 0.75, 1.5, 5, num_masks=2)
    got = cells(method(batch).masks, patch).flatten(2).tolist()
    bank = method.bank.tolist()
    draws = batch.streams.uniform("mask/noise", 2, 5).tolist()
    for b in range(3):
        for k in range(2):
            which, top, up, left, back = draws[b][k]
            image, top, left = bank[int(which * 5)], int(top * 2 * side), int(left * 2 * side)
            values = []
            for i in range(side):
                for j in range(side):
                    y = top + i if up < 0.5 else top - i
                    x = left + j if back < 0.5 else left - j
                    values.append(image[y % (2 * side)][x % (2 * side)])
            assert got[b][k] == best_in_loops(values, hidden)


def test_colour_noise__refuses_an_unknown_colour() -> None:
    with pytest.raises(UserError, match="colour=pink is not one of red, green, blue, purple"):
        colour_noise(torch.zeros(1, 4, 4), "pink", 0.75, 1.5)


def test_noise__bank_is_the_same_for_every_run_and_no_part_of_a_checkpoint() -> None:
    torch.manual_seed(1)
    first = build("noise").bank
    torch.manual_seed(2)
    assert torch.equal(first, build("noise").bank)
    assert len(first.flatten(1).unique(dim=0)) == 64
    assert not build("noise").state_dict()


def test_noise__colours_differ_in_how_connected_the_hidden_is() -> None:
    def neighbours(colour: str) -> float:
        """How often the right neighbour of a hidden pixel is hidden too."""
        masks = build("noise", patch_size=1, colour=colour)(make_batch(count=200)).masks
        return ((masks[..., :-1] * masks[..., 1:]).sum() / masks[..., :-1].sum()).item()

    by_colour = {colour: neighbours(colour) for colour in ("red", "green", "purple", "blue")}
    assert by_colour["red"] > 0.7
    assert 0.4 < by_colour["green"] < 0.7
    assert by_colour["blue"] < 0.2 < by_colour["purple"] + 0.05
