"""Top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tasks.features import EVAL_BATCH

TOP = 5
TOP_FROM = 10  # classes from which top-5 accuracy says something
# What is scored, for a protocol.
SCORES = f"top-1 and, from {TOP_FROM} classes on, top-{TOP} accuracy on un-augmented test images"

Head = Callable[[Tensor], Tensor]


def accuracies(
    head: Head, features: Float[Tensor, "n d"], labels: Int[Tensor, "n"]
) -> dict[str, float]:
    """Shares of samples, in percent, whose class has the highest score or one of the 5 highest.

    The second is "accuracy_top5", given only for a head of 10 classes or more.

    Args:
        head: gives the scores of classes.
        features: on the device of the head.
        labels: on any device.

    Raises:
        FloatingPointError: if any score is not finite.
    """
    found, _ = accuracies_per_image(head, features, labels)
    return found


def accuracies_per_image(
    head: Head, features: Float[Tensor, "n d"], labels: Int[Tensor, "n"]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What `accuracies` gives, and `class_pairs` of the same scores."""
    scores, labels = class_scores(head, features), labels.to(features.device)
    predicted = scores.argmax(1)
    found = {"accuracy": percent(predicted == labels)}
    if scores.shape[1] >= TOP_FROM:
        highest = scores.topk(TOP).indices
        found["accuracy_top5"] = percent((highest == labels[:, None]).any(1))
    return found, class_pairs(predicted, labels)


def class_pairs(predicted: Int[Tensor, "n"], labels: Int[Tensor, "n"]) -> dict[str, np.ndarray]:
    """The ``per_image`` of a `benchmark.task.TaskResult` whose main metric is top-1 accuracy."""
    pair = {"predicted": predicted, "truth": labels}
    return {name: classes.int().cpu().numpy() for name, classes in pair.items()}


@torch.no_grad()
def class_scores(head: Head, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
    """What the head makes of all features, a part of them at a time.

    Raises:
        FloatingPointError: if any score is not finite, as after a last step that was too long.
    """
    scores = torch.cat([head(part) for part in features.split(64 * EVAL_BATCH)])
    if not scores.isfinite().all():
        raise FloatingPointError("the classifier gives scores that are not finite; lower the lr")
    return scores


def percent(hits: Tensor) -> float:
    """Share of what is true."""
    return 100 * int(hits.sum()) / len(hits)
