"""Clusters of features compared with the classes: what an encoder groups without any label."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Integer
from threadpoolctl import threadpool_limits
from torch import nn

from benchmark.dataset import Dataset
from benchmark.errors import UserError, at_least
from benchmark.precision import check_precision
from benchmark.streams import Streams
from benchmark.task import Task, TaskResult
from tasks.features import SplitName, check_size, examples, frozen_features


class Clustering(Task[nn.Module]):
    """Agreement of k-means clusters of frozen features with the classes of the test images.

    Normalised mutual information (over the arithmetic mean of the entropies), adjusted Rand index
    and Fowlkes-Mallows index, in percent. k-means is scikit-learn's, with k-means++ starts drawn by
    the evaluation seed; the start with the smallest sum of squares counts.

    By default the centres come from the train split and test images belong to the nearest one, as
    a head is trained on train and scored on test; so a test image's cluster does not depend on
    the other test images. ADIOS (main_clustering.py) clusters the test split by itself, into one
    cluster fewer than there are classes and without a seed.

    Args:
        fit_on: "train" or "test", where the centres come from.
        extra_clusters: clusters beyond the number of classes; -1 as in ADIOS.
        starts: how often k-means begins anew.
        max_iterations: most iterations after each start.
        precision: "fp32" or "bf16", for the encoder.

    Raises:
        UserError: for values that do not exist or are out of range.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[Literal["labels", "pixel_labels", "segments"]] = "labels"

    def __init__(
        self,
        *,
        fit_on: SplitName = "train",
        extra_clusters: int = 0,
        starts: int = 10,
        max_iterations: int = 300,
        precision: str = "fp32",
    ) -> None:
        if fit_on not in ("train", "test"):
            raise UserError(f"clustering: fit_on={fit_on} is not one of train, test")
        at_least(1, "clustering: ", starts=starts, max_iterations=max_iterations)
        check_precision(precision)
        self.fit_on = fit_on
        self.extra_clusters = extra_clusters
        self.starts = starts
        self.max_iterations = max_iterations
        self.precision = precision
        count = "as many clusters as classes"
        if extra_clusters:
            more = "more" if extra_clusters > 0 else "fewer"
            count = f"{abs(extra_clusters)} clusters {more} than classes"
        nearest = ", test images in the cluster of the nearest centre" if fit_on == "train" else ""
        self.protocol = (
            f"k-means on frozen features of un-augmented {fit_on} images{nearest}: {count}, the "
            f"best of {starts} starts (k-means++, at most {max_iterations} iterations), encoder in "
            f"{precision}; normalised mutual information, adjusted Rand index and Fowlkes-Mallows "
            "index of test clusters and classes, in percent."
        )

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse more clusters than images, none at all, and a size that the encoder refuses."""
        check_size(encoder, data)
        images, _ = examples(data, self.fit_on, "labels")
        clusters = self._clusters(data)
        if not 1 <= clusters <= len(images):
            raise UserError(
                f"clustering: extra_clusters={self.extra_clusters} makes {clusters} clusters of "
                f"the {len(images)} {self.fit_on} images of {data.name!r}; choose a number that "
                f"makes 1 to {len(images)}"
            )

    def run(
        self, subject: nn.Module, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Cluster one split and compare the clusters of ``data.test`` with its classes."""
        from sklearn.cluster import KMeans  # here, as scikit-learn takes long to import

        self.check(subject, data)
        splits: dict[SplitName, None] = dict.fromkeys((self.fit_on, "test"))
        found = frozen_features(subject, data, tuple(splits), self.precision, device)
        (known, _), (asked, classes) = found[self.fit_on], found["test"]
        start = Streams(eval_seed, 0, torch.arange(1)).uniform("clustering/start")
        means = KMeans(
            self._clusters(data),
            n_init=self.starts,
            max_iter=self.max_iterations,
            random_state=int(start.item() * 2**24),
        )
        # More threads would add up in an order that depends on the number of cores and on chance.
        with threadpool_limits(1):
            clusters = means.fit(known.cpu().numpy()).predict(asked.cpu().numpy())
        agreed = agreement(classes.numpy(), clusters)
        metrics = {name: 100 * score for name, score in agreed.items()}
        # Nothing per image: mutual information is of the table of clusters and classes, and no mean
        # over images.
        return TaskResult(metrics, {"clusters": means.n_clusters})

    def _clusters(self, data: Dataset) -> int:
        _, labels = examples(data, "train", "labels")
        return int(labels.max()) + 1 + self.extra_clusters


def agreement(
    classes: Integer[np.ndarray, "n"], clusters: Integer[np.ndarray, "n"]
) -> dict[str, float]:
    """The scores of `Clustering`, 1 where clusters and classes are the same."""
    from sklearn import metrics

    scores = {
        "nmi": metrics.normalized_mutual_info_score,
        "ari": metrics.adjusted_rand_score,
        "fmi": metrics.fowlkes_mallows_score,
    }
    return {name: float(score(classes, clusters)) for name, score in scores.items()}
