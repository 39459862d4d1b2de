"""What a task must be: one evaluation protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from benchmark.dataset import Dataset


@dataclass(frozen=True)
class TaskResult:
    """Scores of one encoder under one protocol.

    What each test image contributed is kept in one of three forms, an item per image that is scored
    and in the order of the test split. From it the main metric follows, see
    `benchmark.result_file.main_metric`:

    - ``predicted`` and ``truth``, int32 of shape (n,): 100 times the share of equal ones;
    - ``score``, float64 of shape (n,): 100 times the mean;
    - ``intersection`` and ``union``, int64 or uint32 of shape (n, classes): 100 times the mean of
      summed intersection / summed union, over the classes whose summed union is above 0.

    Attributes:
        metrics: name to value, accuracies and IoUs in percent; the main metric first.
        details: anything else worth keeping, such as per-class values.
        per_image: these arrays by name; empty where the main metric is of none of the forms.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    # Arrays are neither equal nor different as a whole, which `==` would ask them.
    per_image: dict[str, np.ndarray] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class SavedMasks:
    """What a method hides of the first images of a split.

    Attributes:
        masks: 255 is fully hidden.
    """

    masks: UInt8[np.ndarray, "n k h w"]


Subject = TypeVar("Subject", nn.Module, SavedMasks)


@dataclass(frozen=True)
class Forwards:
    """Images that go forward through a net.

    Attributes:
        net: the encoder, or what a task makes of it.
        size: side of the images in pixels.
        images: how many; one that comes back too counts as three.
    """

    net: nn.Module
    size: int
    images: int


class Task(ABC, Generic[Subject]):
    """Scores a frozen or fine-tuned copy of an encoder, or saved masks; writes nothing itself.

    Attributes:
        version: raised whenever a change of the code changes its results.
        scores: what `run` is given: the "encoder", or the "masks" of the test split.
        needs: the ground truth without which the task cannot run.
        seeded: whether the evaluation seed has an influence.
        protocol: one sentence that says what is trained on what, and how it is scored.
    """

    version: ClassVar[int]
    needs: ClassVar[Literal["labels", "pixel_labels", "segments"]]
    scores: ClassVar[Literal["encoder", "masks"]] = "encoder"
    seeded: ClassVar[bool] = True
    protocol: str

    def unsuited(self, encoder: nn.Module) -> str | None:
        """Why the task makes no sense for this encoder and is left out, or None if it does."""
        return None

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse what would fail in `run`; called before anything is trained.

        Raises:
            UserError: if encoder and data do not suit the task.
        """

    def forwards(self, encoder: nn.Module, data: Dataset) -> list[Forwards]:
        """What goes through the encoder, for the forecast of a dry run; heads are left out."""
        images = len(data.train) + (0 if data.test is None else len(data.test))
        return [Forwards(encoder, data.image_size, images)]

    @abstractmethod
    def run(
        self, subject: Subject, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Score ``subject`` on ``data.test`` after training any head on ``data.train``."""
