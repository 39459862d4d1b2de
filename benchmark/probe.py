"""Online linear probe: how well the features of this moment separate the classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmark.precision import full_precision
from benchmark.processes import average_gradients


class OnlineProbe(nn.Module):
    """A linear classifier on detached features with an optimiser of its own.

    Nothing flows back into the encoder. The accuracy is that of images not yet seen in this
    epoch, under the training augmentation, so it tells a trend and is no result.
    """

    def __init__(self, feature_dim: int, num_classes: int, lr: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(feature_dim, affine=False)
        self.classifier = nn.Linear(feature_dim, num_classes)
        self.optimiser = torch.optim.SGD(self.parameters(), lr=lr, momentum=0.9)

    def step(self, features: Float[Tensor, "b d"], labels: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """Train on one batch; returns the accuracy before the step, in percent.

        Images without a label (-1) do not count; of a batch without any, the accuracy is 0.
        """
        logits = self.classifier(self.norm(full_precision(features.detach())))
        self.optimiser.zero_grad(set_to_none=True)
        known = (labels >= 0).sum().clamp(min=1)
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / known
        loss.backward()
        average_gradients(self.parameters())
        self.optimiser.step()
        accuracy: Tensor = 100 * (logits.argmax(1) == labels).sum().to(logits.dtype) / known
        return accuracy
