"""Nearest neighbours in feature space: no training, and nothing that the test split decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmark.dataset import Dataset
from benchmark.errors import UserError, at_least
from benchmark.precision import check_precision
from benchmark.streams import permutation
from benchmark.task import Task, TaskResult
from tasks.accuracy import class_pairs, percent
from tasks.features import check_size, frozen_features
from tasks.grid import Grid, HeldOut, numbers, whole_numbers

_COSINES = 2**26  # computed at once: 256 MiB

Features = Float[Tensor, "n d"]
Labels = Int[Tensor, "n"]


class KNN(Task[nn.Module]):
    """Vote of the nearest training samples by cosine, weighted by exp(cosine / temperature).

    The rule of Wu et al. (arXiv 1805.01978, sec. 3.4). Of several ``k`` and ``temperature`` the
    pair is taken that classifies training samples best by all the others (leave-one-out; the first
    of equals); the test split decides nothing. Nothing is random: the evaluation seed has no
    influence.

    Args:
        k: number of neighbours, or several to choose from.
        temperature: the smaller, the more the nearest of them count; or several to choose from.
        choose_on: most training samples to choose by, the same ones for every encoder.
        precision: "fp32" or "bf16", for the encoder.

    Raises:
        UserError: for values that are out of range, or are no numbers.
    """

    version: ClassVar[int] = 2
    needs: ClassVar[Literal["labels", "pixel_labels", "segments"]] = "labels"
    seeded: ClassVar[bool] = False

    def __init__(
        self,
        *,
        k: int | list[int] = 20,
        temperature: float | list[float] = 0.07,
        choose_on: int = 10_000,
        precision: str = "fp32",
    ) -> None:
        ks = whole_numbers("knn", "k", k)
        temperatures = numbers("knn", "temperature", temperature)
        for number in ks:
            at_least(1, "knn: ", k=number)
        for value in temperatures:
            if value <= 0:
                raise UserError(f"knn: temperature={value} must be above 0")
        at_least(1, "knn: ", choose_on=choose_on)
        check_precision(precision)
        self.grid = Grid(purpose="knn", values={"k": ks, "temperature": temperatures})
        self.candidates = list(product(ks, temperatures))
        self.choose_on = choose_on
        self.precision = precision
        several = len(self.candidates) > 1
        chosen = (
            "; numbers and temperature are those with the highest leave-one-out accuracy on "
            f"{choose_on} training samples drawn once, or on all if they are fewer"
        )
        self.protocol = (
            f"Vote of the {_choice(ks)} training samples nearest by cosine of frozen features, "
            f"weighted by exp(cosine / {_choice(temperatures)}){chosen if several else ''}; "
            f"encoder in {precision}; top-1 accuracy on un-augmented test images."
        )

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse more neighbours than there are images, and a size that the encoder refuses."""
        check_size(encoder, data)
        largest = max(k for k, _ in self.candidates)
        others = len(data.train) - (len(self.candidates) > 1)
        if largest > others:
            raise UserError(
                f"knn: k={largest} exceeds the {others} training images of {data.name!r} that a "
                "sample can be compared with; choose a smaller k"
            )

    def run(
        self, subject: nn.Module, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Look up each test sample in the train split; ``eval_seed`` has no influence."""
        self.check(subject, data)
        found = frozen_features(subject, data, ("train", "test"), self.precision, device)
        (known, labels), (asked, test_labels) = found["train"], found["test"]
        known, asked = F.normalize(known), F.normalize(asked)
        best, details = 0, dict[str, Any]()
        if len(self.candidates) > 1:
            own = permutation(0, "knn/choose", 0, len(known))[: self.choose_on]
            predicted = self._predicted(known, labels, known[own], own)
            scores = [HeldOut(percent(classes == labels[own])) for classes in predicted]
            best, details = self.grid.choose(scores, "leave_one_out")
        classes = self._predicted(known, labels, asked)[best]
        accuracy = percent(classes == test_labels)
        return TaskResult({"accuracy": accuracy}, details, class_pairs(classes, test_labels))

    def _predicted(
        self,
        known: Features,
        labels: Labels,
        asked: Float[Tensor, "m d"],
        own: Int[Tensor, "m"] | None = None,
    ) -> Int[Tensor, "c m"]:
        """The class that each candidate gives to each sample, on the CPU."""
        num_classes = int(labels.max()) + 1
        most = max(k for k, _ in self.candidates)
        parts: list[Tensor] = []
        for cosines, neighbours in nearest(known, asked, most, own):
            classes = labels[neighbours].long()
            chosen: list[Tensor] = []
            for k, temperature in self.candidates:
                # A common factor cancels in the vote; with this one the exponential is at most 1.
                weights = ((cosines[:, :k] - cosines[:, :1]) / temperature).exp()
                votes = torch.zeros(len(classes), num_classes, dtype=weights.dtype)
                votes.scatter_add_(1, classes[:, :k], weights)
                chosen.append(votes.argmax(1))
            parts.append(torch.stack(chosen))
        return torch.cat(parts, dim=1)


def nearest(
    known: Features,
    asked: Float[Tensor, "m d"],
    k: int,
    own: Int[Tensor, "m"] | None = None,
) -> Iterator[tuple[Float[Tensor, "b {k}"], Int[Tensor, "b {k}"]]]:
    """The ``k`` known features nearest to each of those asked for, as many at a time as fit.

    Args:
        known: of length 1.
        asked: of length 1.
        k: how many.
        own: positions of ``asked`` in ``known``, which are then none of their own neighbours.

    Yields:
        Cosines, the highest first, in double precision, and positions in ``known``, on the CPU.
    """
    rows = max(1, _COSINES // len(known))
    for begin in range(0, len(asked), rows):
        cosines = asked[begin : begin + rows] @ known.mT
        if own is not None:
            itself = own[begin : begin + rows, None].to(cosines.device)
            cosines.scatter_(1, itself, -torch.inf)
        found = cosines.topk(k)
        yield found.values.double().cpu(), found.indices.cpu()


def _choice(values: Sequence[int | float]) -> str:
    names = [f"{value:g}" for value in values]
    return names[0] if len(names) == 1 else f"({' or '.join(names)})"
