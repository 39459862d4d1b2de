"""What the tasks share: their data, copies of an encoder, and features in evaluation mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.contracts import Images
from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.precision import autocast, full_precision
from benchmark.views import normalise, plain_view

SplitName = Literal["train", "test"]

EVAL_BATCH = 256  # images per forward for scores; in evaluation mode they do not mix


def examples(
    data: Dataset, split: SplitName, truth: Literal["labels", "pixel_labels"]
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
    """How images of one data set become what an encoder takes.

    Attributes:
        mean, std: of the data set.
        device: where the encoder is.
        size, view: see `benchmark.dataset.Dataset`.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: torch.device
    size: int | None = None
    view: Literal["whole", "centre"] = "whole"

    @classmethod
    def of(cls, data: Dataset, device: torch.device) -> Inputs:
        """The inputs of a data set."""
        return cls(data.mean, data.std, device, data.view_size, data.view)

    def __call__(self, pixels: Images) -> Images:
        """Normalise pixels in [0, 1]."""
        normalised: Tensor = normalise(pixels, self.mean, self.std)
        return normalised.contiguous(memory_format=torch.channels_last)

    def plain(self, images: UInt8[Tensor, "b 3 H W"]) -> Images:
        """What the encoder sees of un-augmented images."""
        return self(plain_view(images.to(self.device), self.size, self.view))

    def batches(
        self, images: UInt8[Tensor, "n 3 H W"], index: Int[Tensor, "m"] | None = None
    ) -> Iterator[Images]:
        """Images un-augmented, for scores: those at ``index``, or all in order."""
        parts = images.split(EVAL_BATCH) if index is None else index.split(EVAL_BATCH)
        for part in parts:
            yield self.plain(part if index is None else images[part])


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


def check_batches(
    task: str, forward: Callable[[Images], object], count: int, size: tuple[int, int]
) -> None:
    """Refuse batches that a net cannot train on, without computing anything.

    Args:
        task: names the task in the message.
        forward: of a net on the meta device, in the mode of training.
        count: images in the smallest batch.
        size: their height and width in pixels.

    Raises:
        UserError: as for a single value per channel, which BatchNorm has no statistics of.
    """
    try:
        forward(torch.zeros(count, 3, *size, device="meta"))
    except Exception as error:
        raise UserError(
            f"{task}: the encoder does not take batches of {count} images of {size[0]}x{size[1]} "
            f"pixels, the smallest there are ({str(error).splitlines()[0]}); choose another "
            "batch_size or larger images, or leave the task out"
        ) from error


@contextmanager
def unchanged(encoder: nn.Module) -> Iterator[None]:
    """See that weights and buffers, BatchNorm's statistics included, leave as they came.

    Raises:
        RuntimeError: if one of them does not.
    """
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    yield
    after = encoder.state_dict()
    for name, value in before.items():
        if not torch.equal(after[name], value):
            raise RuntimeError(f"the encoder has changed, in {name}")


@torch.no_grad()
def extract(
    body: nn.Module,
    images: UInt8[Tensor, "n 3 h w"],
    inputs: Inputs,
    precision: str,
    index: Int[Tensor, "m"] | None = None,
) -> Float[Tensor, "m d"]:
    """Features of un-augmented images; puts ``body`` in evaluation mode.

    Args:
        body: the encoder.
        images: of a split.
        inputs: how they become what the encoder takes.
        precision: of the encoder.
        index: which of the images; None for all.

    Raises:
        FloatingPointError: if any feature is not finite.
    """
    body.eval()
    with autocast(precision, inputs.device):
        batches = inputs.batches(images, index)
        features = full_precision(torch.cat([body(batch) for batch in batches]))
    if not features.isfinite().all():
        raise FloatingPointError("the encoder gives features that are not finite")
    return features


def frozen_features(
    encoder: nn.Module,
    data: Dataset,
    splits: Sequence[SplitName],
    precision: str,
    device: torch.device,
) -> dict[SplitName, tuple[Float[Tensor, "_ d"], Int[Tensor, "_"]]]:
    """Features of un-augmented images by a frozen copy of the encoder, and labels, by split.

    Raises:
        UserError: if the data set has no such split or no labels.
        FloatingPointError: if any feature is not finite.
        RuntimeError: if the copy has changed.
    """
    found = {split: examples(data, split, "labels") for split in splits}
    inputs = Inputs.of(data, device)
    body = working_copy(encoder, device, freeze=True)
    with unchanged(body):
        return {
            split: (extract(body, images, inputs, precision), labels)
            for split, (images, labels) in found.items()
        }
