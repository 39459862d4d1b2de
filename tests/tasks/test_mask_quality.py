from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError
from benchmark.mask_metrics import CONTROLS, SCORES, with_controls
from benchmark.result_file import main_metric
from benchmark.task import SavedMasks
from methods.complementary import ComplementaryPatches
from methods.none import NoMask
from tasks.mask_quality import MaskQuality

CPU = torch.device("cpu")
SIZE = 16


def objects(count: int = 12, size: int = SIZE) -> torch.Tensor:
    """Two rectangles per image, each at a place of its own."""
    draws = np.random.default_rng(0)
    found = torch.zeros(count, size, size, dtype=torch.uint8)
    for image in found:
        for k in (1, 2):
            top, left = draws.integers(0, size - 6, 2)
            image[top : top + 6, left : left + 5] = k
    return found


def masks_of(segments: torch.Tensor) -> np.ndarray:
    """Masks that hide one object each."""
    return np.stack([255 * (segments.numpy() == k) for k in (2, 1)], axis=1).astype(np.uint8)


def dataset(segments: torch.Tensor | None, **changes: Any) -> Dataset:
    count, size = (3, SIZE) if segments is None else (len(segments), segments.shape[-1])
    split = Split(torch.zeros(count, 3, size, size, dtype=torch.uint8), segments=segments)
    half = (0.5, 0.5, 0.5)
    return Dataset("toy", split, split, (), half, half, "", "", **changes)


def scores(masks: np.ndarray, data: Dataset) -> Any:
    return MaskQuality().run(SavedMasks(masks), data, eval_seed=0, device=CPU)


def test_run__perfect_masks_and_their_controls() -> None:
    segments = objects()
    result = scores(masks_of(segments), dataset(segments))
    assert next(iter(result.metrics)) == "ari"
    assert set(result.metrics) == {*SCORES, *(f"{s}_{c}" for s in SCORES for c in CONTROLS)}
    for score in SCORES:
        assert result.metrics[score] == pytest.approx(100)
        for control in CONTROLS:
            assert result.metrics[f"{score}_{control}"] < 80, (score, control)
    assert result.details == {"images": 12, "masks": 2}


def test_run__figures_are_those_of_the_report_in_percent() -> None:
    segments = objects()
    masks = np.random.default_rng(1).integers(0, 256, (12, 3, SIZE, SIZE), dtype=np.uint8)
    expected = {k: 100 * v for k, v in with_controls(masks, segments.numpy()).items()}
    result = scores(masks, dataset(segments))
    assert result.metrics == expected
    assert main_metric(result.per_image) == pytest.approx(expected["ari"], rel=1e-12)
    for k, score in enumerate(result.per_image["score"]):
        alone = with_controls(masks[k : k + 1], segments[k : k + 1].numpy())
        assert score == alone["ari"]


def test_run__masks_are_of_the_first_images() -> None:
    segments = objects()
    result = scores(masks_of(segments[:5]), dataset(segments))
    assert result.metrics["ari"] == pytest.approx(100)
    assert result.details["images"] == 5


@pytest.mark.parametrize("view", ["whole", "centre"])
def test_run__objects_are_seen_as_the_masks_saw_the_images(view: Any) -> None:
    segments = objects(size=2 * SIZE)
    cut = slice(SIZE // 2, SIZE // 2 + SIZE)
    seen = segments[:, cut, cut] if view == "centre" else segments[:, 1::2, 1::2]
    data = dataset(segments, view_size=SIZE, view=view)
    result = scores(masks_of(seen), data)
    assert result.metrics["ari"] == pytest.approx(100, abs=1e-9)


def test_run__refuses_what_the_masks_are_not_of() -> None:
    segments = objects()
    with pytest.raises(UserError, match="'toy' has no objects in its test split"):
        scores(masks_of(segments), dataset(None))
    with pytest.raises(UserError, match="the first 12 test images of 'toy' show no object"):
        scores(masks_of(segments), dataset(torch.zeros_like(segments)))


def test_unsuited__method_without_masks() -> None:
    assert MaskQuality().unsuited(NoMask()) == "NoMask hides nothing"
    assert (
        MaskQuality().unsuited(ComplementaryPatches(num_masks=2, patch_size=4, image_size=16))
        is None
    )


def test_mask_quality__scores_masks_without_a_seed() -> None:
    assert MaskQuality.scores == "masks"
    assert MaskQuality.needs == "segments"
    assert not MaskQuality.seeded
