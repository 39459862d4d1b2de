"""Grids of settings: their values, and which combination is the best on held-out images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from benchmark.errors import UserError
from tasks.accuracy import Head, class_scores, percent

Number = int | float
Point = dict[str, Number]
Metric = Literal["accuracy", "miou"]


@dataclass(frozen=True)
class HeldOut:
    """How a candidate does on images that it was not trained on.

    Attributes:
        score: the higher the better, in percent.
        loss: the lower the better; decides between equal scores.
    """

    score: float
    loss: float = 0.0

    @classmethod
    def of(
        cls, head: Head, features: Float[Tensor, "n d"], labels: Int[Tensor, "n"]
    ) -> HeldOut | None:
        """Top-1 accuracy and mean cross entropy; None if what a head gives is not finite."""
        try:
            scores, labels = class_scores(head, features), labels.to(features.device)
        except FloatingPointError:  # one candidate less, as the details tell
            return None
        loss = float(F.cross_entropy(scores, labels))
        return cls(percent(scores.argmax(1) == labels), loss) if math.isfinite(loss) else None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of the values of some settings, to choose one from.

    Attributes:
        purpose: names the task in messages, and the random stream.
        values: of each setting.
        metric: what they are compared by.
    """

    purpose: str
    values: Mapping[str, tuple[Number, ...]]
    metric: Metric = "accuracy"

    @property
    def points(self) -> list[Point]:
        """The combinations, each with a value for every setting."""
        combined = itertools.product(*self.values.values())
        return [dict(zip(self.values, point, strict=True)) for point in combined]

    def words(self, name: str) -> str:
        """The values of a setting, for a protocol."""
        values = [f"{value:g}" for value in self.values[name]]
        return values[0] if len(values) == 1 else f"the best of {', '.join(values)}"

    def choose(
        self, scores: Sequence[HeldOut | None], key: str = "held_out"
    ) -> tuple[int, dict[str, Any]]:
        """The combination with the highest score; of several, that with the lowest loss.

        Args:
            scores: in the order of `points`, None for one whose training diverged.
            key: of the scores in the details.

        Returns:
            Its place, and what to keep of the choice among a result's details.

        Raises:
            FloatingPointError: if all diverged.
        """
        best = best_of(scores)
        if scores[best] is None:
            raise FloatingPointError(f"{self.purpose}: no training stays finite; lower the lr")
        tried = [
            {**point, self.metric: None if score is None else score.score}
            for point, score in zip(self.points, scores, strict=True)
        ]
        details: dict[str, Any] = {"chosen": self.points[best], key: tried}
        warnings = [self._edge_warning(name, best, scores) for name in self.values]
        if any(warnings):
            details["warning"] = "; ".join(filter(None, warnings))
        return best, details

    def _edge_warning(self, name: str, best: int, scores: Sequence[HeldOut | None]) -> str | None:
        """A warning if a value of a setting beyond those tried may be better than the chosen one.

        There is none of a setting that makes no difference where the others are as chosen.
        """
        chosen, values = self.points[best], self.values[name]
        value, others = chosen[name], {k: v for k, v in chosen.items() if k != name}
        candidates = zip(self.points, scores, strict=True)
        alike = {_rank(score) for point, score in candidates if others.items() <= point.items()}
        lowest = 1 if isinstance(value, int) else 0  # of things there is one at least
        if len(alike) == 1 or min(values) < value < max(values) or value == lowest:
            return None
        end, beyond = ("lowest", "lower") if value == min(values) else ("highest", "higher")
        return f"{name}={value:g} is the {end} tried, and a {beyond} one may be better"


def listed(given: object) -> list[Any]:
    """A setting that is one value or several, as a list."""
    return list(given) if isinstance(given, list | tuple) else [given]


def numbers(purpose: str, name: str, given: object) -> tuple[float, ...]:
    """The values of a setting that is one number or a list of them.

    Raises:
        UserError: if there is none, one twice, or one that is no finite number.
    """
    return tuple(map(float, _different(purpose, name, given, "number", (int, float))))


def whole_numbers(purpose: str, name: str, given: object) -> tuple[int, ...]:
    """The values of a setting that is one whole number or a list of them.

    Raises:
        UserError: if there is none, one twice, or one that is no whole number.
    """
    return tuple(_different(purpose, name, given, "whole number", (int,)))


def _different(
    purpose: str, name: str, given: object, kind: str, types: tuple[type, ...]
) -> list[Any]:
    values = listed(given)
    fit = all(type(value) in types and math.isfinite(value) for value in values)
    if not (values and fit and len(set(values)) == len(values)):
        raise UserError(
            f"{purpose}: {name}={given} must be a {kind} or a list of different {kind}s"
        )
    return values


def best_of(scores: Sequence[HeldOut | None]) -> int:
    """The place of the first of the best."""
    return max(range(len(scores)), key=lambda k: _rank(scores[k]))


def _rank(score: HeldOut | None) -> tuple[float, float]:
    return (-math.inf, 0.0) if score is None else (score.score, -score.loss)
