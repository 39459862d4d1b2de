"""ADIOS and ADIOS-s, the mask net, and no mask at all."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmark.contracts import Batch
from benchmark.errors import UserError
from benchmark.streams import Streams, seeded
from methods.adios import Adios, area_negentropy, sparsity_penalty
from methods.adios_s import AdiosS
from methods.mask_net import MaskNet, check_image_size
from methods.none import NoMask

SIZE = 32


def make_batch(index: Tensor | None = None, epoch: int = 0) -> Batch:
    index = torch.arange(6) if index is None else index
    pixels = Streams(1, 0, index).uniform("test/pixels", 3, SIZE, SIZE)
    pixels = pixels.expand(2, -1, -1, -1, -1)
    return Batch(
        views=(pixels - 0.5) * 4,
        pixels=pixels,
        index=index,
        labels=None,
        segments=None,
        progress=0.5,
        streams=Streams(0, epoch, index),
    )


def test_sparsity_and_entropy__loop() -> None:
    area = torch.tensor([[0.1, 0.5, 0.4], [0.2, 0.2, 0.6]])
    sparsity = sum(1 / math.sin(math.pi * float(a)) for a in area.flatten()) / 2
    assert float(sparsity_penalty(area)) == pytest.approx(sparsity, rel=1e-5)
    for b in range(2):
        weights = [math.exp(float(a)) for a in area[b]]
        p = [w / sum(weights) for w in weights]
        expected = sum(q * math.log(q) for q in p)
        assert float(area_negentropy(area)[b]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("term", ["sparsity", "entropy"])
def test_penalties__with_the_mean_of_losses_are_n_times_smaller(term: str) -> None:
    settings = {"num_masks": 3, "width": 8, "norm": "instance", "sparsity": 0.9, "entropy": 0.7}
    found = {}
    for reduction in ("sum", "mean"):
        with seeded(0, "test/method"):
            method = Adios(SIZE, reduction=reduction, **settings)
        found[reduction] = method.penalties(method(make_batch()))[term]
    torch.testing.assert_close(found["sum"], 3 * found["mean"])


@pytest.mark.parametrize("area", [0.0, 1.0])
def test_sparsity_penalty__full_and_empty_masks_cost_in_float32(area: float) -> None:
    assert float(sparsity_penalty(torch.tensor([[area]]))) > 1e3


# Mask generators ----------------------------------------------------------------------------------


def test_none__hides_nothing() -> None:
    assert not NoMask()(make_batch()).masks.any()


def test_adios__masks_share_every_pixel_out() -> None:
    masks = Adios(SIZE, 3, 8, "instance", sparsity=0.9, entropy=0.7)(make_batch()).masks
    assert masks.shape == (6, 3, SIZE, SIZE)
    torch.testing.assert_close(masks.sum(1), torch.ones(6, SIZE, SIZE))


def test_adios_s__shows_one_random_slot_of_each_image_and_penalises_all() -> None:
    settings = {"num_masks": 3, "width": 8, "norm": "instance", "sparsity": 0.9, "entropy": 0.7}
    with seeded(0, "test/method"):
        method = AdiosS(SIZE, **settings)
    with seeded(0, "test/method"):
        whole = Adios(SIZE, **settings)
    batch = make_batch(torch.arange(40))
    proposal, parent = method(batch), whole(batch)
    assert torch.equal(proposal.masks, parent.masks)
    assert proposal.encoder_masks is proposal.adversary_masks is proposal.shown
    slots = []
    for own, shown in zip(proposal.masks, proposal.shown, strict=True):
        slots += [k for k in range(3) if torch.equal(own[k], shown[0])]
    assert len(slots) == 40
    assert all(6 <= slots.count(k) <= 22 for k in range(3))
    assert torch.equal(proposal.shown, method(batch).shown)
    for name, value in method.penalties(proposal).items():
        assert torch.equal(value, whole.penalties(parent)[name])


@pytest.mark.parametrize("size", [32, 64, 96, 128])
def test_mask_net__keeps_the_resolution(size: int) -> None:
    assert MaskNet(size, 8, "none")(torch.randn(2, 3, size, size)).shape == (2, 8, size, size)


@pytest.mark.parametrize(("size", "remedy"), [(30, "32"), (50, "48 or 56"), (100, "96 or")])
def test_check_image_size__says_which_sizes_fit(size: int, remedy: str) -> None:
    with pytest.raises(UserError, match=f"images of {size} pixels.*{remedy}"):
        check_image_size(size)
