"""Penalties against loops over the papers' formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.streams import Streams
from methods.budgets import keep_largest
from methods.penalties import (
    budget_excess,
    budget_penalty,
    consistency_penalty,
    overlap_penalty,
)

UNITS = ("share", "pixels", "literal")
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 6), st.integers(2, 6))
relaxed = settings(deadline=None, max_examples=25)


def soft_masks(shape: tuple[int, int, int, int], seed: int) -> Tensor:
    b, *rest = shape
    return Streams(seed, 0, torch.arange(b)).uniform("test/masks", *rest)


def values(masks: Tensor, b: int, k: int) -> list[list[float]]:
    return masks[b, k].tolist()


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("side", ["upper", "two"])
@pytest.mark.parametrize("over", ["image", "batch"])
@relaxed
@given(shape=shapes, seed=st.integers(0, 99))
def test_budget_penalty__loop(unit: str, side: str, over: str, shape, seed: int) -> None:
    masks = soft_masks(shape, seed)
    images, n, h, w = shape
    budgets = Streams(seed, 0, torch.arange(images)).uniform("test/budgets", n)
    got = budget_penalty(budget_excess(masks, budgets, unit), side, over)
    for k in range(n):
        excess = []
        for b in range(images):
            pixels = sum(sum(row) for row in values(masks, b, k))
            share = float(budgets[b, k])
            if unit == "share":
                excess.append(pixels / (h * w) - share)
            else:
                excess.append(pixels - share * (h * w if unit == "pixels" else 1))
        if over == "batch":
            excess = [sum(excess) / images]
        kept = [e if side == "two" or e > 0 else 0.0 for e in excess]
        expected = sum(e**2 for e in kept) / len(kept)
        assert float(got[k]) == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("history", ["sum", "union", "max"])
@relaxed
@given(shape=shapes, seed=st.integers(0, 99))
def test_overlap_penalty__loop(history: str, shape, seed: int) -> None:
    masks = soft_masks(shape, seed)
    images, n, h, w = shape
    got = overlap_penalty(masks, history)
    for i in range(n):
        total = 0.0
        for b in range(images):
            for y in range(h):
                for x in range(w):
                    before = [float(masks[b, j, y, x]) for j in range(i)] or [0.0]
                    earlier = {"sum": sum(before), "union": min(sum(before), 1), "max": max(before)}
                    total += float(masks[b, i, y, x]) * earlier[history]
        assert float(got[i]) == pytest.approx(total / (images * h * w), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@relaxed
@given(shape=shapes, seed=st.integers(0, 99))
def test_consistency_penalty__loop(kernel: int, shape, seed: int) -> None:
    if kernel // 2 * 2 > min(shape[2:]):  # a window that no image has
        return
    masks = soft_masks(shape, seed)
    images, n, h, w = shape
    reach = kernel // 2
    got = consistency_penalty(masks, kernel)
    for k in range(n):
        total = 0.0
        for b in range(images):
            m = values(masks, b, k)
            for y in range(h):
                for x in range(w):
                    near = [
                        m[v][u]
                        for v in range(max(y - reach, 0), min(y + reach + 1, h))
                        for u in range(max(x - reach, 0), min(x + reach + 1, w))
                    ]
                    total += (m[y][x] - sum(near) / len(near)) ** 2
        assert float(got[k]) == pytest.approx(total / (images * h * w), rel=1e-4, abs=1e-7)


def test_penalties__detach_only_what_they_say() -> None:
    masks = soft_masks((2, 3, 5, 5), 0).requires_grad_()
    (free,) = torch.autograd.grad(overlap_penalty(masks).sum(), masks)
    (detached,) = torch.autograd.grad(overlap_penalty(masks, detach=True).sum(), masks)
    assert free[:, 0].any()
    assert not detached[:, 0].any()  # the first mask overlaps nothing; only later ones touch it
    torch.testing.assert_close(detached[:, 2], free[:, 2])  # nothing comes after the last
    (whole,) = torch.autograd.grad(consistency_penalty(masks).sum(), masks)
    (fixed,) = torch.autograd.grad(consistency_penalty(masks, detach=True).sum(), masks)
    smooth = torch.nn.functional.avg_pool2d(masks, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(fixed, 2 * (masks - smooth).detach() / 50)
    assert not torch.allclose(whole, fixed)


@relaxed
@given(size=st.integers(2, 12), share=st.floats(0, 1), seed=st.integers(0, 99), ties=st.booleans())
def test_keep_largest__exact_share_of_the_largest(
    size: int, share: float, seed: int, ties: bool
) -> None:
    soft = soft_masks((3, 1, size, size), seed)[:, 0]
    if ties:
        soft = soft.round()
    soft.requires_grad_()
    shares = torch.tensor([share, 0.0, 1.0])
    hard = keep_largest(soft, shares)
    assert ((hard == 0) | (hard == 1)).all()
    counts = (shares * size**2).round()
    assert torch.equal(hard.sum((1, 2)), counts)
    for image, kept in zip(soft, hard, strict=True):
        inside, outside = image[kept == 1], image[kept == 0]
        if len(inside) and len(outside):
            assert inside.min() >= outside.max()
    (gradient,) = torch.autograd.grad((hard * 3).sum(), soft)
    assert (gradient == 3).all()  # straight through
