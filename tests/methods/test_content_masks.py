"""Masks that follow the content of images, against slow oracles and by property."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor
from torch._subclasses import FakeTensorMode

from benchmark.config import compose
from benchmark.contracts import Batch, MaskingMethod, Proposal
from benchmark.errors import UserError
from benchmark.instantiate import instantiate
from benchmark.plan import Planner
from benchmark.scenes import load as load_scenes
from benchmark.streams import Streams
from methods.gradient import Gradient
from methods.oracle import Oracle, bounding_boxes, dilate, erode, largest_objects
from methods.random_patches import RandomPatches
from methods.saliency import Saliency, saliency_map, spectral_residual
from methods.sequential import Sequential
from methods.swapped import Swapped

SIZE = 16
MODEST = settings(max_examples=25, deadline=None)


def make_batch(
    count: int = 4,
    *,
    size: int = SIZE,
    seed: int = 0,
    progress: float = 0.5,
    pixels: Tensor | None = None,
    segments: Tensor | None = None,
    gradient: Tensor | None = None,
) -> Batch:
    index = torch.arange(count)
    draws = Streams(seed, 0, index)
    pixels = draws.uniform("test/pixels", 3, size, size) if pixels is None else pixels
    if segments is None:
        segments = (draws.uniform("test/segments", size, size) * 6).long()
    gradient = draws.normal("test/gradient", 3, size, size) if gradient is None else gradient
    return Batch(
        views=((pixels - 0.5) * 4).expand(2, -1, -1, -1, -1),
        pixels=torch.stack([1 - pixels, pixels]),
        index=index,
        labels=None,
        segments=torch.stack([torch.zeros_like(segments), segments]),
        progress=progress,
        streams=Streams(0, 0, index),
        loss_gradient=lambda: gradient,
    )


def methods() -> dict[str, MaskingMethod]:
    return {
        "saliency": Saliency(SIZE, 0.25, 4),
        "background": Saliency(SIZE, 0.25, 4, "background"),
        "gradient": Gradient(SIZE, 0.25, 4),
        "oracle": Oracle(3),
        "eroded": Oracle(3, background=True, morphology="erosion"),
        "dilated": Oracle(3, morphology="dilation"),
        "boxes": Oracle(3, morphology="box"),
    }


def cells(masks: Tensor, patch_size: int) -> Tensor:
    """Mean of the mask in each cell, which must be 0 or 1."""
    tiles = masks.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    shares = tiles.flatten(4).mean(-1)
    assert ((shares == 0) | (shares == 1)).all()
    return shares.flatten(2)


# What they have in common -------------------------------------------------------------------------


@pytest.mark.parametrize("name", methods())
@MODEST
@given(seed=st.integers(0, 2**20), own=st.integers(0, 3))
def test_method__depends_on_its_own_image_alone(name: str, seed: int, own: int) -> None:
    method, batch, others = methods()[name], make_batch(seed=seed), make_batch(seed=seed + 1)
    masks = method(batch).masks
    assert masks.shape == (4, method.num_masks, SIZE, SIZE)
    assert masks.dtype == batch.pixels.dtype
    assert ((masks == 0) | (masks == 1)).all()
    assert torch.equal(masks, method(make_batch(seed=seed)).masks)
    for given_, other in zip(of_image(batch), of_image(others), strict=True):
        other[..., own, :, :, :] = given_[..., own, :, :, :]
    pixels, segments, gradient = of_image(others)
    mixed = make_batch(pixels=pixels[1], segments=segments[1, :, 0], gradient=gradient)
    assert torch.equal(method(mixed).masks[own], masks[own])


def of_image(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    assert batch.segments is not None
    assert batch.loss_gradient is not None
    return batch.pixels, batch.segments[:, :, None], batch.loss_gradient()


@pytest.mark.parametrize("kind", [Saliency, Gradient])
@MODEST
@given(
    start=st.floats(0.1, 0.9),
    end=st.floats(0.1, 0.9),
    progress=st.floats(0, 1),
    patch_size=st.sampled_from([1, 2, 4]),
)
def test_method__hides_the_exact_share_at_every_time(
    kind: type[MaskingMethod], start: float, end: float, progress: float, patch_size: int
) -> None:
    method = kind(SIZE, {"start": start, "end": end}, patch_size)
    masks = method(make_batch(progress=progress)).masks
    expected = round((start + (end - start) * progress) * (SIZE // patch_size) ** 2)
    assert (cells(masks, patch_size).sum(2) == expected).all()


@pytest.mark.parametrize("name", methods())
def test_method__never_reads_a_value_back(name: str) -> None:
    # Fake tensors have no values: reading one, for which a GPU would have to be waited for, raises.
    with FakeTensorMode():
        method = methods()[name]
        for wrapped in (method, Swapped(method)):
            masks = wrapped(make_batch()).encoder_masks
            assert masks.shape == (4, method.num_masks, SIZE, SIZE)
            with pytest.raises(RuntimeError):
                masks.sum().item()


@pytest.mark.parametrize("name", methods())
def test_method__is_the_same_inside_autocast(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        inside = methods()[name](make_batch()).masks
    assert torch.equal(inside, methods()[name](make_batch()).masks)


def test_method__says_what_it_needs() -> None:
    needs = {name: method.needs for name, method in methods().items()}
    assert needs["saliency"] == ()
    assert needs["gradient"] == ("loss_gradient",)
    assert needs["oracle"] == ("segments",)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Saliency(SIZE, 0.25, 5), "patch_size=5 must divide"),
        (lambda: Saliency(SIZE, 1.0, 4), "method.ratio=1.0 must lie between"),
        (lambda: Saliency(SIZE, {"start": 0.1}, 4), "method.ratio: lacks 'end'"),
        (lambda: Gradient(SIZE, 0.001, 4), "method.ratio=0.001 hides 0 of 16 cells"),
        (lambda: Gradient(SIZE, {"start": 0.2, "end": 1.5}, 4), "method.ratio=1.5"),
        (lambda: Oracle(0), "method.num_masks=0 must lie between 1 and 256"),
        (lambda: Oracle(257), "method.num_masks=257"),
        (lambda: Oracle(2, radius=0), "method.radius=0 must be at least 1"),
    ],
)
def test_method__refuses(build: Callable[[], MaskingMethod], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


# Saliency -----------------------------------------------------------------------------------------


def spectral_residual_in_loops(image: list[list[float]], sigma: float) -> list[list[float]]:
    """The paper's formulas with sums for every transform and every average."""
    n = len(image)
    every = [(v, u) for v in range(n) for u in range(n)]

    def transform(values: dict[tuple[int, int], complex], sign: int) -> dict:
        def wave(a: tuple[int, int], b: tuple[int, int]) -> complex:
            return cmath.exp(sign * 2j * math.pi * (a[0] * b[0] + a[1] * b[1]) / n)

        return {f: sum(values[p] * wave(p, f) for p in every) for f in every}

    spectrum = transform({(y, x): image[y][x] for y, x in every}, -1)
    log_amplitude = {f: math.log(abs(value)) for f, value in spectrum.items()}
    recovered = {}
    for v, u in every:
        near = [log_amplitude[(v + i) % n, (u + j) % n] for i in (-1, 0, 1) for j in (-1, 0, 1)]
        residual = log_amplitude[v, u] - sum(near) / 9
        recovered[v, u] = cmath.exp(residual + 1j * cmath.phase(spectrum[v, u]))
    power = {p: abs(value / n**2) ** 2 for p, value in transform(recovered, 1).items()}
    salient = [[0.0] * n for _ in range(n)]
    for y, x in every:
        gauss = {
            (v, u): math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * sigma**2)) for v, u in every
        }
        salient[y][x] = sum(gauss[p] * power[p] for p in every)
    return salient


@pytest.mark.parametrize(("size", "sigma"), [(6, 1.0), (8, 2.5), (9, 0.4)])
def test_spectral_residual__in_loops(size: int, sigma: float) -> None:
    images = Streams(3, 0, torch.arange(2)).uniform("test/grey", size, size)
    for image, got in zip(images, spectral_residual(images, sigma), strict=True):
        expected = torch.tensor(spectral_residual_in_loops(image.tolist(), sigma))
        # The transforms are orthonormal: the residual has the same spectrum, the way back not.
        torch.testing.assert_close(got, expected * size**2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hide", ["salient", "background"])
def test_saliency__hides_the_cells_that_loops_rank_first(hide: Any) -> None:
    batch = make_batch(2, size=8)
    masks = Saliency(8, 0.25, 2, hide)(batch).masks
    for image, mask in zip(batch.pixels[1], masks, strict=True):
        grey = [[sum(float(c) for c in image[:, y, x]) / 3 for x in range(8)] for y in range(8)]
        salient = spectral_residual_in_loops(grey, 2.5 / 8)
        means = []
        for row in range(4):
            for column in range(4):
                ys, xs = range(2 * row, 2 * row + 2), range(2 * column, 2 * column + 2)
                means.append(sum(salient[y][x] for y in ys for x in xs) / 4)
        ranked = sorted(range(16), key=lambda k: -means[k] if hide == "salient" else means[k])
        hidden = {k for k in range(16) if cells(mask[None], 2)[0, 0, k] == 1}
        assert hidden == set(ranked[:4])


def test_saliency__finds_digits_on_photographs() -> None:
    split = load_scenes(train_count=64, test_count=1).train
    assert split.segments is not None
    objects = (split.segments > 0).float()
    batch = make_batch(64, size=32, pixels=split.images / 255)

    def share(hide: Any) -> float:
        masks = Saliency(32, 0.25, 4, hide)(batch).masks[:, 0]
        return float((masks * objects).sum() / masks.sum())

    base = float(objects.mean())
    assert share("salient") > 1.5 * base
    assert share("background") < 0.3 * base


def test_saliency_map__of_a_larger_image_is_measured_at_64_pixels() -> None:
    pixels = make_batch(1, size=128).pixels[1]
    grey = torch.tensor(
        [
            [float(pixels[0, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()) for x in range(64)]
            for y in range(64)
        ]
    )
    small, large = spectral_residual(grey[None])[0], saliency_map(pixels)[0]
    for y, x in [(0, 0), (5, 8), (77, 30), (126, 127), (127, 127)]:
        value = 0.0
        for v, wv in bilinear(y):
            for u, wu in bilinear(x):
                value += wv * wu * float(small[v, u])
        assert float(large[y, x]) == pytest.approx(value, rel=1e-3)


def bilinear(place: int) -> list[tuple[int, float]]:
    """Pixels of 64 on either side of pixel centre ``place`` of 128, with their weights."""
    at = (place + 0.5) / 2 - 0.5
    low = math.floor(at)
    return [(max(low, 0), low + 1 - at), (min(low + 1, 63), at - low)]


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_saliency__a_flat_image_has_a_finite_map_and_the_share_hidden(level: float) -> None:
    pixels = torch.full((2, 3, SIZE, SIZE), level)
    assert saliency_map(pixels).isfinite().all()
    assert (Saliency(SIZE, 0.25, 4)(make_batch(2, pixels=pixels)).masks.mean((2, 3)) == 0.25).all()


# Gradient -----------------------------------------------------------------------------------------


def test_gradient__hides_the_cells_that_loops_rank_first() -> None:
    batch = make_batch(3)
    assert batch.loss_gradient is not None
    masks = Gradient(SIZE, 0.3, 4)(batch).masks
    for gradient, mask in zip(batch.loss_gradient(), masks, strict=True):
        means = []
        for row in range(4):
            for column in range(4):
                norms = [
                    math.sqrt(sum(float(g) ** 2 for g in gradient[:, y, x]))
                    for y in range(4 * row, 4 * row + 4)
                    for x in range(4 * column, 4 * column + 4)
                ]
                means.append(sum(norms) / 16)
        ranked = sorted(range(16), key=lambda k: -means[k])
        hidden = {k for k in range(16) if cells(mask[None], 4)[0, 0, k] == 1}
        assert hidden == set(ranked[:5])


def test_gradient__keeps_no_graph_and_any_scale_will_do() -> None:
    gradient = Streams(5, 0, torch.arange(2)).normal("test/gradient", 3, SIZE, SIZE)
    method = Gradient(SIZE, 0.25, 4)
    masks = method(make_batch(2, gradient=gradient.clone().requires_grad_())).masks
    assert not masks.requires_grad
    assert torch.equal(masks, method(make_batch(2, gradient=gradient * 1e-12)).masks)


# Oracle -------------------------------------------------------------------------------------------


def largest_in_loops(image: list[list[int]], num_masks: int, background: bool) -> list:
    sizes: dict[int, int] = {}
    for row in image:
        for k in row:
            sizes[k] = sizes.get(k, 0) + 1
    ranked = sorted((k for k in sizes if k or background), key=lambda k: (-sizes[k], k))
    slots: list[int | None] = [*ranked, *[None] * num_masks]
    return [[[float(k == slot) for k in row] for row in image] for slot in slots[:num_masks]]


def near_in_loops(mask: list[list[float]], radius: int, choose: Callable) -> list[list[float]]:
    h, w = len(mask), len(mask[0])
    return [
        [
            choose(
                mask[v][u]
                for v in range(max(y - radius, 0), min(y + radius + 1, h))
                for u in range(max(x - radius, 0), min(x + radius + 1, w))
            )
            for x in range(w)
        ]
        for y in range(h)
    ]


def box_in_loops(mask: list[list[float]]) -> list[list[float]]:
    inside = [(y, x) for y, row in enumerate(mask) for x, value in enumerate(row) if value]
    if not inside:
        return mask
    ys, xs = [y for y, _ in inside], [x for _, x in inside]
    return [
        [float(min(ys) <= y <= max(ys) and min(xs) <= x <= max(xs)) for x in range(len(row))]
        for y, row in enumerate(mask)
    ]


SEGMENTS = st.tuples(st.integers(2, 7), st.integers(2, 7)).flatmap(
    lambda size: st.lists(
        st.lists(
            st.lists(st.sampled_from([0, 0, 1, 2, 2, 9, 255]), min_size=size[1], max_size=size[1]),
            min_size=size[0],
            max_size=size[0],
        ),
        min_size=2,
        max_size=2,
    )
)


@MODEST
@given(images=SEGMENTS, num_masks=st.integers(1, 7), background=st.booleans())
def test_largest_objects__in_loops(images: list, num_masks: int, background: bool) -> None:
    ours = largest_objects(torch.tensor(images), num_masks, background=background)
    expected = [largest_in_loops(image, num_masks, background) for image in images]
    assert ours.float().tolist() == expected


@MODEST
@given(images=SEGMENTS, radius=st.integers(1, 8))
def test_morphology__in_loops(images: list, radius: int) -> None:
    masks = largest_objects(torch.tensor(images), 3, background=True).float()
    flat = masks.flatten(0, 1).tolist()
    assert dilate(masks, radius).flatten(0, 1).tolist() == [
        near_in_loops(mask, radius, max) for mask in flat
    ]
    assert erode(masks, radius).flatten(0, 1).tolist() == [
        near_in_loops(mask, radius, min) for mask in flat
    ]
    assert bounding_boxes(masks).flatten(0, 1).tolist() == [box_in_loops(mask) for mask in flat]


def test_oracle__applies_its_morphology_to_the_masked_view() -> None:
    segments = torch.zeros(2, SIZE, SIZE, dtype=torch.long)
    segments[0, 2:9, 3:8] = 7
    segments[0, 10:13, 0:4] = 3
    segments[0, 14, 14] = 1
    batch = make_batch(2, segments=segments)

    def areas(**keys: Any) -> list[list[float]]:
        return Oracle(4, **keys)(batch).masks.sum((2, 3)).tolist()

    rest = SIZE**2 - 35 - 12 - 1
    assert areas() == [[35, 12, 1, 0], [0, 0, 0, 0]]
    assert areas(background=True) == [[rest, 35, 12, 1], [SIZE**2, 0, 0, 0]]
    assert areas(morphology="erosion") == [[15, 3, 0, 0], [0, 0, 0, 0]]  # at a border, 1 x 3
    assert areas(morphology="dilation", radius=2) == [[99, 42, 16, 0], [0, 0, 0, 0]]
    assert areas(morphology="box", background=True)[0] == [SIZE**2, 35, 12, 1]
    assert Oracle(4).reduction == "mean"
    assert Oracle(4, reduction="sum").reduction == "sum"


# Swapped ------------------------------------------------------------------------------------------


class Inner(MaskingMethod):
    """Shows its adversary one mask, its encoder another one, and learns."""

    version = 1
    needs = ("segments",)
    num_masks = 2
    reduction = "sum"

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.seen: Proposal | None = None

    def forward(self, batch: Batch) -> Proposal:
        masks = self.weight * batch.pixels[1, :, :2]
        return Proposal(masks, shown=masks[:, :1], trained=masks[:, 1:], budgets=masks.mean((2, 3)))

    def penalties(self, proposal: Proposal) -> dict[str, Tensor]:
        return {"mean": proposal.masks.mean()}

    def after_step(self, proposal: Proposal) -> None:
        self.seen = proposal


def test_swapped__moves_the_encoders_masks_on_by_one_image_and_nothing_else() -> None:
    batch, inner = make_batch(), Inner()
    own, swapped = inner(batch), Swapped(inner)(batch)
    assert torch.equal(swapped.masks, own.masks)
    assert torch.equal(swapped.adversary_masks, own.masks[:, :1])
    assert torch.equal(swapped.budgets, own.budgets)
    for k in range(4):
        assert torch.equal(swapped.encoder_masks[k], own.masks[k - 1, 1:])


def test_swapped__passes_everything_else_on() -> None:
    inner = Inner()
    method = Swapped(inner)
    proposal = method(make_batch())
    assert (method.num_masks, method.reduction, method.needs) == (2, "sum", ("segments",))
    assert method.adversarial
    assert not Swapped(RandomPatches(SIZE, 0.25, 4)).adversarial
    assert torch.equal(method.penalties(proposal)["mean"], proposal.masks.mean())
    method.after_step(proposal)
    assert inner.seen is proposal
    proposal.adversary_masks.sum().backward()
    assert inner.weight.grad is not None


def test_swapped__without_masks_of_the_encoders_own_swaps_the_adversarys() -> None:
    batch, inner = make_batch(), RandomPatches(SIZE, 0.25, 4)
    swapped = Swapped(inner)(batch)
    assert torch.equal(swapped.encoder_masks, inner(batch).masks.roll(1, 0))
    assert torch.equal(swapped.adversary_masks, inner(batch).masks)


def test_swapped__refuses_a_batch_of_one_image() -> None:
    with pytest.raises(UserError, match="the batch has 1 image alone; use a batch_size of at"):
        Swapped(RandomPatches(SIZE, 0.25, 4))(make_batch(1))


# Nested nodes -------------------------------------------------------------------------------------


def node(*overrides: str) -> dict[str, Any]:
    composed = compose(["preset=smoke", "method=swapped", *overrides])
    resolved = OmegaConf.to_container(composed.method, resolve=True)
    assert isinstance(resolved, dict)
    return resolved


def test_swapped__is_composed_from_the_command_line() -> None:
    given = node("method.inner.budget=0.3")
    assert given["inner"]["budget"] == 0.3
    method = instantiate(given)
    assert isinstance(method, Swapped)
    assert isinstance(method.inner, Sequential)
    method = instantiate(node("method@method.inner=random", "method.inner.num_masks=3"))
    assert isinstance(method.inner, RandomPatches)
    assert method.num_masks == 3
    twice = instantiate(node("method@method.inner=swapped"))
    assert isinstance(twice.inner.inner, Sequential)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method@method.inner=nonsense"], "method=nonsense is unknown; choose one of"),
        (["method.inner.bugdet=0.3"], "bugdet"),
        (["+method.inner.colour=3"], "inner: methods.sequential.Sequential: .*colour"),
        (["method.inner.num_masks=0"], "inner: method.num_masks=0 must be at least 1"),
        (["method.inner.num_masks=x"], "inner: .*num_masks='x' must be of type int"),
        (["method@method.inner=random", "method.inner._target_=methods.no"], "inner: _target_"),
        (["method.inner=3"], "inner=3 must be a node that builds a MaskingMethod"),
        (["method@method.inner=untrained"], "inner=.* must be a node that builds a MaskingMethod"),
        (["method.inner._target_=benchmark.augment.Augment"], "inner: benchmark.augment.Augment"),
    ],
)
def test_swapped__a_wrong_inner_method_is_told_in_one_sentence(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        instantiate(node(*overrides))


def test_swapped__the_hash_covers_the_inner_methods_version(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["preset=smoke", "data.train_count=128", "data.test_count=8", "method=swapped"]
    small += ["method@method.inner=random", "encoder.width=8"]
    before = Planner().plan(small).run.hash8
    assert Planner().plan(small).run.hash8 == before
    monkeypatch.setattr(RandomPatches, "version", 99)
    assert Planner().plan(small).run.hash8 != before
