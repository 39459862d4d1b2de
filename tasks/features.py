"""What the tasks share: their data, features in evaluation mode, and training in a seeded order."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR

from benchmark.augment import normalise
from benchmark.contracts import Dataset, Images, UserError, at_least
from benchmark.optim import build_lars
from benchmark.precision import autocast, full_precision
from benchmark.schedule import warmup_cosine
from benchmark.streams import permutation, seeded

EVAL_BATCH = 256  # images per forward for scores; in evaluation mode they do not mix

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
OPTIMISERS = ("sgd", "lars")
TRUST_COEFFICIENT = 1e-3  # of LARS in the evaluations of the ADIOS code, which do not clip it


def examples(
    data: Dataset, split: Literal["train", "test"], truth: Literal["labels", "pixel_labels"]
) -> tuple[UInt8[Tensor, "n 3 h w"], Integer[Tensor, "n ..."]]:
    """Images of a split and their ground truth.

    Raises:
        UserError: if the data set has no such split or no such ground truth.
    """
    chosen = data.train if split == "train" else data.test
    known = None if chosen is None else getattr(chosen, truth)
    if chosen is None or known is None:
        raise UserError(
            f"data {data.name!r} has no {truth} in its {split} split; "
            "choose data that has them or leave the task out"
        )
    return chosen.images, known


@dataclass(frozen=True)
class Inputs:
    """How pixels of one data set become what an encoder takes."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: torch.device

    def __call__(self, pixels: Images) -> Images:
        """Normalise pixels in [0, 1]."""
        normalised: Tensor = normalise(pixels, self.mean, self.std)
        return normalised.contiguous(memory_format=torch.channels_last)

    def batches(self, images: UInt8[Tensor, "n 3 h w"]) -> Iterator[Images]:
        """All images in order and un-augmented, for scores."""
        for batch in images.split(EVAL_BATCH):
            yield self(batch.to(self.device).float() / 255)


def working_copy(
    encoder: nn.Module, device: torch.device, *, freeze: bool, freeze_batchnorm: bool = False
) -> nn.Module:
    """A copy to use up: in evaluation mode without gradients, or in training mode with them.

    With ``freeze_batchnorm`` BatchNorm is in evaluation mode in both cases: it uses the running
    statistics and does not move them, while its scale and shift may learn.
    """
    body = copy.deepcopy(encoder).train(not freeze).requires_grad_(not freeze)
    body.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if freeze_batchnorm:
        for module in body.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    return body


@torch.no_grad()
def check_size(encoder: nn.Module, data: Dataset) -> None:
    """Refuse images of another size than that of pretraining if the encoder does not take them.

    Raises:
        UserError: with both sizes.
    """
    own = getattr(encoder, "image_size", None)  # encoders for any size have none
    if own in (None, data.image_size):
        return
    body = working_copy(encoder, torch.device("cpu"), freeze=True)
    try:
        body(torch.zeros(1, 3, data.image_size, data.image_size))
    except Exception as error:
        raise UserError(
            f"data {data.name!r} has images of {data.image_size} pixels, which the encoder built "
            f"for {own} does not take; set the data's image_size to {own} or leave the task out"
        ) from error


@contextmanager
def unchanged(encoder: nn.Module) -> Iterator[None]:
    """Assert that weights and buffers, BatchNorm's statistics included, leave as they came."""
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    yield
    after = encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()), (
        "the encoder has changed"
    )


@torch.no_grad()
def extract(
    body: nn.Module, images: UInt8[Tensor, "n 3 h w"], inputs: Inputs, precision: str
) -> Float[Tensor, "n d"]:
    """Features of un-augmented images; puts ``body`` in evaluation mode.

    Raises:
        FloatingPointError: if any feature is not finite.
    """
    body.eval()
    with autocast(precision, inputs.device):
        features = full_precision(torch.cat([body(batch) for batch in inputs.batches(images)]))
    if not features.isfinite().all():
        raise FloatingPointError("the encoder gives features that are not finite")
    return features


@dataclass(frozen=True)
class Training:
    """SGD for a fixed number of epochs; what counts is the state after the last one.

    With LARS the gradients of weight matrices are scaled as in the ADIOS code's evaluations.

    Attributes:
        purpose: names the random streams and the task in messages.
        epochs: passes through the train split.
        batch_size: upper limit; an epoch's batches are of equal size up to one sample, so that
            none is too small for BatchNorm.
        lr: learning rate at the start.
        schedule: name in `SCHEDULES`.
        momentum: of SGD.
        weight_decay: of SGD, for all parameters; with LARS for matrices only.
        optimiser: "sgd" or "lars".
        warmup_epochs: for "warmup_cosine" alone, linear from 0.

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

    def __post_init__(self) -> None:
        for name, known in {"schedule": tuple(SCHEDULES), "optimiser": OPTIMISERS}.items():
            if (value := getattr(self, name)) not in known:
                raise UserError(f"{self.purpose}: {name}={value} is not one of {', '.join(known)}")
        at_least(1, f"{self.purpose}: ", epochs=self.epochs, batch_size=self.batch_size)
        for name in ("lr", "momentum", "weight_decay"):
            if (value := getattr(self, name)) < 0:
                raise UserError(f"{self.purpose}: {name}={value} must not be negative")
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
        schedule = self.schedule
        if schedule == "step":
            schedule += ", a tenth after 60% and again after 80% of the steps"
        elif schedule == "warmup_cosine":
            schedule += f", {self.warmup_epochs:g} epochs linearly from 0"
        name, decay = "SGD", ""
        if self.optimiser == "lars":
            name = f"SGD with LARS (trust coefficient {TRUST_COEFFICIENT:g}, weight matrices only)"
            decay = " of weight matrices"
        return (
            f"{name} for {self.epochs} epochs in batches of {self.batch_size} with learning rate "
            f"{self.lr:g} ({schedule}), momentum {self.momentum:g} and weight decay "
            f"{self.weight_decay:g}{decay}"
        )

    def fit(
        self,
        loss: Callable[[int, Int[Tensor, "b"]], Float[Tensor, ""]],
        body: nn.Module,
        head: nn.Module,
        *,
        head_lr: float | None = None,
        count: int,
        eval_seed: int,
    ) -> None:
        """Minimise ``loss(epoch, index)`` over all of ``count`` samples in each epoch.

        Args:
            loss: of a batch, given the positions of its samples in the split.
            body: its trainable parameters, if any, learn with ``lr``.
            head: learns with ``head_lr``.
            head_lr: ``lr`` if None.
            count: number of samples.
            eval_seed: decides the order of samples.

        Raises:
            FloatingPointError: if the loss stops being finite.
        """
        groups: list[dict[str, Any]] = [
            {"params": list(head.parameters()), "lr": self.lr if head_lr is None else head_lr},
            {"params": [p for p in body.parameters() if p.requires_grad]},
        ]
        optimiser = self._optimiser(groups)
        batches = math.ceil(count / self.batch_size)
        steps, warmup = batches * self.epochs, round(batches * self.warmup_epochs)
        factor = SCHEDULES[self.schedule]
        rate = LambdaLR(optimiser, lambda step: factor(step, steps, warmup))
        with seeded(eval_seed, f"{self.purpose}/noise"):  # dropout, in encoders that have any
            for epoch in range(self.epochs):
                order = permutation(eval_seed, f"{self.purpose}/order", epoch, count)
                for index in order.tensor_split(batches):
                    value = loss(epoch, index)
                    optimiser.zero_grad()
                    value.backward()
                    optimiser.step()
                    rate.step()
                if not value.isfinite():
                    raise FloatingPointError(
                        f"{self.purpose}: loss {value.item()} in epoch {epoch}; lower the lr"
                    )

    def _optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if self.optimiser == "lars":
            return build_lars(
                groups,
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                trust_coefficient=TRUST_COEFFICIENT,
                clip=False,
            )
        return torch.optim.SGD(
            groups, self.lr, self.momentum, weight_decay=self.weight_decay, fused=True
        )
