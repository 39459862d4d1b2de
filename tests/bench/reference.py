"""A training step in the order in which the published ADIOS code executes it.

A plain re-telling of the facts in the ADIOS code's SimCLR step (YugeTen/adios at 21c6f23), for
comparison only: every loss encodes the clean view anew, so that N masks take 4N + 2 forwards of the
encoder with those of the online classifier, the mask net runs once for each player, and weights
and images are contiguous float32. Nets, losses and optimisers are the suite's own, so that any
difference to `benchmark.trainer` is one of execution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.contracts import Batch
from benchmark.objectives import SimCLR, nt_xent
from methods.adios import Adios, area_negentropy


class ReferenceStep:
    """The step with the state that it changes.

    Args:
        encoder: with torch's own BatchNorm.
        objective: its projector and temperature are used.
        method: whose masks add up to one.
        classifier: linear, on detached features.
        encoder_optimiser: over encoder, projector and classifier.
        mask_optimiser: over the method.
    """

    def __init__(
        self,
        encoder: nn.Module,
        objective: SimCLR,
        method: Adios,
        classifier: nn.Linear,
        encoder_optimiser: torch.optim.Optimizer,
        mask_optimiser: torch.optim.Optimizer,
    ) -> None:
        self.encoder = encoder
        self.objective = objective
        self.method = method
        self.classifier = classifier
        self.encoder_optimiser = encoder_optimiser
        self.mask_optimiser = mask_optimiser

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Train both players on one batch; returns the encoder's and the adversary's loss."""
        clean, masked = batch.views
        assert batch.labels is not None
        self._train_encoder(True)
        self.encoder_optimiser.zero_grad()
        contrastive = torch.stack(
            [self._contrast(clean, masked, mask.detach()) for mask in self._masks(batch)]
        ).sum()
        classified = torch.stack(
            [
                F.cross_entropy(self.classifier(self.encoder(view).detach()), batch.labels)
                for view in (clean, masked)
            ]
        ).mean()
        (contrastive + classified).backward()
        self.encoder_optimiser.step()

        self._train_encoder(False)
        self.mask_optimiser.zero_grad()
        masks = self._masks(batch)
        areas = torch.cat([mask.mean((2, 3)) for mask in masks], dim=1)
        sparsity = (1 / (torch.sin(torch.pi * areas) + 1e-10)).mean(0).sum()
        losses = torch.stack([self._contrast(clean, masked, mask) for mask in masks])
        gain = losses.sum() - self.method.sparsity * sparsity
        gain = gain + self.method.entropy * area_negentropy(areas).sum()
        (-gain).backward()
        self.mask_optimiser.step()
        return contrastive.detach(), -gain.detach()

    def _masks(self, batch: Batch) -> list[Tensor]:
        return list(self.method(batch).masks.split(1, dim=1))

    def _contrast(self, clean: Tensor, masked: Tensor, mask: Tensor) -> Tensor:
        features = self.encoder(clean), self.encoder(masked * (1 - mask))
        z0, z1 = map(self.objective.projector, features)
        return nt_xent(z0, z1, self.objective.temperature)

    def _train_encoder(self, wanted: bool) -> None:
        for net in (self.encoder, self.objective.projector, self.classifier):
            net.requires_grad_(wanted)
