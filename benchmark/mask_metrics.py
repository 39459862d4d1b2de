"""How well soft masks match the objects of an image, beside masks that cannot know the image.

Scores are those of ADIOS (arXiv 2201.13100; the covering comes from Genesis,
arXiv 1907.13052) on hard labels: a pixel belongs to the slot that hides it most, and to none where
no slot hides more than half of it. Each score is computed per image, then averaged.

A big object in the middle of every image lets masks score that have not looked at it, so a score
counts only above the same score of another image's masks and of the mean mask of the set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Num, UInt8

Labels = Integer[np.ndarray, "n h w"]  # 0 is the background, or no slot
Masks = UInt8[np.ndarray, "n k h w"]  # 255 is fully hidden
Scores = dict[str, float]

SCORES = (
    "ari", "ari_foreground", "mean_segcover", "scaled_segcover", "mean_segcover_foreground",
    "scaled_segcover_foreground", "miou",
)  # fmt: skip
CONTROLS = ("other_image", "mean_mask")  # suffixes of a score's controls
EMPTY = 0.05  # of the loss that hiding everything adds: a slot that adds less hides nothing

_HALF = 127.5
_BINARY = (0.1 * 255, 0.9 * 255)


def with_controls(masks: Masks, segments: Labels) -> Scores:
    """``SCORES`` of the masks, and of both controls under ``<score>_<control>``."""
    controls = (np.roll(masks, 1, axis=0), np.broadcast_to(mean_mask(masks), masks.shape))
    found = mask_scores(masks, segments)
    for name, control in zip(CONTROLS, controls, strict=True):
        found |= {f"{k}_{name}": v for k, v in mask_scores(control, segments).items()}
    return found


def mean_mask(masks: Masks) -> Float[np.ndarray, "k h w"]:
    """The mean over images of each slot, as decided as the masks that it stands for.

    Masks that differ average to grey, which hides nothing by more than half and would be no
    control at all. So slot k hides those pixels that it hides most often, as many as the masks of
    one image do on average; what all masks agree on stays as it is.
    """
    mean = masks.mean(0).reshape(masks.shape[1], -1)
    hidden = np.rint((masks > _HALF).sum((0, 2, 3)) / len(masks))
    rank = (-mean).argsort(1, kind="stable").argsort(1, kind="stable")
    # Above half where hidden, in the order of the means: the labels are decided by it.
    decided = np.where(rank < hidden[:, None], 255 - (255 - mean) * 0.49, 0)
    return decided.reshape(masks.shape[1:])


def mask_scores(masks: Num[np.ndarray, "n k h w"], segments: Labels) -> Scores:
    """``SCORES`` of soft masks, values from 0 to 255."""
    return {**label_scores(slot_labels(masks), segments), "miou": slot_iou(masks, segments)}


def label_scores(prediction: Labels, segments: Labels) -> Scores:
    """Scores of hard labels: ARI and segmentation covering, all and foreground only."""
    pixels = _shared_pixels(segments, prediction)
    scores = {}
    for suffix, foreground in (("", False), ("_foreground", True)):
        scores[f"ari{suffix}"] = rand_index(prediction, segments, foreground)
        for name, scaled in (("mean", False), ("scaled", True)):
            scores[f"{name}_segcover{suffix}"] = _covering(pixels, scaled, foreground)
    return scores


def slot_labels(masks: Num[np.ndarray, "n k h w"]) -> Labels:
    """For each pixel, 1 + the slot that hides it most; 0 where none hides more than half."""
    return np.where(masks.max(1) > _HALF, masks.argmax(1) + 1, 0)


def rand_index(prediction: Labels, segments: Labels, foreground: bool) -> float:
    """Adjusted Rand index, on the pixels of objects alone if ``foreground``."""
    from sklearn.metrics import adjusted_rand_score  # here, as scikit-learn takes long to import

    pairs = ((s, p) for s, p in zip(segments, prediction, strict=True))
    if foreground:
        pairs = ((s[s > 0], p[s > 0]) for s, p in pairs)
    return _average(adjusted_rand_score(s.ravel(), p.ravel()) for s, p in pairs if s.size)


def slot_iou(masks: Num[np.ndarray, "n k h w"], segments: Labels) -> float:
    """Best IoU that a slot reaches with each object, averaged over the objects of an image.

    A slot counts with all that it hides by more than half: slots may overlap, which the labels of
    the other scores cannot express.
    """
    hidden: Bool[np.ndarray, "n k h w"] = masks > _HALF
    best, present = [], []
    for k in range(1, int(segments.max()) + 1):
        this = (segments == k)[:, None]
        union = (hidden | this).sum((2, 3))
        best.append(((hidden & this).sum((2, 3)) / np.maximum(union, 1)).max(1))
        present.append(this.any((1, 2, 3)))
    if not best:
        return float("nan")
    objects, count = np.stack(present), np.sum(present, axis=0)
    totals = np.where(objects, np.stack(best), 0).sum(0)
    return _average(totals[count > 0] / count[count > 0])


def mask_statistics(masks: Masks) -> Scores:
    """What needs no ground truth.

    ``area_<k>`` and ``area_<k>_spread`` are the mean and standard deviation over images of the
    share that slot k hides, ``area`` is the mean over slots. ``overlap`` is the cosine between the
    masks of two slots, 0 if they are disjoint and 1 if they are alike however faint, averaged over
    images and pairs; pairs with a mask of zeros do not count. ``binary`` is the share of values
    below 0.1 or above 0.9.
    """
    areas: Float[np.ndarray, "n k"] = masks.mean((2, 3)) / 255
    found = {"area": float(areas.mean())}
    for k in range(masks.shape[1]):
        found |= {
            f"area_{k + 1}": float(areas[:, k].mean()),
            f"area_{k + 1}_spread": float(areas[:, k].std()),
        }
    found["overlap"] = _overlap(masks)
    found["binary"] = float(((masks < _BINARY[0]) | (masks > _BINARY[1])).mean())
    return found


def empty_slots(lines: Iterable[Mapping[str, Any]], num_masks: int) -> list[bool]:
    """Which slots hide nothing that matters, from a run's metrics.

    Slot k is empty when its loss exceeds the loss without mask by less than ``EMPTY`` of what
    hiding everything adds, all averaged over the last epoch that has these losses. The area is
    no such test: an evenly grey mask costs the encoder almost nothing. No list where the losses are
    missing, or not there for every slot, or hiding everything adds none.
    """
    needed = ("slot_loss", "unmasked_loss", "blank_loss")
    judged = [line for line in lines if all(key in line for key in needed)]
    last = [line for line in judged if line["epoch"] == judged[-1]["epoch"]]
    if not last or any(len(line["slot_loss"]) != num_masks for line in last):
        return []
    slots, unmasked, blank = (np.mean([line[key] for line in last], axis=0) for key in needed)
    if not blank > unmasked:
        return []
    return [bool(empty) for empty in (slots - unmasked) / (blank - unmasked) < EMPTY]


def empty_share(lines: Iterable[Mapping[str, Any]], num_masks: int) -> float:
    """Share of `empty_slots`; NaN where they cannot be told."""
    empty = empty_slots(lines, num_masks)
    return float(np.mean(empty)) if empty else float("nan")


def slot_overlap(masks: Masks) -> Float[np.ndarray, "k k"]:
    """Cosine between the masks of each two slots, mean over images; 0 where one has none."""
    flat = masks.reshape(*masks.shape[:2], -1).astype(np.float32)
    norms = np.linalg.norm(flat, axis=2)
    found = np.eye(masks.shape[1])
    for (i, j), cosines in _cosines(flat, norms):
        found[i, j] = found[j, i] = cosines.mean() if cosines.size else 0.0
    return found


def _overlap(masks: Masks) -> float:
    flat = masks.reshape(*masks.shape[:2], -1).astype(np.float32)
    norms = np.linalg.norm(flat, axis=2)
    cosines = [cosines for _, cosines in _cosines(flat, norms)]
    return _average(np.concatenate([np.empty(0, np.float32), *cosines]))


def _cosines(
    flat: Float[np.ndarray, "n k p"], norms: Float[np.ndarray, "n k"]
) -> Iterator[tuple[tuple[int, int], Float[np.ndarray, "m"]]]:
    """For each pair of slots, the cosines of the images in which both hide something."""
    for i, j in combinations(range(flat.shape[1]), 2):
        both = (norms[:, i] > 0) & (norms[:, j] > 0)
        dots = np.einsum("np,np->n", flat[both, i], flat[both, j])
        yield (i, j), dots / (norms[both, i] * norms[both, j])


def _shared_pixels(segments: Labels, prediction: Labels) -> Integer[np.ndarray, "n s p"]:
    """Number of pixels of each image in segment s and region p."""
    n, rows, columns = len(segments), int(segments.max()) + 1, int(prediction.max()) + 1
    image = np.arange(n)[:, None, None]
    cell = (image * rows + segments) * columns + prediction
    counts = np.bincount(cell.ravel(), minlength=n * rows * columns)
    return counts.reshape(n, rows, columns)


def _covering(pixels: Integer[np.ndarray, "n s p"], scaled: bool, foreground: bool) -> float:
    """Best IoU of each segment, averaged over segments or weighted by their size.

    In single precision, as in the published code, whose figures then come out to the last digit.
    """
    sizes, regions = pixels.sum(2), pixels.sum(1)
    union = sizes[:, :, None] + regions[:, None] - pixels
    iou = pixels.astype(np.float32) / np.maximum(union, 1).astype(np.float32)
    weights = (sizes if scaled else sizes > 0).astype(np.float32)
    if foreground:
        weights[:, 0] = 0
    total = weights.sum(1)
    covered = (iou.max(2) * weights).sum(1)
    return _average(covered[total > 0] / total[total > 0])


def _average(values: Iterable[float] | Float[np.ndarray, "n"]) -> float:
    """Mean; NaN where no image has what is scored."""
    values = np.asarray(values if isinstance(values, np.ndarray) else list(values))
    return float(values.mean()) if values.size else float("nan")
