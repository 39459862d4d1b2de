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
from torch.optim.lr_scheduler import LambdaLR

from benchmark.augment import normalise
from benchmark.contracts import Dataset, Images, UserError
from benchmark.precision import autocast, full_precision
from benchmark.streams import permutation, seeded

EVAL_BATCH = 256  # images per forward for scores; in evaluation mode they do not mix

# Factor on the learning rate by the share of steps done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "poly": lambda done: (1 - done) ** 0.9,  # the power of DeepLab, arXiv 1606.00915
}


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


def working_copy(encoder: nn.Module, device: torch.device, *, freeze: bool) -> nn.Module:
    """A copy to use up: in evaluation mode without gradients, or in training mode with them."""
    body = copy.deepcopy(encoder).train(not freeze).requires_grad_(not freeze)
    body.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return body


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

    Attributes:
        purpose: names the random streams and the task in messages.
        epochs: passes through the train split.
        batch_size: upper limit; an epoch's batches are of equal size up to one sample, so that
            none is too small for BatchNorm.
        lr: learning rate at the start.
        schedule: name in `SCHEDULES`.
        momentum: of SGD.
        weight_decay: of SGD, for all parameters.

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

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"{self.purpose}: schedule={self.schedule} is not one of {', '.join(SCHEDULES)}"
            )
        for name, lowest in {"epochs": 1, "batch_size": 1}.items():
            if (value := getattr(self, name)) < lowest:
                raise UserError(f"{self.purpose}: {name}={value} must be at least {lowest}")
        for name in ("lr", "momentum", "weight_decay"):
            if (value := getattr(self, name)) < 0:
                raise UserError(f"{self.purpose}: {name}={value} must not be negative")

    def __str__(self) -> str:
        return (
            f"SGD for {self.epochs} epochs in batches of {self.batch_size} with learning rate "
            f"{self.lr:g} ({self.schedule}), momentum {self.momentum:g} and weight decay "
            f"{self.weight_decay:g}"
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
        optimiser = torch.optim.SGD(
            groups, self.lr, self.momentum, weight_decay=self.weight_decay, fused=True
        )
        batches = math.ceil(count / self.batch_size)
        factor = SCHEDULES[self.schedule]
        rate = LambdaLR(optimiser, lambda step: factor(step / (batches * self.epochs)))
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
