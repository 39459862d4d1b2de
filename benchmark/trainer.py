"""One trainer for every method and objective: an encoder step, then the adversary's step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmark.batchnorm import running_statistics
from benchmark.contracts import (
    Batch,
    Encoder,
    Images,
    Losses,
    MaskingMethod,
    Masks,
    Objective,
    Proposal,
)
from benchmark.errors import UserError, at_least
from benchmark.hiding import Fill, hide
from benchmark.precision import autocast
from benchmark.probe import OnlineProbe

Terms = dict[str, Tensor]
# One side of a batch: the data in the order (clean, masked), and the masks proposed for it.
Side = tuple[Batch, Proposal]

_BINARY = 0.1  # a mask value this close to 0 or 1 counts as binary


@dataclass(frozen=True)
class Turns:
    """Who moves when; the defaults are those of the ADIOS code.

    Attributes:
        encoder_steps: encoder steps for each turn of the adversary.
        mask_steps: steps of the adversary in its turn.
        first: "encoder" or "mask", the player that opens a step in which both move.
        encoder_mode: "train" or "eval", the encoder's mode in the adversary's turn: BatchNorm by
            the batch or by the running statistics.

    Raises:
        UserError: for values out of range.
    """

    encoder_steps: int = 1
    mask_steps: int = 1
    first: str = "encoder"
    encoder_mode: str = "train"

    def __post_init__(self) -> None:
        at_least(1, "turns.", encoder_steps=self.encoder_steps, mask_steps=self.mask_steps)
        for key, allowed in (("first", ("encoder", "mask")), ("encoder_mode", ("train", "eval"))):
            if getattr(self, key) not in allowed:
                raise UserError(
                    f"turns.{key}={getattr(self, key)} is not one of {', '.join(allowed)}"
                )

    def players(self, step: int) -> list[Literal["encoder", "mask"]]:
        """The moves of a step, in order."""
        if (step + 1) % self.encoder_steps:
            return ["encoder"]
        adversary: list[Literal["encoder", "mask"]] = ["mask"] * self.mask_steps
        return [*adversary, "encoder"] if self.first == "mask" else ["encoder", *adversary]


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
        turns: who moves when.
        fill: what hidden pixels become.
        mask_both_views: take each loss twice, with either view as the masked one, and average.
        unmasked_pair: train the encoder on the pair without any mask too, as one more slot.
    """

    encoder: Encoder
    objective: Objective
    method: MaskingMethod
    probe: OnlineProbe | None
    encoder_optimiser: torch.optim.Optimizer
    mask_optimiser: torch.optim.Optimizer | None
    batchnorm: str
    precision: str
    turns: Turns = field(default_factory=Turns)
    fill: Fill = field(default_factory=Fill)
    mask_both_views: bool = False
    unmasked_pair: bool = False

    def step(self, batch: Batch, step: int = 0, *, diagnose: bool = False) -> Terms:
        """Train on one batch.

        The encoder step does not touch the mask net, so one forward of it serves both phases
        exactly; only after a step of its own does it propose again.

        Args:
            batch: data of the step.
            step: number of the step, from 0, which decides whose turn it is.
            diagnose: also measure the losses without a mask and with everything hidden, which
                tell what a slot's loss means; this changes nothing.

        Returns:
            What is worth logging, without graph and still on the device.
        """
        data = [batch, batch.swapped()] if self.mask_both_views else [batch]
        proposed = [(side, self.propose(side)) for side in data]
        sides: list[Side] | None = proposed
        terms = mask_statistics(proposed[0][1])
        if diagnose:
            terms |= _mean_terms([self._limits(side) for side in data])
        players = self.turns.players(step) if self.mask_optimiser is not None else ["encoder"]
        for player in players:
            sides = sides or [(side, self.propose(side)) for side in data]
            if player == "encoder":
                terms |= self._encoder_step(sides)
            else:
                terms |= self._mask_step(sides)
                sides = None
        return {name: value.detach() for name, value in terms.items()}

    def propose(self, batch: Batch) -> Proposal:
        """Masks for view 1, with the graph to the method's parameters."""
        if "loss_gradient" in self.method.needs:
            batch = replace(batch, loss_gradient=lambda: self._loss_gradient(batch))
        with autocast(self.precision, batch.views.device):
            proposal: Proposal = self.method(batch)
        return proposal

    def hidden(self, batch: Batch, masks: Masks) -> Float[Tensor, "n b 3 h w"]:
        """View 1 under each mask."""
        return hide(batch.views[1], masks, self.fill(batch.views[1], batch.streams))

    def _losses(
        self,
        sides: Sequence[tuple[Batch, Masks]],
        *,
        adversary: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reduced loss, loss of each slot as the mean over sides, and clean features of view 0."""
        losses = []
        for batch, masks in sides:
            with running_statistics(
                (self.encoder, self.objective), self.batchnorm, adversary=adversary
            ):
                losses.append(self._objective(batch, masks, adversary=adversary))
        per_mask = torch.stack([side.per_mask for side in losses]).mean(0)
        total = per_mask.sum() if self.method.reduction == "sum" else per_mask.mean()
        return total, per_mask, losses[0].features

    def _objective(self, batch: Batch, masks: Masks, *, adversary: bool) -> Losses:
        with autocast(self.precision, batch.views.device):
            hidden = self.hidden(batch, masks)
            losses: Losses = self.objective(self.encoder, batch, hidden, adversary=adversary)
        return losses

    def _encoder_step(self, sides: Sequence[Side]) -> Terms:
        shown = [(batch, proposal.encoder_masks.detach()) for batch, proposal in sides]
        if self.unmasked_pair:
            shown = [
                (batch, torch.cat([m, torch.zeros_like(m[:, :1])], dim=1)) for batch, m in shown
            ]
        loss, per_mask, features = self._losses(shown, adversary=False)
        self.encoder_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.encoder_optimiser.step()
        batch = sides[0][0]
        self.objective.after_step(self.encoder, batch.progress)
        terms = {"loss": loss, "slot_loss": per_mask}
        if self.probe is not None and batch.labels is not None:
            terms["probe"] = self.probe.step(features, batch.labels)
        return terms

    def _mask_step(self, sides: Sequence[Side]) -> Terms:
        """Minimise penalties - objective over the method alone.

        ``torch.autograd.grad`` with the method's parameters as inputs computes and accumulates
        nothing for the encoder, whose weights are thus frozen without being flagged.
        """
        assert self.mask_optimiser is not None
        penalties = _mean_terms([self.method.penalties(proposal) for _, proposal in sides])
        shown = [(batch, proposal.adversary_masks) for batch, proposal in sides]
        with _mode(self._players_nets(), training=self.turns.encoder_mode == "train"):
            loss, _, _ = self._losses(shown, adversary=True)
        mask_loss = sum(penalties.values(), start=-loss)
        parameters = [p for p in self.method.parameters() if p.requires_grad]
        for p, gradient in zip(parameters, torch.autograd.grad(mask_loss, parameters), strict=True):
            p.grad = gradient
        self.mask_optimiser.step()
        self.method.after_step(_detached(sides[0][1]))  # once a step; one view stands for both
        named = {f"penalty/{name}": value for name, value in penalties.items()}
        return {"mask_loss": mask_loss, **named}

    def _players_nets(self) -> tuple[nn.Module, nn.Module]:
        return self.encoder, self.objective

    def _loss_gradient(self, batch: Batch) -> Images:
        """Gradient of the loss with respect to the unmasked view 1; leaves no other trace."""
        view = batch.views[1].detach().requires_grad_()
        with torch.enable_grad(), _untouched(self._players_nets()):
            with autocast(self.precision, view.device):
                losses = self.objective(self.encoder, batch, view[None], adversary=True)
            (gradient,) = torch.autograd.grad(losses.per_mask.sum(), view)
        return gradient.detach()

    @torch.no_grad()
    def _limits(self, batch: Batch) -> Terms:
        """The loss without a mask and with everything hidden."""
        empty = torch.zeros_like(batch.views[1, :, :1])
        with _untouched(self._players_nets()):
            losses = self._objective(
                batch, torch.cat([empty, empty + 1], dim=1), adversary=True
            ).per_mask
        return {"unmasked_loss": losses[0], "blank_loss": losses[1]}


@torch.no_grad()
def mask_statistics(proposal: Proposal) -> Terms:
    """Per slot: shares of pixels hidden, hidden by it and an earlier slot, near 0 or 1; budget."""
    masks = proposal.masks
    budgets = {} if proposal.budgets is None else {"slot_budget": proposal.budgets.mean(0)}
    earlier = masks.cumsum(1) - masks
    binary = (masks < _BINARY) | (masks > 1 - _BINARY)
    return {
        "slot_area": masks.mean((0, 2, 3)),
        "slot_overlap": (masks * earlier).mean((0, 2, 3)),
        "slot_binary": binary.to(masks.dtype).mean((0, 2, 3)),
        **budgets,
    }


def _detached(proposal: Proposal) -> Proposal:
    tensors = {name: value for name, value in vars(proposal).items() if value is not None}
    return replace(proposal, **{name: value.detach() for name, value in tensors.items()})


def _mean_terms(sides: Sequence[Terms]) -> Terms:
    return {name: torch.stack([side[name] for side in sides]).mean(0) for name in sides[0]}


def _untouched(nets: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """Forwards inside see batch statistics and move no running ones."""
    return running_statistics(nets, "once", adversary=True)


@contextmanager
def _mode(nets: Iterable[nn.Module], *, training: bool) -> Iterator[None]:
    """Put training nets in evaluation mode for a while if ``training`` is false."""
    changed = [m for net in nets for m in net.modules() if m.training and not training]
    for module in changed:
        module.training = False
    try:
        yield
    finally:
        for module in changed:
            module.training = True
