"""What masks say of claims about slots: which stay empty, how smooth they are, what order holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from benchmark.mask_metrics import empty_slots
from reports.results.entrants import Entrant
from reports.results.masked_run import MaskedRun

_KERNEL = 3  # pixels, of the consistency penalty


@dataclass(frozen=True)
class SlotEvidence:
    """Masks of runs, by hash8, then seed; read when asked for."""

    runs: Mapping[str, Mapping[int, MaskedRun]]

    def empty(self, one: Entrant) -> list[list[bool]]:
        """By seed, then slot, whether hiding it costs the encoder next to nothing.

        That is what the losses of the last epoch tell; empty where they were not logged.
        """
        logs = [run.lines() for run in self.runs.get(one.hash8, {}).values()]
        judged = (empty_slots(lines, _slots(lines)) for lines in logs)
        return [empty for empty in judged if empty]

    def roughness(self, one: Entrant) -> dict[int, float]:
        """By seed, how far masks are from their own average over 3x3 pixels, in percent."""
        return {seed: roughness(masks) for seed, masks in self._masks(one).items()}

    def order_kept(self, one: Entrant, seeds: Sequence[int]) -> dict[int, float]:
        """How much more slots overlap their own number than another one in another seed.

        The mean cosine of the masks of an image, in percent; 0 where numbers mean nothing.

        Args:
            one: whose masks.
            seeds: that are taken two by two, since pairs that share a seed are not independent; an
                odd one at the end counts for nothing.

        Returns:
            By the first seed of each pair.
        """
        masks = self._masks(one)
        return {
            first: order_kept(masks[first], masks[second])
            for first, second in zip(seeds[::2], seeds[1::2], strict=False)
            if first in masks and second in masks
        }

    def _masks(self, one: Entrant) -> dict[int, Float[np.ndarray, "n k h w"]]:
        """Of the seeds that were shown the same images as the first."""
        files = {seed: run.mask_file() for seed, run in self.runs.get(one.hash8, {}).items()}
        first = next(iter(files.values()), None)
        return {
            seed: file.masks.astype(np.float64) / 255
            for seed, file in files.items()
            if first is not None and np.array_equal(file.images, first.images)
        }


def _slots(lines: Sequence[Mapping[str, Any]]) -> int:
    """How many the log tells of; 0 if it tells of none."""
    return next((len(line["slot_area"]) for line in lines if "slot_area" in line), 0)


def roughness(masks: Float[np.ndarray, "n k h w"]) -> float:
    """Root mean square of a mask less its average over 3x3 pixels, in percent of full hiding."""
    smooth = ndimage.uniform_filter(masks, size=(1, 1, _KERNEL, _KERNEL), mode="nearest")
    return 100 * float(np.sqrt(((masks - smooth) ** 2).mean()))


def order_kept(a: Float[np.ndarray, "n k h w"], b: Float[np.ndarray, "n k h w"]) -> float:
    """Cosine of like-numbered slots less that of unlike ones, mean over images, in percent."""
    if a.shape != b.shape or a.shape[1] < 2:
        return 0.0
    flat = [masks.reshape(*masks.shape[:2], -1) for masks in (a, b)]
    unit = [x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in flat]
    cosines: Float[np.ndarray, "k k"] = np.einsum("nkp,nlp->kl", *unit) / len(a)
    like = np.eye(len(cosines), dtype=bool)
    return 100 * float(cosines[like].mean() - cosines[~like].mean())
