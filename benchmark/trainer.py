"""One trainer for every method and objective: an encoder step, then the adversary's step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from benchmark.batchnorm import running_statistics
from benchmark.contracts import Batch, Encoder, Images, MaskingMethod, Masks, Objective
from benchmark.precision import autocast
from benchmark.probe import OnlineProbe

Terms = dict[str, Tensor]


def hide(images: Images, masks: Masks) -> Float[Tensor, "n b 3 h w"]:
    """Each image under each of its masks; hidden pixels become 0, the mean colour."""
    return images * (1 - masks.transpose(0, 1).unsqueeze(2))


@dataclass
class Trainer:
    """The two players, their optimisers and the rules of a step.

    Attributes:
        encoder: the net that is wanted.
        objective: loss with its heads; trained together with the encoder.
        method: proposes masks; trained against the encoder if it has parameters.
        probe: linear classifier on detached features, or None.
        encoder_optimiser: over encoder and objective.
        mask_optimiser: over the method, None if there is nothing to train.
        batchnorm: rule for the running statistics, see `benchmark.batchnorm`.
        precision: "fp32" or "bf16".
    """

    encoder: Encoder
    objective: Objective
    method: MaskingMethod
    probe: OnlineProbe | None
    encoder_optimiser: torch.optim.Optimizer
    mask_optimiser: torch.optim.Optimizer | None
    batchnorm: str
    precision: str

    def step(self, batch: Batch) -> Terms:
        """Train on one batch.

        The encoder step does not touch the mask net, so one forward of it serves both phases
        exactly. Returns what is worth logging, without graph and still on the device.
        """
        with autocast(self.precision, batch.views.device):
            proposal = self.method(batch)
        terms = self._encoder_step(batch, proposal.masks.detach())
        if self.mask_optimiser is not None:
            penalties = self.method.penalties(proposal)
            terms |= self._mask_step(batch, proposal.masks, penalties)
        return {name: value.detach() for name, value in terms.items()}

    def _losses(
        self, batch: Batch, masks: Masks, *, adversary: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reduced loss, loss of each slot, and clean features."""
        with running_statistics(
            (self.encoder, self.objective), self.batchnorm, adversary=adversary
        ):
            with autocast(self.precision, batch.views.device):
                losses = self.objective(
                    self.encoder, batch, hide(batch.views[1], masks), adversary=adversary
                )
        total = losses.per_mask.sum() if self.method.reduction == "sum" else losses.per_mask.mean()
        return total, losses.per_mask, losses.features

    def _encoder_step(self, batch: Batch, masks: Masks) -> Terms:
        loss, per_mask, features = self._losses(batch, masks, adversary=False)
        self.encoder_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.encoder_optimiser.step()
        self.objective.after_step(self.encoder, batch.progress)
        terms = {"loss": loss, "slot_loss": per_mask, **mask_statistics(masks)}
        if self.probe is not None and batch.labels is not None:
            terms["probe"] = self.probe.step(features, batch.labels)
        return terms

    def _mask_step(self, batch: Batch, masks: Masks, penalties: Terms) -> Terms:
        """Minimise penalties - objective over the method alone.

        ``torch.autograd.grad`` with the method's parameters as inputs computes and accumulates
        nothing for the encoder, whose weights are thus frozen without being flagged.
        """
        assert self.mask_optimiser is not None
        loss, _, _ = self._losses(batch, masks, adversary=True)
        mask_loss = sum(penalties.values(), start=-loss)
        parameters = [p for p in self.method.parameters() if p.requires_grad]
        for p, gradient in zip(parameters, torch.autograd.grad(mask_loss, parameters), strict=True):
            p.grad = gradient
        self.mask_optimiser.step()
        named = {f"penalty/{name}": value for name, value in penalties.items()}
        return {"mask_loss": mask_loss, **named}


@torch.no_grad()
def mask_statistics(masks: Masks) -> Terms:
    """Per slot: the share of pixels hidden, and of pixels hidden by it and an earlier slot."""
    earlier = masks.cumsum(1) - masks
    return {
        "slot_area": masks.mean((0, 2, 3)),
        "slot_overlap": (masks * earlier).mean((0, 2, 3)),
    }
