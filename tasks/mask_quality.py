"""How well the masks that a method draws match the objects of the images."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.mask_metrics import rand_index, slot_labels, with_controls
from benchmark.task import Forwards, SavedMasks, Task, TaskResult
from benchmark.views import plain_segments


class MaskQuality(Task[SavedMasks]):
    """Scores of `benchmark.mask_metrics` of the first test images, each with its two controls.

    Nothing is trained and nothing is random. A score says something about objects only above the
    same score of another image's masks and of the mean mask.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[Literal["labels", "pixel_labels", "segments"]] = "segments"
    scores: ClassVar[Literal["encoder", "masks"]] = "masks"
    seeded: ClassVar[bool] = False

    def __init__(self) -> None:
        self.protocol = (
            "Masks of the first un-augmented test images against their objects, on hard labels: a "
            "pixel belongs to the slot that hides it most, and to none where no slot hides more "
            "than half of it; adjusted Rand index and segmentation covering, over all pixels and "
            "over those of objects (foreground), and best intersection over union of a slot with "
            "each object, per image and then averaged, in percent; other_image: with the masks of "
            "another image, mean_mask: with the mean of all masks."
        )

    def unsuited(self, encoder: nn.Module) -> str | None:
        """Why there are no masks of this method to score, or None if there are."""
        return None if encoder.hides else f"{type(encoder).__name__} hides nothing"

    def forwards(self, encoder: nn.Module, data: Dataset) -> list[Forwards]:
        """See the contract: the masks are there."""
        return []

    def run(
        self, subject: SavedMasks, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Score the masks of the first images of ``data.test``; no seed has an influence."""
        masks = subject.masks
        known = None if data.test is None else data.test.segments
        if known is None:
            raise UserError(
                f"mask_quality: data {data.name!r} has no objects in its test split; choose data "
                "that has them or leave the task out"
            )
        segments = plain_segments(known[: len(masks)], data.view_size, data.view).numpy()
        if not segments.any():
            raise UserError(
                f"mask_quality: the first {len(masks)} test images of {data.name!r} show no "
                "object; leave the task out"
            )
        found = with_controls(masks, segments)
        metrics = {name: 100 * value for name, value in found.items()}
        # The main metric is the mean of these.
        pairs = zip(slot_labels(masks)[:, None], segments[:, None], strict=True)
        score = np.array([rand_index(*pair, foreground=False) for pair in pairs])
        details = {"images": masks.shape[0], "masks": masks.shape[1]}
        return TaskResult(metrics, details, {"score": score})
