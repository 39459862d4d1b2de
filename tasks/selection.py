"""How settings are chosen on a held-out part of the train split, never on test."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from benchmark.contracts import Dataset, UserError
from benchmark.streams import permutation
from tasks.accuracy import Head, class_scores, percent
from tasks.features import examples

Point = dict[str, float]


@dataclass(frozen=True)
class HeldOut:
    """How a candidate does on images that it was not trained on.

    Attributes:
        accuracy: top-1, in percent.
        loss: mean cross entropy.
    """

    accuracy: float
    loss: float

    @classmethod
    def of(
        cls, head: Head, features: Float[Tensor, "n d"], labels: Int[Tensor, "n"]
    ) -> HeldOut | None:
        """Score a head; None if what it gives is not finite."""
        scores, labels = class_scores(head, features), labels.to(features.device)
        loss = float(F.cross_entropy(scores, labels))
        if not math.isfinite(loss):
            return None
        return cls(percent(scores.argmax(1) == labels), loss)


@dataclass(frozen=True)
class GridSearch:
    """Every combination of the values of some settings, to be compared on held-out images.

    With one combination there is nothing to choose, and nothing is held out.

    Attributes:
        purpose: names the task in messages, and the random stream.
        values: of each setting.
        holdout: share of each class of the train split that is held out.
        refit: whether the chosen combination is trained again, on the whole train split.

    Raises:
        UserError: for a share to hold out that is none.
    """

    purpose: str
    values: Mapping[str, tuple[float, ...]]
    holdout: float
    refit: bool

    @classmethod
    def of(cls, purpose: str, holdout: float, refit: bool, **settings: object) -> GridSearch:
        """A search over settings that are given as one number or several.

        Raises:
            UserError: as `numbers`.
        """
        values = {name: numbers(purpose, name, value) for name, value in settings.items()}
        return cls(purpose, values, holdout, refit)

    def __post_init__(self) -> None:
        if not 0 < self.holdout < 1:
            raise UserError(
                f"{self.purpose}: holdout={self.holdout} must lie between 0 and 1, both excluded"
            )

    @property
    def points(self) -> list[Point]:
        """The combinations, each with a value for every setting."""
        combined = itertools.product(*self.values.values())
        return [dict(zip(self.values, point, strict=True)) for point in combined]

    def words(self, name: str) -> str:
        """The values of a setting, for a protocol."""
        values = [f"{value:g}" for value in self.values[name]]
        return values[0] if len(values) == 1 else f"the best of {', '.join(values)}"

    def __str__(self) -> str:
        """How the choice is made, as the end of a sentence; nothing if there is none."""
        if len(self.points) == 1:
            return ""
        again = "then trained again on all of it" if self.refit else "not trained again on all"
        return (
            f", chosen by top-1 accuracy on {100 * self.holdout:g}% of each class of the train "
            f"split held out, {again}"
        )

    def check(self, data: Dataset) -> None:
        """Refuse data of which nothing would be held out.

        Raises:
            UserError: naming the data set.
        """
        _, labels = examples(data, "train", "labels")
        if len(self.points) > 1 and (class_shares(labels, 1 - self.holdout) == sizes(labels)).all():
            raise UserError(
                f"{self.purpose}: holdout={self.holdout:g} is not one image of any class of "
                f"{data.name!r}; set a larger one, or give one value of {' and '.join(self.values)}"
            )

    def split(
        self, labels: Int[Tensor, "n"], eval_seed: int
    ) -> tuple[Int[Tensor, "m"], Int[Tensor, "k"]]:
        """Positions to train on and positions to hold out, at random but a share of each class.

        Of a class whose share is not one image nothing is held out.
        """
        kept = torch.ones(len(labels), dtype=torch.bool)
        if len(self.points) > 1:
            ranks = class_ranks(labels, eval_seed, f"{self.purpose}/held out")
            kept = ranks < class_shares(labels, 1 - self.holdout)
        return kept.nonzero()[:, 0], (~kept).nonzero()[:, 0]

    def choose(self, scores: Sequence[HeldOut | None]) -> tuple[int, dict[str, Any]]:
        """The combination with the highest accuracy; of several, that with the lowest loss.

        Args:
            scores: in the order of `points`, None for one whose training diverged.

        Returns:
            Its place, and what to keep of the choice among a result's details.

        Raises:
            FloatingPointError: if all diverged.
        """
        found = [(s.accuracy, -s.loss, -k) for k, s in enumerate(scores) if s is not None]
        if not found:
            raise FloatingPointError(f"{self.purpose}: no training stays finite; lower the lr")
        best = -max(found)[2]
        tried = [
            {**point, "accuracy": None if score is None else score.accuracy}
            for point, score in zip(self.points, scores, strict=True)
        ]
        details: dict[str, Any] = {"chosen": self.points[best], "held_out": tried}
        chosen = self.points[best].items()
        warnings = [edge_warning(name, value, self.values[name]) for name, value in chosen]
        if any(warnings):
            details["warning"] = "; ".join(filter(None, warnings))
        return best, details


def numbers(purpose: str, name: str, given: object) -> tuple[float, ...]:
    """The values of a setting that is one number or a list of them.

    Raises:
        UserError: if there is none, one twice, or one that is no finite number.
    """
    values: list[Any] = given if isinstance(given, list) else [given]
    finite = all(type(v) in (int, float) and math.isfinite(v) for v in values)
    if not (values and finite and len(set(values)) == len(values)):
        raise UserError(
            f"{purpose}: {name}={given} must be a number or a list of different numbers"
        )
    return tuple(map(float, values))


def edge_warning(name: str, value: float, values: Sequence[float]) -> str | None:
    """A warning if a value beyond those tried may be better than the chosen one; 0 has no lower."""
    if len(values) == 1 or min(values) < value < max(values) or value == 0:
        return None
    end, beyond = ("lowest", "lower") if value == min(values) else ("highest", "higher")
    return f"{name}={value:g} is the {end} tried, and a {beyond} one may be better"


def class_ranks(labels: Int[Tensor, "n"], eval_seed: int, purpose: str) -> Int[Tensor, "n"]:
    """The place of each sample, from 0, in a random order of its class."""
    order = permutation(eval_seed, purpose, 0, len(labels))
    by_class = order[labels[order].argsort(stable=True)]
    counts = labels.bincount()
    first = (counts.cumsum(0) - counts)[labels[by_class]]
    ranks = torch.empty_like(by_class)
    ranks[by_class] = torch.arange(len(labels)) - first
    return ranks


def sizes(labels: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    """How many samples each sample's class has."""
    return labels.bincount()[labels]


def class_shares(labels: Int[Tensor, "n"], share: float) -> Int[Tensor, "n"]:
    """How many samples make up a share of each sample's class: a whole number, at least 1."""
    return (share * sizes(labels).double()).round().long().clamp(min=1)
