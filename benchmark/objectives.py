"""Self-supervised objectives with one view masked, and the supervised control.

All of them encode the clean view once and compare it with each of the m hidden views.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from benchmark.contracts import Anchor, Batch, Objective
from benchmark.errors import UserError, at_least
from benchmark.precision import full_precision
from benchmark.processes import gathered, rank
from benchmark.schedule import ema_decay

Hidden = Float[Tensor, "m b 3 h w"]


def nt_xent(
    z0: Float[Tensor, "b d"], z1: Float[Tensor, "b d"], temperature: float
) -> Float[Tensor, ""]:
    """NT-Xent, symmetric, all other rows negative (SimCLR, arXiv 2002.05709, eq. 1).

    Of a batch that several processes share out, each compares its own rows with those of all; the
    mean over processes is the loss of the batch. Eq. 1 of the seed paper is this loss with a
    masked second view; it omits the temperature.
    """
    z0, z1 = (F.normalize(full_precision(z), dim=1) for z in (z0, z1))
    all0, all1 = gathered(z0), gathered(z1)
    with torch.autocast(z0.device.type, enabled=False):  # it would multiply in bf16
        similarity = torch.cat([z0, z1]) @ torch.cat([all0, all1]).T / temperature
    own = rank() * len(z0) + torch.arange(len(z0), device=z0.device)
    itself = torch.cat([own, own + len(all0)])
    columns = torch.arange(2 * len(all0), device=z0.device)
    similarity = similarity.masked_fill(itself[:, None] == columns, -torch.inf)
    return F.cross_entropy(similarity, itself.roll(len(z0)))


def byol_loss(p: Float[Tensor, "b d"], z: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Squared distance of normalised vectors, 2 - 2 cos (BYOL, arXiv 2006.07733, eq. 2)."""
    return 2 - 2 * F.cosine_similarity(full_precision(p), full_precision(z.detach())).mean()


def simsiam_loss(p: Float[Tensor, "b d"], z: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Negative cosine with a stop-gradient (SimSiam, arXiv 2011.10566, eq. 1 and 3)."""
    return -F.cosine_similarity(full_precision(p), full_precision(z.detach())).mean()


class SimCLR(Objective):
    """SimCLR with the two-layer projector of the ADIOS code (no BatchNorm).

    The seed paper's "single feed-forward layer" may mean that net's one hidden layer or, read
    literally, one linear layer: ``projector_layers`` 2 or 1. ``hidden_dim`` plays no part in the
    latter.
    """

    version = 1

    def __init__(
        self,
        encoder: nn.Module,
        *,
        feature_dim: int,
        hidden_dim: int = 2048,
        output_dim: int = 128,
        projector_layers: int = 2,
        temperature: float = 0.2,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"objective.temperature={temperature} must be above 0")
        if projector_layers not in (1, 2):
            raise UserError(f"objective.projector_layers={projector_layers} is not one of 1, 2")
        at_least(1, "objective.", hidden_dim=hidden_dim, output_dim=output_dim)
        self.temperature = temperature
        self.projector: nn.Module
        if projector_layers == 1:
            self.projector = nn.Linear(feature_dim, output_dim)
        else:
            self.projector = nn.Sequential(
                nn.Linear(feature_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim)
            )

    def anchor(self, encoder: nn.Module, batch: Batch) -> Anchor:
        """Projection of the clean view."""
        features = encoder(batch.views[0])
        return Anchor(features.detach(), (self.projector(features),))

    def compare(
        self, encoder: nn.Module, anchor: Anchor, hidden: Hidden, batch: Batch
    ) -> Float[Tensor, "m"]:
        """NT-Xent between the clean view and each hidden view."""
        (z0,) = anchor.values
        projected = map(self.projector, self.each(encoder, hidden))
        return torch.stack([nt_xent(z0, z, self.temperature) for z in projected])


def _mlp(input_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, output_dim),
    )


class BYOL(Objective):
    """BYOL; the teacher is an exponential moving average of encoder and projector.

    As in the ADIOS code the teacher runs with batch statistics too, and the adversary is reached
    through the online branch only.
    """

    version = 1

    def __init__(
        self,
        encoder: nn.Module,
        *,
        feature_dim: int,
        hidden_dim: int = 4096,
        output_dim: int = 256,
        predictor_dim: int = 8192,
        base_decay: float = 0.99,
    ) -> None:
        super().__init__()
        if not 0 <= base_decay <= 1:
            raise UserError(f"objective.base_decay={base_decay} must lie in [0, 1]")
        at_least(
            1,
            "objective.",
            hidden_dim=hidden_dim,
            output_dim=output_dim,
            predictor_dim=predictor_dim,
        )
        self.base_decay = base_decay
        self.projector = _mlp(feature_dim, hidden_dim, output_dim)
        self.predictor = _mlp(output_dim, predictor_dim, output_dim)
        self.teacher = copy.deepcopy(nn.Sequential(encoder, self.projector))
        self.teacher.requires_grad_(False)

    def anchor(self, encoder: nn.Module, batch: Batch) -> Anchor:
        """Prediction from the clean view, and the teacher's projection of it."""
        features = encoder(batch.views[0])
        prediction = self.predictor(self.projector(features))
        with torch.no_grad():
            target = self.teacher(batch.views[0])
        return Anchor(features.detach(), (prediction, target))

    def compare(
        self, encoder: nn.Module, anchor: Anchor, hidden: Hidden, batch: Batch
    ) -> Float[Tensor, "m"]:
        """Both directions, summed, for each hidden view."""
        p0, target0 = anchor.values
        with torch.no_grad():
            # Detached, as slices of a tensor with a graph ask for gradients even here, which what
            # counts operations takes for a graph.
            targets = self.each(self.teacher, hidden.detach())
        losses = []
        for features, target in zip(self.each(encoder, hidden), targets, strict=True):
            p = self.predictor(self.projector(features))
            losses.append(byol_loss(p0, target) + byol_loss(p, target0))
        return torch.stack(losses)

    def costly_nets(self) -> Iterable[nn.Module]:
        """The teacher's encoder."""
        return (self.teacher[0],)

    @torch.no_grad()
    def after_step(self, encoder: nn.Module, progress: float) -> None:
        """Move the teacher towards the student."""
        decay = ema_decay(progress, self.base_decay)
        student = chain(encoder.parameters(), self.projector.parameters())
        for slow, fast in zip(self.teacher.parameters(), student, strict=True):
            slow.lerp_(fast, 1 - decay)


class SimSiam(Objective):
    """SimSiam; only view 1 is masked, as with the other objectives."""

    version = 1

    def __init__(
        self,
        encoder: nn.Module,
        *,
        feature_dim: int,
        hidden_dim: int = 2048,
        predictor_dim: int = 512,
    ) -> None:
        super().__init__()
        at_least(1, "objective.", hidden_dim=hidden_dim, predictor_dim=predictor_dim)
        self.projector = nn.Sequential(
            nn.Linear(feature_dim, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim, affine=False),
        )
        self.predictor = _mlp(hidden_dim, predictor_dim, hidden_dim)

    def anchor(self, encoder: nn.Module, batch: Batch) -> Anchor:
        """Projection of the clean view and the prediction from it."""
        features = encoder(batch.views[0])
        z = self.projector(features)
        return Anchor(features.detach(), (z, self.predictor(z)))

    def compare(
        self, encoder: nn.Module, anchor: Anchor, hidden: Hidden, batch: Batch
    ) -> Float[Tensor, "m"]:
        """Mean of both directions for each hidden view."""
        z0, p0 = anchor.values
        losses = []
        for z in map(self.projector, self.each(encoder, hidden)):
            losses.append((simsiam_loss(p0, z) + simsiam_loss(self.predictor(z), z0)) / 2)
        return torch.stack(losses)


class Supervised(Objective):
    """Cross-entropy on the labels, on the same two views: the upper bound in each table."""

    version: ClassVar[int] = 1

    def __init__(self, encoder: nn.Module, *, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(feature_dim, num_classes)

    def anchor(self, encoder: nn.Module, batch: Batch) -> Anchor:
        """Cross-entropy of the clean view."""
        features = encoder(batch.views[0])
        return Anchor(features.detach(), (self._loss(features, batch),))

    def compare(
        self, encoder: nn.Module, anchor: Anchor, hidden: Hidden, batch: Batch
    ) -> Float[Tensor, "m"]:
        """Mean cross-entropy of the clean view and each hidden view."""
        (clean,) = anchor.values
        masked = [self._loss(features, batch) for features in self.each(encoder, hidden)]
        return (clean + torch.stack(masked)) / 2

    def _loss(self, features: Float[Tensor, "b d"], batch: Batch) -> Float[Tensor, ""]:
        assert batch.labels is not None, "the plan lets no supervised run through without labels"
        return F.cross_entropy(full_precision(self.classifier(features)), batch.labels)
