"""Views are what torchvision makes of the same parameters, compiled or not, on any device."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from benchmark import augment as module
from benchmark.augment import Augment
from benchmark.streams import Streams

MakeImages = Callable[..., Tensor]
TOLERANCE = 0.01 / 255
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
GPU = pytest.param("cuda", marks=needs_gpu)


@pytest.fixture
def traceable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the checks of shapes that tests add to every function: dynamo cannot follow them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def streams(count: int, *, epoch: int = 0, device: str = "cpu") -> Streams:
    return Streams(0, epoch, torch.arange(count, device=device))


def assert_close(ours: Tensor, theirs: Tensor, atol: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def by_torchvision(image: Tensor, size: int, taps: int, own: dict[str, Tensor]) -> Tensor:
    """The view of one image with its own parameters, operation by operation on floats."""
    box, mode = own["boxes"].tolist(), InterpolationMode.BICUBIC
    view = tv.resized_crop(image / 255, *box, [size, size], mode, antialias=True).clamp(0, 1)
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    amounts = [*own["factors"].tolist(), own["shift"].item()]
    if amounts != [1, 1, 1, 0]:
        for op in own["order"].tolist():
            view = operations[op](view, amounts[op])
    if own["grey"]:
        view = tv.rgb_to_grayscale(view, 3)
    if (sigma := own["sigma"].item()) > 0:
        view = tv.gaussian_blur(view, [taps, taps], [sigma, sigma])
    return tv.horizontal_flip(view) if own["mirrored"] else view


def assert_is_torchvisions(augment: Augment, images: Tensor, view: int) -> None:
    drawn_by = streams(len(images), device=images.device.type)
    ours = augment(images, drawn_by, view).cpu()
    drawn = vars(augment.draw(drawn_by, (images.shape[2], images.shape[3]), view))
    drawn = {name: value.cpu() for name, value in drawn.items()}
    jittered = (drawn["factors"] != 1).any(1)
    for chosen in (jittered, drawn["sigma"] > 0, drawn["grey"], drawn["mirrored"]):
        assert 0 < chosen.sum() < len(images)
    for k, image in enumerate(images.cpu()):
        own = {name: value[k] for name, value in drawn.items()}
        theirs = by_torchvision(image, augment.image_size, augment.blur_kernel, own)
        assert_close(ours[k], theirs)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("source", [(32, 32), (96, 96), (160, 120), (375, 500)])
@pytest.mark.parametrize("size", [32, 96])
def test_augment__is_torchvisions_chain(
    noise: MakeImages, size: int, source: tuple[int, int], view: int, device: str
) -> None:
    assert_is_torchvisions(Augment(size), noise(24, *source).to(device), view)


@pytest.mark.slow
@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize("device", [pytest.param("cpu", marks=needs_compiler), GPU])
def test_compile__is_torchvisions_chain(noise: MakeImages, device: str) -> None:
    augment = Augment(32)
    augment.compile()
    assert_is_torchvisions(augment, noise(24, 40, 40).to(device), 1)


@pytest.mark.usefixtures("traceable")
def test_compile__makes_one_graph_for_each_shape(
    noise: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, plain, compiled = noise(16, 40, 36), Augment(32), Augment(32)
    counter = CompileCounterWithBackend("aot_eager")
    compiled.compile(counter)
    assert compiled == plain
    assert hash(compiled) == hash(plain)

    def assert_same(count: int, epoch: int, view: int) -> None:
        drawn_by = streams(count, epoch=epoch)
        ours = compiled(images[:count], drawn_by, view)
        assert_close(ours, plain(images[:count], drawn_by, view), 1e-6)

    for epoch, view in itertools.product(range(3), range(2)):
        assert_same(12, epoch, view)
    assert counter.frame_count == 1
    assert_same(5, 0, 0)  # the last batch of an epoch
    assert counter.frame_count == 2
    # In two parts of 8, though there is room for 10.
    monkeypatch.setattr(module, "_values_at_once", lambda _: 10 * 3 * 40 * 36)
    assert_same(16, 0, 0)
    assert counter.frame_count == 3


@needs_gpu
@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_augment__never_waits_for_the_gpu(noise: MakeImages, compiled: bool) -> None:
    images, objects = noise(8, 40, 40).cuda(), torch.zeros(8, 40, 40, dtype=torch.int16).cuda()
    augment, drawn_by = Augment(32), streams(8, device="cuda")
    if compiled:
        augment.compile()
        augment(images, drawn_by, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(images, drawn_by, 1)
        augment.segments(objects, drawn_by, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
