"""One trainer for every method and objective: an encoder step, then the adversary's step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from benchmark.batchnorm import record_statistics, running_statistics
from benchmark.contracts import (
    Anchor,
    Batch,
    Encoder,
    Images,
    Losses,
    MaskingMethod,
    Masks,
    Objective,
    Proposal,
)
from benchmark.hiding import Fill, hide
from benchmark.modes import frozen, in_mode
from benchmark.precision import autocast
from benchmark.probe import OnlineProbe
from benchmark.processes import average_gradients
from benchmark.profiling import section
from benchmark.slots import slot_statistics
from benchmark.turns import Turns, check_update

Terms = dict[str, Tensor]
# One side of a batch: the data in the order (clean, masked), and the masks proposed for it.
Side = tuple[Batch, Proposal]


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
        update: "alternating" trains the adversary against the encoder as it is after its step;
            "low_memory" does the same with the graph of one hidden view in memory at a time;
            "simultaneous" takes both players' gradients from one forward, so the adversary's is
            another one.
        sync_batchnorm: take BatchNorm's statistics over the batches of all processes.
        cuda_graphs: the nets record CUDA graphs, which must be told where a step begins: left to
            guess, they would free within it what the adversary's turn still needs.

    Raises:
        UserError: for an update that the other rules do not allow.
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
    update: str = "alternating"
    sync_batchnorm: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        check_update(
            self.update,
            self.turns,
            unmasked_pair=self.unmasked_pair,
            same_masks=self.method.same_masks,
        )
        for net in (self.encoder, self.objective, self.method):
            record_statistics(net, synchronised=self.sync_batchnorm)

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
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        data = [batch, batch.swapped()] if self.mask_both_views else [batch]
        proposed = self._proposed(data)
        sides: list[Side] | None = proposed
        terms = slot_statistics(proposed[0][1])
        if diagnose:
            with section("diagnosis"):
                terms |= _mean_terms([self._limits(side) for side in data])
        if self.mask_optimiser is None:
            terms |= self._encoder_step(proposed)
        elif self.update == "simultaneous":
            terms |= self._joint_step(proposed)
        else:
            for player in self.turns.players(step):
                sides = sides or self._proposed(data)
                if player == "encoder":
                    terms |= self._encoder_step(sides)
                else:
                    terms |= self._mask_step(sides)
                    sides = None
        return {name: value.detach() for name, value in terms.items()}

    def _proposed(self, data: Sequence[Batch]) -> list[Side]:
        with section("masks"):
            return [(side, self.propose(side)) for side in data]

    def propose(self, batch: Batch) -> Proposal:
        """Masks for view 1, with the graph to the method's parameters."""
        if "loss_gradient" in self.method.needs:
            batch = replace(batch, loss_gradient=lambda: self._loss_gradient(batch))
        with running_statistics((self.method,), "once", 0, adversary=False):
            with autocast(self.precision, batch.views.device):
                proposal: Proposal = self.method(batch)
        return proposal

    def hidden(self, batch: Batch, masks: Masks) -> Float[Tensor, "n b 3 h w"]:
        """View 1 under each mask."""
        return hide(batch.views[1], masks, self.fill(batch.views[1], batch.streams))

    def _encoder_step(self, sides: Sequence[Side]) -> Terms:
        masks = [proposal.encoder_masks.detach() for _, proposal in sides]
        if self.unmasked_pair:
            masks = [torch.cat([m, torch.zeros_like(m[:, :1])], dim=1) for m in masks]
        return self._train_encoder(sides, masks)

    def _mask_step(self, sides: Sequence[Side]) -> Terms:
        """Minimise penalties - objective over the method alone."""
        leaves = [_leaf(proposal.adversary_masks) for _, proposal in sides]
        nets = (self.encoder, self.objective)
        with section("adversary's step"):
            with frozen(nets), in_mode(nets, self.turns.encoder_mode):
                losses = self._backward(sides, leaves, adversary=True)
            return self._train_method(sides, leaves, self._reduced(losses.per_mask))

    def _joint_step(self, sides: Sequence[Side]) -> Terms:
        """Both steps from one forward: the masks' gradient, reversed, is the adversary's."""
        leaves = [_leaf(proposal.adversary_masks) for _, proposal in sides]
        terms = self._train_encoder(sides, leaves)
        with section("adversary's step"):
            return terms | self._train_method(sides, leaves, terms["loss"])

    def _train_encoder(self, sides: Sequence[Side], masks: Sequence[Masks]) -> Terms:
        with section("encoder's step"):
            self.encoder_optimiser.zero_grad(set_to_none=True)
            losses = self._backward(sides, masks, adversary=False)
            _step(self.encoder_optimiser)
        batch = sides[0][0]
        self.objective.after_step(self.encoder, batch.progress)
        terms = {"loss": self._reduced(losses.per_mask), "slot_loss": losses.per_mask}
        if self.probe is not None and batch.labels is not None:
            terms["probe"] = self.probe.step(losses.features, batch.labels)
        return terms

    def _train_method(self, sides: Sequence[Side], leaves: Sequence[Masks], loss: Tensor) -> Terms:
        """Take penalties - loss, whose gradient at the masks is in ``leaves``, to the method."""
        assert self.mask_optimiser is not None
        penalties = _mean_terms([self.method.penalties(proposal) for _, proposal in sides])
        total = sum(penalties.values(), start=torch.zeros_like(loss))
        outputs = [proposal.adversary_masks for _, proposal in sides]
        gradients: list[Tensor | None] = []
        for leaf in leaves:
            assert leaf.grad is not None
            gradients.append(-leaf.grad)
        if total.requires_grad:
            outputs, gradients = [*outputs, total], [*gradients, None]
        self.mask_optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(outputs, gradients)
        _step(self.mask_optimiser)
        self.method.after_step(_detached(sides[0][1]))  # once a step; one view stands for both
        named = {f"penalty/{name}": value for name, value in penalties.items()}
        return {"mask_loss": total - loss, **named}

    def _backward(
        self, sides: Sequence[Side], masks: Sequence[Masks], *, adversary: bool
    ) -> Losses:
        """Losses of the slots as means over sides; their gradient is left in what requires one."""
        found = []
        for (batch, _), own in zip(sides, masks, strict=True):
            with self._recorded(own.shape[1], adversary=adversary):
                if self.update == "low_memory":
                    losses = self._slot_by_slot(batch, own, len(sides), adversary=adversary)
                else:
                    losses = self._objective(batch, own, adversary=adversary)
                    (self._reduced(losses.per_mask) / len(sides)).backward()
                if self.batchnorm == "adios_probe" and not adversary:
                    with torch.no_grad(), autocast(self.precision, batch.views.device):
                        self.encoder(batch.views[1])
            found.append(Losses(losses.per_mask.detach(), losses.features))
        return Losses(torch.stack([side.per_mask for side in found]).mean(0), found[0].features)

    def _slot_by_slot(self, batch: Batch, masks: Masks, sides: int, *, adversary: bool) -> Losses:
        """The same with one hidden view's graph at a time, the clean view's last."""
        with autocast(self.precision, batch.views.device):
            with torch.set_grad_enabled(not adversary):
                anchor = self.objective.anchor(self.encoder, batch)
        values = tuple(_leaf(v) if v.requires_grad else v for v in anchor.values)
        share = 1 / (sides * (1 if self.method.reduction == "sum" else masks.shape[1]))
        per_mask = []
        for mask in masks.split(1, dim=1):
            with autocast(self.precision, batch.views.device):
                hidden = self.hidden(batch, mask)
                loss = self.objective.compare(
                    self.encoder, Anchor(anchor.features, values), hidden, batch
                )
            (loss.sum() * share).backward()
            per_mask.append(loss.detach())
        pairs = [(value, leaf.grad) for value, leaf in zip(anchor.values, values, strict=True)]
        pairs = [(value, gradient) for value, gradient in pairs if gradient is not None]
        if pairs:
            torch.autograd.backward([v for v, _ in pairs], [gradient for _, gradient in pairs])
        return Losses(torch.cat(per_mask), anchor.features)

    def _objective(self, batch: Batch, masks: Masks, *, adversary: bool) -> Losses:
        with autocast(self.precision, batch.views.device):
            hidden = self.hidden(batch, masks)
            losses: Losses = self.objective(self.encoder, batch, hidden, adversary=adversary)
        return losses

    def _reduced(self, per_mask: Float[Tensor, "m"]) -> Float[Tensor, ""]:
        return per_mask.sum() if self.method.reduction == "sum" else per_mask.mean()

    def _recorded(self, hidden: int, *, adversary: bool) -> AbstractContextManager[None]:
        nets = (self.encoder, self.objective)
        return running_statistics(nets, self.batchnorm, hidden, adversary=adversary)

    def _untouched(self) -> AbstractContextManager[None]:
        """Forwards inside see batch statistics and move no running ones."""
        return running_statistics((self.encoder, self.objective), "once", 0, adversary=True)

    def _loss_gradient(self, batch: Batch) -> Images:
        """Gradient of the loss with respect to the unmasked view 1; leaves no other trace."""
        view = _leaf(batch.views[1])
        with torch.enable_grad(), self._untouched(), frozen((self.encoder, self.objective)):
            with autocast(self.precision, view.device):
                losses = self.objective(self.encoder, batch, view[None], adversary=True)
            (gradient,) = torch.autograd.grad(losses.per_mask.sum(), view)
        return gradient

    @torch.no_grad()
    def _limits(self, batch: Batch) -> Terms:
        """The loss without a mask and with everything hidden."""
        empty = torch.zeros_like(batch.views[1, :, :1])
        with self._untouched():
            losses = self._objective(
                batch, torch.cat([empty, empty + 1], dim=1), adversary=True
            ).per_mask
        return {"unmasked_loss": losses[0], "blank_loss": losses[1]}


def _leaf(tensor: Tensor) -> Tensor:
    """The same values as the start of a graph."""
    return tensor.detach().requires_grad_()


def _step(optimiser: torch.optim.Optimizer) -> None:
    """Step by the mean gradient of all processes."""
    average_gradients(p for group in optimiser.param_groups for p in group["params"])
    optimiser.step()


def _detached(proposal: Proposal) -> Proposal:
    tensors = {name: value for name, value in vars(proposal).items() if value is not None}
    return replace(proposal, **{name: value.detach() for name, value in tensors.items()})


def _mean_terms(sides: Sequence[Terms]) -> Terms:
    return {name: torch.stack([side[name] for side in sides]).mean(0) for name in sides[0]}
