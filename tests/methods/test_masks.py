"""Masking methods against slow oracles written from their papers, and by property."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmark.contracts import Batch, Proposal, UserError
from benchmark.streams import Streams, seeded
from methods.adios import Adios, area_negentropy, sparsity_penalty
from methods.mask_net import MaskNet, check_image_size
from methods.none import NoMask
from methods.random_patches import RandomPatches
from methods.sequential import (
    Sequential,
    budget_penalty,
    consistency_penalty,
    overlap_penalty,
)
from methods.superpixel_budget import SuperpixelBudget

SIZE = 32
LEARNED = {
    "image_size": SIZE,
    "width": 8,
    "norm": "instance",
    "budget_side": "upper",
    "budget_weight": 30.0,
    "overlap_weight": 1e-4,
    "consistency_weight": 1e-4,
    "penalty_size": 96,
    "initial_area": 0.25,
}
SUPERPIXELS = {
    "num_segments": 64,
    "compactness": 0.1,
    "slic_iterations": 5,
    "kmeans_iterations": 10,
    "min_budget": 0.05,
    "max_budget": 0.5,
}


def sequential(num_masks: int = 4, **changes) -> Sequential:
    with seeded(0, "test/method"):
        return Sequential(**{**LEARNED, "num_masks": num_masks, "budget": 0.25, **changes})


def make_batch(index: Tensor | None = None, epoch: int = 0) -> Batch:
    index = torch.arange(6) if index is None else index
    pixels = Streams(1, 0, index).uniform("test/pixels", 3, SIZE, SIZE)
    views = (pixels - 0.5).expand(2, -1, -1, -1, -1) * 4
    return Batch(views, pixels, index, None, 0.5, Streams(0, epoch, index))


def soft_masks(n: int = 3) -> Tensor:
    return Streams(2, 0, torch.arange(2)).uniform("test/masks", n, 5, 6)


# Penalties, as loops over the papers' formulas ----------------------------------------------------


@pytest.mark.parametrize("side", ["upper", "two"])
def test_budget_penalty__loop(side: str) -> None:
    masks = soft_masks()
    budgets = torch.tensor([[0.2, 0.5, 0.6], [0.9, 0.4, 0.3]])
    total = 0.0
    for b in range(2):
        for k in range(3):
            area = sum(float(v) for v in masks[b, k].flatten()) / 30
            excess = area - float(budgets[b, k])
            total += excess**2 if side == "two" or excess > 0 else 0.0
    assert float(budget_penalty(masks, budgets, side)) == pytest.approx(total / 6, rel=1e-5)


def test_overlap_penalty__loop() -> None:
    masks = soft_masks()
    total = 0.0
    for b in range(2):
        for i in range(3):
            for y in range(5):
                for x in range(6):
                    earlier = sum(float(masks[b, j, y, x]) for j in range(i))
                    total += float(masks[b, i, y, x]) * earlier
    assert float(overlap_penalty(masks)) == pytest.approx(total / (2 * 3 * 30), rel=1e-5)


def test_consistency_penalty__loop() -> None:
    masks = soft_masks()
    total = 0.0
    for b in range(2):
        for k in range(3):
            for y in range(5):
                for x in range(6):
                    near = [
                        float(masks[b, k, v, u])
                        for v in range(max(y - 1, 0), min(y + 2, 5))
                        for u in range(max(x - 1, 0), min(x + 2, 6))
                    ]
                    total += (float(masks[b, k, y, x]) - sum(near) / len(near)) ** 2
    assert float(consistency_penalty(masks)) == pytest.approx(total / (2 * 3 * 30), rel=1e-5)


def test_sparsity_and_entropy__loop() -> None:
    area = torch.tensor([[0.1, 0.5, 0.4], [0.2, 0.2, 0.6]])
    sparsity = sum(1 / math.sin(math.pi * float(a)) for a in area.flatten()) / 2
    assert float(sparsity_penalty(area)) == pytest.approx(sparsity, rel=1e-5)
    for b in range(2):
        weights = [math.exp(float(a)) for a in area[b]]
        p = [w / sum(weights) for w in weights]
        expected = sum(q * math.log(q) for q in p)
        assert float(area_negentropy(area)[b]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("area", [0.0, 1.0])
def test_sparsity_penalty__full_and_empty_masks_cost_in_float32(area: float) -> None:
    assert float(sparsity_penalty(torch.tensor([[area]]))) > 1e3


def test_penalties__weights_are_those_of_a_96_px_image() -> None:
    masks = Streams(2, 0, torch.arange(2)).uniform("test/masks", 2, 96, 96)
    method = sequential(2, image_size=96)
    terms = method.penalties(Proposal(masks, torch.full((2, 2), 0.25)))
    literal = (masks[:, 1] * masks[:, 0]).sum((1, 2)).mean() / 2  # mean over two masks
    torch.testing.assert_close(terms["overlap"], 1e-4 * literal)


# Mask generators ----------------------------------------------------------------------------------


def test_none__hides_nothing() -> None:
    assert not NoMask()(make_batch()).masks.any()


@pytest.mark.parametrize(("ratio", "patch_size"), [(0.25, 4), (0.75, 8), (0.3, 2)])
def test_random_patches__exact_share_of_whole_cells(ratio: float, patch_size: int) -> None:
    method = RandomPatches(SIZE, ratio, patch_size, num_masks=3)
    masks = method(make_batch()).masks
    cells = (SIZE // patch_size) ** 2
    tiles = masks.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    per_cell = tiles.flatten(4).mean(-1)
    assert ((per_cell == 0) | (per_cell == 1)).all()
    assert (per_cell.sum((2, 3)) == round(ratio * cells)).all()
    assert not torch.equal(masks[:, 0], masks[:, 1])
    assert not torch.equal(masks[0], masks[1])


def test_random_patches__depend_on_sample_and_epoch_alone() -> None:
    method = RandomPatches(SIZE, 0.25, 4)
    together = method(make_batch()).masks
    assert torch.equal(together[4:5], method(make_batch(torch.tensor([4]))).masks)
    assert not torch.equal(together, method(make_batch(epoch=1)).masks)


def test_random_patches__every_cell_equally_likely() -> None:
    index = torch.arange(4000)
    batch = Batch(
        torch.zeros(2, 4000, 3, 8, 8),
        torch.zeros(4000, 3, 8, 8),
        index,
        None,
        0.0,
        Streams(0, 0, index),
    )
    share = RandomPatches(8, 0.25, 2)(batch).masks.mean((0, 1))
    assert (share - 0.25).abs().max() < 0.03


def test_adios__masks_share_every_pixel_out() -> None:
    masks = Adios(SIZE, 3, 8, "instance", sparsity=0.9, entropy=0.7)(make_batch()).masks
    assert masks.shape == (6, 3, SIZE, SIZE)
    torch.testing.assert_close(masks.sum(1), torch.ones(6, SIZE, SIZE))


def test_sequential__masks_start_near_the_initial_area() -> None:
    masks = sequential(initial_area=0.25)(make_batch()).masks
    assert (masks.mean((0, 2, 3)) - 0.25).abs().max() < 0.12
    assert ((masks > 0) & (masks < 1)).all()


def test_sequential__a_mask_depends_on_earlier_ones_and_only_on_them() -> None:
    method = sequential(4)
    batch = make_batch()
    before = method(batch).masks
    with torch.no_grad():
        method.heads[1].bias += 1.0
    after = method(batch).masks
    changed = [not torch.equal(before[:, k], after[:, k]) for k in range(4)]
    assert changed == [False, True, True, True]


def test_sequential__gradient_of_a_late_mask_reaches_early_heads() -> None:
    method = sequential(3)
    method(make_batch()).masks[:, 2].sum().backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in method.heads)


def test_superpixel_budget__of_each_image_and_within_the_clip() -> None:
    method = SuperpixelBudget(**LEARNED, **SUPERPIXELS, num_masks=4)
    index = torch.arange(2)
    pixels = torch.zeros(2, 3, SIZE, SIZE)
    pixels[0, 0, :, :8] = 1.0  # a quarter
    pixels[0, 1, :, 8:11] = 1.0
    pixels[1, 2, :16] = 0.9  # one half
    batch = Batch(pixels.expand(2, -1, -1, -1, -1), pixels, index, None, 0.0, Streams(0, 0, index))
    budgets = method(batch).budgets
    assert budgets.shape == (2, 4)
    assert ((budgets >= 0.05) & (budgets <= 0.5)).all()
    assert not torch.equal(budgets[0], budgets[1])
    torch.testing.assert_close(budgets[1], torch.tensor([0.5, 0.5, 0.05, 0.05]), atol=0.03, rtol=0)


@pytest.mark.parametrize("size", [32, 64, 96, 128])
def test_mask_net__keeps_the_resolution(size: int) -> None:
    assert MaskNet(size, 8, "none")(torch.randn(2, 3, size, size)).shape == (2, 8, size, size)


@pytest.mark.parametrize(("size", "remedy"), [(30, "32"), (50, "48 or 56"), (100, "96 or")])
def test_check_image_size__says_which_sizes_fit(size: int, remedy: str) -> None:
    with pytest.raises(UserError, match=f"images of {size} pixels.*{remedy}"):
        check_image_size(size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_masks": 0}, "num_masks=0"),
        ({"budget": 0.0}, "budget=0.0 must lie between"),
        ({"budget": 1.0}, "budget=1.0 must lie between"),
        ({"initial_area": 1.5}, "initial_area=1.5"),
        ({"budget_weight": -1.0}, "budget_weight=-1.0"),
        ({"norm": "layer"}, "norm=layer is not one of"),
        ({"width": 0}, "width=0"),
    ],
)
def test_sequential__refuses(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sequential(**{"num_masks": 2, **changes})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SIZE, 0.25, 5), "patch_size=5 must divide"),
        ((SIZE, 0.0, 4), "ratio=0.0"),
        ((SIZE, 1.0, 4), "ratio=1.0"),
        ((SIZE, 0.001, 16), "hides 0 of 4 cells"),
        ((SIZE, 0.25, 4, 0), "num_masks=0"),
    ],
)
def test_random_patches__refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RandomPatches(*arguments)
