"""Clusters of superpixels as masks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from benchmark.config import compose
from benchmark.contracts import Batch
from benchmark.errors import UserError
from benchmark.instantiate import instantiate
from benchmark.scenes import load
from benchmark.streams import Streams
from methods.superpixel import Superpixel
from methods.superpixels import ColourClusters

SETTINGS = {
    "image_size": 32,
    "num_masks": 5,
    "num_segments": 64,
    "compactness": 0.1,
    "slic_iterations": 5,
    "kmeans_iterations": 10,
    "colour": "rgb",
}


@pytest.fixture(scope="module")
def batch() -> Batch:
    """View 1 shows scenes, view 0 their negatives."""
    pixels = load(train_count=12, test_count=1).train.images.float() / 255
    views = torch.stack([1 - pixels, pixels])
    index = torch.arange(12)
    return Batch((views - 0.5) * 4, views, index, None, None, 0.5, Streams(0, 0, index))


@pytest.mark.parametrize("changes", [{}, {"num_masks": 1}, {"colour": "lab", "compactness": 10.0}])
def test_superpixel__masks_of_view_1_share_the_image_out_by_its_budgets(
    batch: Batch, changes: dict
) -> None:
    settings = {**SETTINGS, **changes}
    method = Superpixel(**settings)
    masks = method(batch).masks
    num_masks = settings.pop("num_masks")
    assert masks.shape == (12, num_masks, 32, 32)
    assert torch.equal(masks.sum(1), torch.ones(12, 32, 32))
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    del settings["image_size"]
    budgets = ColourClusters(**settings).shares(batch.pixels[1], num_masks)
    torch.testing.assert_close(masks.mean((2, 3)), budgets)
    assert (budgets.diff(dim=1) <= 0).all()


def test_superpixel__has_no_adversary_and_draws_nothing(batch: Batch) -> None:
    method = Superpixel(**SETTINGS)
    assert not method.adversarial
    assert not method.penalties(method(batch))
    later = replace(batch, streams=Streams(1, 7, batch.index), progress=1.0)
    assert torch.equal(method(later).masks, method(batch).masks)
    assert not torch.equal(method(batch.swapped()).masks, method(batch).masks)


def test_superpixel__an_image_of_one_colour_is_hidden_by_its_first_mask(batch: Batch) -> None:
    flat = replace(batch, pixels=torch.full_like(batch.pixels, 0.3))
    masks = Superpixel(**SETTINGS)(flat).masks
    assert masks[:, 0].all()
    assert not masks[:, 1:].any()


def test_superpixel__is_composed_from_the_command_line() -> None:
    given = ["preset=smoke", "method=superpixel", "method.reduction=sum", "method.num_masks=3"]
    node = OmegaConf.to_container(compose(given).method, resolve=True)
    assert isinstance(node, dict)
    method = instantiate(node)
    assert isinstance(method, Superpixel)
    assert (method.reduction, method.num_masks) == ("sum", 3)
    with pytest.raises(UserError, match="colour"):
        instantiate({**node, "colour": "hsv"})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_masks", 0),
        ("num_masks", 65),
        ("num_segments", 1025),
        ("compactness", 0.0),
        ("slic_iterations", -1),
        ("kmeans_iterations", 0),
    ],
)
def test_superpixel__refuses_when_built(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{setting}={value}"):
        Superpixel(**{**SETTINGS, setting: value})
