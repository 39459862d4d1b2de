"""How settings are chosen on a held-out part of the train split, never on test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from benchmark.errors import UserError
from benchmark.streams import permutation
from tasks.grid import Grid, HeldOut, Metric, Point, best_of, numbers

Net = TypeVar("Net")
# What is compared, and what is held out for it, in words.
_WORDS = {
    "accuracy": ("top-1 accuracy", "each class of the train split"),
    "miou": ("mean intersection over union", "the train split"),
}


@dataclass(frozen=True, kw_only=True)
class GridSearch(Grid):
    """Combinations that are compared on a held-out part of the train split.

    With one combination there is nothing to choose, and nothing is held out.

    Attributes:
        holdout: share that is held out: of each class, for accuracy.
        refit: whether the chosen combination is trained again, on the whole train split.

    Raises:
        UserError: for a share to hold out that is none.
    """

    holdout: float
    refit: bool

    @classmethod
    def of(
        cls,
        purpose: str,
        holdout: float,
        refit: bool,
        metric: Metric = "accuracy",
        **settings: object,
    ) -> GridSearch:
        """A search over settings that are given as one number or several.

        Raises:
            UserError: as `numbers`.
        """
        values = {name: numbers(purpose, name, value) for name, value in settings.items()}
        return cls(purpose=purpose, values=values, metric=metric, holdout=holdout, refit=refit)

    def __post_init__(self) -> None:
        if not 0 < self.holdout < 1:
            raise UserError(
                f"{self.purpose}: holdout={self.holdout} must lie between 0 and 1, both excluded"
            )

    @property
    def trainings(self) -> int:
        """How many trainings there are if each combination is trained by itself."""
        several = len(self.points) > 1
        return len(self.points) + (several and self.refit)

    def __str__(self) -> str:
        """How the choice is made, as the end of a sentence; nothing if there is none."""
        if len(self.points) == 1:
            return ""
        score, whole = _WORDS[self.metric]
        again = "then trained again on all of it" if self.refit else "not trained again on all"
        return f", chosen by {score} on {100 * self.holdout:g}% of {whole} held out, {again}"

    def check(self, labels: Int[Tensor, "n"], name: str) -> None:
        """Refuse data of which nothing would be held out.

        Args:
            labels: of the train split, all alike where classes do not count.
            name: of the data set.

        Raises:
            UserError: naming the data set.
        """
        if len(self.points) > 1 and (class_shares(labels, 1 - self.holdout) == sizes(labels)).all():
            raise UserError(
                f"{self.purpose}: holdout={self.holdout:g} of {_WORDS[self.metric][1]} of {name!r} "
                "is not one image; set a larger one, or give one value of "
                f"{' and '.join(self.values)}"
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

    def counts(self, labels: Int[Tensor, "n"]) -> set[int]:
        """How many images there are to train on, while choosing and when all is trained on."""
        kept, _ = self.split(labels, eval_seed=0)  # with every seed as many
        return {len(kept), len(labels)} if self.refit else {len(kept)}

    def best(
        self,
        train: Callable[[Point, Int[Tensor, "m"]], Net],
        score: Callable[[Net, Int[Tensor, "k"]], HeldOut | None],
        labels: Int[Tensor, "n"],
        eval_seed: int,
    ) -> tuple[Net, Int[Tensor, "m"], dict[str, Any]]:
        """Train each combination in turn, one that diverges loses, and choose among the nets.

        Args:
            train: a net with a combination, on the images at the positions given.
            score: of a net on the images held out.
            labels: as for `check`.
            eval_seed: decides what is held out.

        Returns:
            The net, the positions that it was trained on, and the details of the choice.

        Raises:
            FloatingPointError: if all diverge.
        """
        points, (index, held) = self.points, self.split(labels, eval_seed)
        if len(points) == 1:
            return train(points[0], index), index, {}
        best: Net | None = None
        scores: list[HeldOut | None] = []
        for point in points:
            net: Net | None = None  # so that none that has lost stays in memory
            try:
                net = train(point, index)
                scores.append(score(net, held))
            except FloatingPointError:  # one candidate less, as the details tell
                scores.append(None)
            if best_of(scores) == len(scores) - 1:
                best = net
        place, details = self.choose(scores)
        if self.refit:
            net = best = None
            index = torch.arange(len(labels))
            best = train(points[place], index)
        assert best is not None
        return best, index, details


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
