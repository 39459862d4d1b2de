"""Mask scores against the published ADIOS code's figures, slow loops, and cases known ahead."""

from __future__ import annotations

import json
import math
import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from benchmark.mask_metrics import (
    CONTROLS,
    SCORES,
    empty_share,
    label_scores,
    mask_scores,
    mask_statistics,
    mean_mask,
    slot_iou,
    slot_labels,
    with_controls,
)

FIGURES = Path(
    os.environ.get("MASKBENCH_FIGURES", Path(__file__).parents[1] / "data/adios_figures.json")
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def segments(rng) -> np.ndarray:
    """Two objects per image, each a rectangle at a place of its own; the second lies in front."""
    found = np.zeros((12, 16, 16), np.uint8)
    for image in found:
        for k in (1, 2):
            top, left = rng.integers(0, 10, 2)
            image[top : top + 6, left : left + 5] = k
    return found


def hidden(segments: np.ndarray) -> np.ndarray:
    """Masks that hide one object each, with an empty slot between them."""
    return np.stack([255 * (segments == k) for k in (2, 9, 1)], axis=1).astype(np.uint8)


def slow_rand_index(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Hubert and Arabie 1985 by its definition: agreement over all pairs of pixels."""
    pairs = list(combinations(range(len(truth)), 2))
    together = [truth[i] == truth[j] for i, j in pairs]
    predicted = [prediction[i] == prediction[j] for i, j in pairs]
    both = sum(a and b for a, b in zip(together, predicted, strict=True))
    chance = sum(together) * sum(predicted) / len(pairs)
    return (both - chance) / ((sum(together) + sum(predicted)) / 2 - chance)


def slow_covering(
    truth: np.ndarray, prediction: np.ndarray, *, scaled: bool, foreground: bool
) -> float:
    total = weight = 0.0
    for k in set(truth.flat) - ({0} if foreground else set()):
        best = 0.0
        for p in set(prediction.flat):
            both = either = 0
            for t, q in zip(truth.flat, prediction.flat, strict=True):
                both += t == k and q == p
                either += t == k or q == p
            best = max(best, both / either)
        size = (truth == k).sum() if scaled else 1
        total, weight = total + size * best, weight + size
    return total / weight


def test_label_scores__published_figures() -> None:
    i = np.arange(1024).reshape(4, 16, 16)
    scores = label_scores((i % 16) // 5 + (i // 48) % 3, (i % 16) // 4 + (i // 64) % 2)
    for configuration in json.loads(FIGURES.read_text()):
        for name, figure in configuration["mask_metrics"].items():
            assert scores[name] == pytest.approx(figure, rel=1e-9), name


@pytest.mark.parametrize("foreground", [False, True])
def test_label_scores__loops(rng, foreground: bool) -> None:
    truth, prediction = rng.integers(0, 4, (2, 3, 6, 6))
    scores = label_scores(prediction, truth)
    suffix = "_foreground" if foreground else ""
    pairs = list(zip(truth, prediction, strict=True))
    kept = [(t > 0) if foreground else np.ones_like(t, bool) for t in truth]
    rand = [slow_rand_index(t[k], p[k]) for (t, p), k in zip(pairs, kept, strict=True)]
    assert scores[f"ari{suffix}"] == pytest.approx(np.mean(rand), rel=1e-9)
    for name, scaled in (("mean", False), ("scaled", True)):
        slow = [slow_covering(t, p, scaled=scaled, foreground=foreground) for t, p in pairs]
        assert scores[f"{name}_segcover{suffix}"] == pytest.approx(np.mean(slow), rel=1e-6)


def test_slot_iou__loop(rng) -> None:
    masks = rng.integers(0, 256, (4, 3, 5, 5), dtype=np.uint8)
    truth = rng.integers(0, 3, (4, 5, 5), dtype=np.uint8)
    truth[1][truth[1] == 2] = 1  # an object fewer
    images = []
    for slots, objects in zip(masks, truth, strict=True):
        best = []
        for k in set(objects.flat) - {0}:
            this = objects == k
            best.append(max((this & (m > 127)).sum() / (this | (m > 127)).sum() for m in slots))
        images.append(sum(best) / len(best))
    assert slot_iou(masks, truth) == pytest.approx(np.mean(images), rel=1e-12)


def test_slot_labels__strongest_slot_and_none() -> None:
    masks = np.array([[[[200, 127, 128, 0]], [[201, 127, 127, 255]]]], np.uint8)
    assert slot_labels(masks).tolist() == [[[2, 0, 1, 2]]]


def test_mask_scores__perfect_masks(segments: np.ndarray) -> None:
    scores = mask_scores(hidden(segments), segments)
    assert scores == dict.fromkeys(SCORES, pytest.approx(1))


def test_mask_scores__no_object_in_an_image(segments: np.ndarray) -> None:
    segments[3:] = 0
    scores = mask_scores(hidden(segments), segments)
    assert scores == dict.fromkeys(SCORES, pytest.approx(1))
    scores = mask_scores(hidden(segments[3:]), segments[3:])
    assert scores["ari"] == scores["mean_segcover"] == 1
    assert math.isnan(scores["ari_foreground"])
    assert math.isnan(scores["scaled_segcover_foreground"])
    assert math.isnan(scores["miou"])


def test_with_controls__lower_for_masks_that_follow_the_image(segments: np.ndarray) -> None:
    scores = with_controls(hidden(segments), segments)
    assert set(scores) == {*SCORES, *(f"{s}_{c}" for s in SCORES for c in CONTROLS)}
    for score in SCORES:
        for control in CONTROLS:
            assert scores[f"{score}_{control}"] < scores[score] - 0.2, (score, control)


def test_with_controls__a_constant_mask_is_its_own_control(segments: np.ndarray, rng) -> None:
    one = rng.integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    scores = with_controls(np.repeat(one, len(segments), axis=0), segments)
    for score in SCORES:
        for control in CONTROLS:
            assert scores[f"{score}_{control}"] == scores[score], (score, control)


def test_mean_mask__hides_as_much_as_the_masks_do() -> None:
    rows = np.zeros((4, 1, 1, 8), np.uint8)
    for image, left in enumerate((0, 1, 2, 3)):
        rows[image, ..., left : left + 4] = 255  # only column 3 is common to all
    # Columns 0 to 6 are hidden 1, 2, 3, 4, 3, 2, 1 times; the first of the two tied ones counts.
    assert np.flatnonzero(mean_mask(rows) > 127.5).tolist() == [1, 2, 3, 4]
    assert mean_mask(rows).argmax() == 3


def test_mask_statistics__by_hand() -> None:
    left, right = np.array([[255, 255, 0, 0]]), np.array([[0, 0, 255, 255]])
    masks = np.stack([[left, right], [left, left]]).astype(np.uint8)
    statistics = mask_statistics(masks)
    assert statistics["overlap"] == pytest.approx(0.5)  # disjoint, then alike
    assert statistics["binary"] == 1
    assert statistics["area"] == statistics["area_1"] == 0.5
    assert statistics["area_1_spread"] == 0
    grey = np.full((2, 2, 1, 4), 64, np.uint8)
    grey[0] = 128
    statistics = mask_statistics(grey)
    assert statistics["overlap"] == pytest.approx(1)
    assert statistics["binary"] == 0
    assert statistics["area_2_spread"] == pytest.approx(32 / 255)


def test_mask_statistics__overlap_without_pairs() -> None:
    masks = np.zeros((3, 2, 4, 4), np.uint8)
    masks[:, 0] = 255
    assert math.isnan(mask_statistics(masks)["overlap"])
    assert math.isnan(mask_statistics(masks[:, :1])["overlap"])


def line(epoch: int, slots: list[float], unmasked: float = 1.0, blank: float = 5.0) -> dict:
    return {"epoch": epoch, "slot_loss": slots, "unmasked_loss": unmasked, "blank_loss": blank}


def test_empty_share__last_epoch_with_the_losses() -> None:
    lines = [line(0, [1.0, 1.0]), line(1, [1.1, 3.0]), line(1, [1.2, 3.0]), {"epoch": 2}]
    assert empty_share(lines, 2) == 0.5  # 0.15 of 4 is less than 5 percent
    assert empty_share([*lines, line(1, [1.5, 3.0])], 2) == 0  # 0.27 of 4 is more


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"epoch": 0, "slot_loss": [1.0, 1.0]}],
        [line(0, [1.0])],  # the loss of one mask drawn at random
        [line(0, [1.0, 1.0], blank=1.0)],
    ],
)
def test_empty_share__unknown(lines: list[dict]) -> None:
    assert math.isnan(empty_share(lines, 2))
