"""How the tasks train their heads: an optimiser, a schedule and a seeded order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from benchmark.errors import UserError, at_least
from benchmark.optim import build_lars, by_dimension
from benchmark.schedule import warmup_cosine
from benchmark.streams import permutation, seeded

# Factor on the learning rate by step, number of steps and steps of warm-up.
SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": lambda step, steps, warmup: 1.0,
    "cosine": lambda step, steps, warmup: (1 + math.cos(math.pi * (step / steps))) / 2,
    # The power of DeepLab, arXiv 1606.00915.
    "poly": lambda step, steps, warmup: (1 - step / steps) ** 0.9,
    # Epochs 60 and 80 of 100 in the linear evaluation of the ADIOS code.
    "step": lambda step, steps, warmup: 0.1 ** ((step / steps >= 0.6) + (step / steps >= 0.8)),
    "warmup_cosine": lambda step, steps, warmup: warmup_cosine(
        step, base=1.0, start=0.0, warmup=warmup, total=steps
    ),
}
OPTIMISERS = ("sgd", "lars", "adamw")
SECOND_BETA = 0.999  # of AdamW
TRUST_COEFFICIENT = 1e-3  # of LARS in the evaluations of the ADIOS code, which do not clip it

# Parameters that learn alike: "params", with "lr" and "weight_decay" where they have their own.
Group = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """A fixed number of epochs; what counts is the state after the last one.

    Attributes:
        purpose: names the random streams and the task in messages.
        epochs: passes through the train split.
        batch_size: upper limit; an epoch's batches are of equal size up to one sample, so that
            none is too small for BatchNorm.
        lr: learning rate at the start.
        schedule: name in `SCHEDULES`.
        momentum: of SGD; of AdamW the first beta, its second is 0.999.
        weight_decay: of all parameters; with LARS of matrices only; of AdamW decoupled from the
            gradients.
        optimiser: "sgd"; "lars" is SGD with the gradients of weight matrices scaled as in the
            ADIOS code's evaluations; or "adamw".
        warmup_epochs: for "warmup_cosine" alone, linear from 0.
        exclude_bias_and_norm: no weight decay of parameters of one dimension, whatever the
            optimiser.

    Raises:
        UserError: for values out of range.
    """

    purpose: str
    epochs: int
    batch_size: int
    lr: float
    schedule: str
    momentum: float
    weight_decay: float
    optimiser: str = "sgd"
    warmup_epochs: float = 0.0
    exclude_bias_and_norm: bool = False

    def __post_init__(self) -> None:
        for name, known in {"schedule": tuple(SCHEDULES), "optimiser": OPTIMISERS}.items():
            if (value := getattr(self, name)) not in known:
                raise UserError(f"{self.purpose}: {name}={value} is not one of {', '.join(known)}")
        at_least(1, f"{self.purpose}: ", epochs=self.epochs, batch_size=self.batch_size)
        for name in ("lr", "momentum", "weight_decay"):
            if (value := getattr(self, name)) < 0:
                raise UserError(f"{self.purpose}: {name}={value} must not be negative")
        if self.momentum >= 1:
            raise UserError(f"{self.purpose}: momentum={self.momentum} must be below 1")
        if self.schedule == "warmup_cosine" and not 0 < self.warmup_epochs < self.epochs:
            raise UserError(
                f"{self.purpose}: warmup_epochs={self.warmup_epochs:g} must lie above 0 and below "
                f"epochs={self.epochs} for schedule=warmup_cosine; set it, or schedule=cosine"
            )
        if self.schedule != "warmup_cosine" and self.warmup_epochs != 0:
            raise UserError(
                f"{self.purpose}: warmup_epochs={self.warmup_epochs:g} needs "
                f"schedule=warmup_cosine; set it to 0 for schedule={self.schedule}"
            )

    def __str__(self) -> str:
        return self.sentence(f"{self.lr:g}", f"{self.weight_decay:g}")

    def sentence(self, lr: str, weight_decay: str) -> str:
        """All settings, with these words for learning rate and weight decay."""
        schedule = self.schedule
        if schedule == "step":
            schedule += ", a tenth after 60% and again after 80% of the steps"
        elif schedule == "warmup_cosine":
            schedule += f", {self.warmup_epochs:g} epochs linearly from 0"
        name, momentum, decay = "SGD", f"momentum {self.momentum:g}", ""
        if self.optimiser == "adamw":
            name, momentum = "AdamW", f"betas {self.momentum:g} and {SECOND_BETA:g}"
        if self.optimiser == "lars":
            name = f"SGD with LARS (trust coefficient {TRUST_COEFFICIENT:g}, weight matrices only)"
        if self.optimiser == "lars" or self.exclude_bias_and_norm:
            decay = " of weight matrices"
        return (
            f"{name} for {self.epochs} epochs in batches of {self.batch_size} with learning rate "
            f"{lr} ({schedule}), {momentum} and weight decay {weight_decay}{decay}"
        )

    def at(self, point: Mapping[str, float]) -> Training:
        """The same with the "lr" and the "weight_decay" of a combination."""
        return replace(self, lr=point["lr"], weight_decay=point["weight_decay"])

    def smallest_batch(self, count: int) -> int:
        """Samples in the smallest batch of an epoch of ``count``."""
        return count // self._batches(count)

    def _batches(self, count: int) -> int:
        return math.ceil(count / self.batch_size)

    def fit(
        self,
        loss: Callable[[int, Int[Tensor, "b"]], Float[Tensor, "*k"]],
        groups: Iterable[Group],
        *,
        count: int,
        eval_seed: int,
    ) -> None:
        """Minimise ``loss(epoch, index)`` over all of ``count`` samples in each epoch.

        Args:
            loss: of a batch, given the positions of its samples in the split; of several heads
                that share nothing trainable, the loss of each.
            groups: what is trained.
            count: number of samples.
            eval_seed: decides the order of samples.

        Raises:
            FloatingPointError: if no loss stays finite.
        """
        optimiser = self._optimiser(groups)
        batches = self._batches(count)
        steps, warmup = batches * self.epochs, round(batches * self.warmup_epochs)
        factor = SCHEDULES[self.schedule]
        rate = LambdaLR(optimiser, lambda step: factor(step, steps, warmup))
        with seeded(eval_seed, f"{self.purpose}/noise"):  # dropout, in encoders that have any
            for epoch in range(self.epochs):
                order = permutation(eval_seed, f"{self.purpose}/order", epoch, count)
                for index in order.tensor_split(batches):
                    value = loss(epoch, index)
                    optimiser.zero_grad()
                    value.sum().backward()
                    optimiser.step()
                    rate.step()
                if not value.isfinite().any():
                    raise FloatingPointError(
                        f"{self.purpose}: loss {value.tolist()} in epoch {epoch}; lower the lr"
                    )

    def _optimiser(self, groups: Iterable[Group]) -> torch.optim.Optimizer:
        if self.optimiser == "lars":
            return build_lars(
                groups,
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                trust_coefficient=TRUST_COEFFICIENT,
                clip=False,
            )
        if self.exclude_bias_and_norm:
            groups = [part for group in groups for part in by_dimension(group, self.weight_decay)]
        settings: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "fused": True}
        if self.optimiser == "adamw":
            return torch.optim.AdamW(groups, betas=(self.momentum, SECOND_BETA), **settings)
        return torch.optim.SGD(groups, momentum=self.momentum, **settings)
