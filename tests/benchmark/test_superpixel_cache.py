"""Superpixels found once: the same as found anew, kept whole, and true to the views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.dataset import Split
from benchmark.scenes import load
from benchmark.superpixel_cache import segmented, with_superpixels
from methods.superpixels import ColourClusters

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split() -> Split:
    return load(train_count=300, test_count=1).train


def cached(split: Split, folder: Path, clusters: ColourClusters, **changes) -> tuple[Split, list]:
    told: list[str] = []
    settings = {"folder": folder, "fingerprint": "f", "device": CPU, "report": told.append}
    return with_superpixels(split, clusters, **{**settings, **changes}), told


def test_with_superpixels__found_once_and_read_again(split: Split, tmp_path: Path) -> None:
    clusters = ColourClusters(num_segments=16)
    made, told = cached(split, tmp_path, clusters)
    assert told == ["superpixels 256/300", "superpixels 300/300"]
    assert torch.equal(made.superpixels[280:], segmented(clusters, split.images[280:]))
    again, told = cached(split, tmp_path, clusters)
    assert told == []
    assert torch.equal(again.superpixels, made.superpixels)
    assert len(list(tmp_path.iterdir())) == 1
    # What clusters them afterwards changes no superpixel.
    assert cached(split, tmp_path, replace(clusters, kmeans_iterations=3))[1] == []


@pytest.mark.parametrize("changes", [{"fingerprint": "g"}, {"clusters": ColourClusters(25)}])
def test_with_superpixels__of_other_images_or_settings_are_others(
    split: Split, tmp_path: Path, changes: dict
) -> None:
    some = Split(split.images[:8])
    cached(some, tmp_path, ColourClusters(16))
    _, told = cached(some, tmp_path, changes.pop("clusters", ColourClusters(16)), **changes)
    assert told == ["superpixels 8/8"]
    assert len(list(tmp_path.iterdir())) == 2


def test_with_superpixels__names_a_damaged_file(split: Split, tmp_path: Path) -> None:
    some = Split(split.images[:8])
    cached(some, tmp_path, ColourClusters())
    (file,) = tmp_path.rglob("*.npy")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=rf"{file} is damaged .*; delete it to have it made again"):
        cached(some, tmp_path, ColourClusters())
    np.save(file, np.zeros((7, 32, 32), np.int16))
    with pytest.raises(ValueError, match="it holds int16"):
        cached(some, tmp_path, ColourClusters())


def test_with_superpixels__a_failure_leaves_nothing(split: Split, tmp_path: Path) -> None:
    def interrupt(_words: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(split, tmp_path, ColourClusters(), report=interrupt)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
