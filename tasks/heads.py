"""Many linear layers on the same features, trained as one."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Heads:
    """Linear layers that begin alike and learn apart, computed as one.

    Args:
        scale: what is done to the features first.
        linear: as all layers begin.
        count: number of layers.
    """

    def __init__(self, scale: nn.Module, linear: nn.Linear, count: int) -> None:
        self.scale = scale
        self.layers = [copy.deepcopy(linear) for _ in range(count)]

    def losses(
        self, features: Float[Tensor, "b d"], labels: Int[Tensor, "b"]
    ) -> Float[Tensor, "k"]:
        """Mean cross entropy of each layer."""
        count = len(self.layers)
        weight = torch.cat([layer.weight for layer in self.layers])
        bias = torch.cat([layer.bias for layer in self.layers])
        scores = F.linear(self.scale(features), weight, bias).unflatten(1, (count, -1))
        losses = F.cross_entropy(
            scores.flatten(0, 1), labels.repeat_interleave(count), reduction="none"
        )
        means: Tensor = losses.unflatten(0, (-1, count)).mean(0)
        return means

    def apart(self) -> list[nn.Module]:
        """Each layer as a classifier of features."""
        return [nn.Sequential(self.scale, layer) for layer in self.layers]
