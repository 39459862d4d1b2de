"""Nearest neighbours in feature space: no training, so no setting that could favour a method."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from benchmark.contracts import Dataset, Task, TaskResult, UserError, at_least
from benchmark.precision import autocast
from tasks.features import Inputs, check_size, examples, extract, unchanged, working_copy


class KNN(Task):
    """Vote of the nearest training samples by cosine, weighted by exp(cosine / temperature).

    The rule of Wu et al. (arXiv 1805.01978, sec. 3.4). Nothing is random: the evaluation seed has
    no influence. ``k`` and ``temperature`` are set beforehand and never chosen by the test score.

    Args:
        k: number of neighbours.
        temperature: the smaller, the more the nearest of them count.
        precision: "fp32" or "bf16", for the encoder.

    Raises:
        UserError: for values out of range.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[Literal["labels", "pixel_labels"]] = "labels"

    def __init__(self, *, k: int = 20, temperature: float = 0.07, precision: str = "fp32") -> None:
        at_least(1, "knn: ", k=k)
        if temperature <= 0:
            raise UserError(f"knn: temperature={temperature} must be above 0")
        autocast(precision, torch.device("cpu"))  # refuses an unknown precision
        self.k = k
        self.temperature = temperature
        self.precision = precision
        self.protocol = (
            f"Vote of the {k} training samples nearest by cosine of frozen features, weighted by "
            f"exp(cosine / {temperature:g}); encoder in {precision}; top-1 accuracy on "
            "un-augmented test images."
        )

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse more neighbours than there are images, and a size that the encoder refuses."""
        check_size(encoder, data)
        if self.k > len(data.train):
            raise UserError(
                f"knn: k={self.k} exceeds the {len(data.train)} training images of "
                f"{data.name!r}; choose a smaller k"
            )

    def run(
        self, encoder: nn.Module, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Look up each test sample in the train split; ``eval_seed`` has no influence."""
        images, labels = examples(data, "train", "labels")
        test_images, test_labels = examples(data, "test", "labels")
        self.check(encoder, data)
        inputs = Inputs(data.mean, data.std, device)
        body = working_copy(encoder, device, freeze=True)
        with unchanged(body):
            known = extract(body, images, inputs, self.precision)
            asked = extract(body, test_images, inputs, self.precision)
        vote = KNeighborsClassifier(self.k, weights=self._weights, metric="cosine")
        vote.fit(known.cpu().numpy(), labels.cpu().numpy())
        correct = vote.predict(asked.cpu().numpy()) == test_labels.cpu().numpy()
        return TaskResult({"accuracy": 100 * float(np.mean(correct))})

    def _weights(self, distances: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        # The cosine is 1 minus scikit-learn's distance; the factor exp(1 / temperature) cancels
        # in the vote and could overflow.
        weights: Float[np.ndarray, "n k"] = np.exp(-distances / self.temperature)
        return weights
