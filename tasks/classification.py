"""Linear probe and fine-tuning: one protocol, with the encoder frozen or not.

Transfer is the same task on another data set than that of pretraining.
"""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmark.augment import Augment
from benchmark.contracts import Dataset, Images, Task, TaskResult, UserError
from benchmark.precision import autocast, full_precision
from benchmark.streams import Streams, seeded
from tasks.features import (
    Inputs,
    Training,
    check_size,
    examples,
    extract,
    unchanged,
    working_copy,
)


class Classification(Task):
    """Top-1 accuracy of a linear layer on an encoder that is frozen or trained along.

    A frozen encoder stays in evaluation mode, and without ``augment`` its features are computed
    once. A trained one is a copy whose BatchNorm learns and counts as in any training.

    ``freeze_batchnorm`` and ``reset_stem`` are what the ADIOS code does when it fine-tunes
    (github.com/YugeTen/adios, src/methods/supervised.py), the latter for CIFAR only.

    Args:
        freeze: linear probe if true, fine-tuning if false.
        epochs: passes through the train split.
        lr: learning rate, of the encoder too if it is trained.
        schedule: "constant", "cosine", "poly", "step" or "warmup_cosine".
        warmup_epochs: for "warmup_cosine" alone, linear from 0.
        optimiser: "sgd" or "lars".
        batch_size: most samples in a step.
        head_lr: learning rate of the linear layer if it is to differ.
        momentum: of SGD.
        weight_decay: of SGD; with LARS of weight matrices only.
        freeze_batchnorm: leave a trained encoder's BatchNorm on its running statistics; its scale
            and shift train all the same.
        reset_stem: exchange the first convolution of a ResNet for a new one of 3x3 with stride 1
            and padding 2, drawn by the evaluation seed, and leave the pooling out. The BatchNorm
            behind it stays, running statistics included.
        standardise: scale each frozen feature by its mean and variance over the train split, as
            a BatchNorm without affine part would (MAE's probe, arXiv 2111.06377, appendix A.1).
        augment: train on random resized crops and flips; scores never are.
        min_scale: smallest area of a crop, as a share of the image.
        flip_prob: chance of a horizontal flip.
        precision: "fp32" or "bf16", for the encoder; the linear layer is always fp32.

    Raises:
        UserError: for values that do not exist, are out of range or contradict each other.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[Literal["labels", "pixel_labels"]] = "labels"

    def __init__(
        self,
        *,
        freeze: bool,
        epochs: int,
        lr: float,
        schedule: str,
        batch_size: int = 256,
        head_lr: float | None = None,
        optimiser: str = "sgd",
        warmup_epochs: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        freeze_batchnorm: bool = False,
        reset_stem: bool = False,
        standardise: bool = False,
        augment: bool = False,
        min_scale: float = 0.08,
        flip_prob: float = 0.5,
        precision: str = "fp32",
    ) -> None:
        purpose = "linear" if freeze else "finetune"
        if standardise and not freeze:
            raise UserError(
                "finetune: standardise=true needs features that stay; set it to false, "
                "or freeze to true"
            )
        if freeze and head_lr is not None:
            raise UserError(f"linear: head_lr={head_lr} has no body to differ from; set lr instead")
        if head_lr is not None and head_lr < 0:
            raise UserError(f"finetune: head_lr={head_lr} must not be negative")
        for name, value in {"freeze_batchnorm": freeze_batchnorm, "reset_stem": reset_stem}.items():
            if freeze and value:
                raise UserError(
                    f"linear: {name}=true is for an encoder that is trained; set it to false, or "
                    "freeze to false"
                )
        if not 0 < min_scale <= 1:
            raise UserError(f"{purpose}: min_scale={min_scale} must be above 0 and at most 1")
        if not 0 <= flip_prob <= 1:
            raise UserError(f"{purpose}: flip_prob={flip_prob} must lie between 0 and 1")
        autocast(precision, torch.device("cpu"))  # refuses an unknown precision
        self.training = Training(
            purpose,
            epochs,
            batch_size,
            lr,
            schedule,
            momentum,
            weight_decay,
            optimiser,
            warmup_epochs,
        )
        self.freeze = freeze
        self.freeze_batchnorm = freeze_batchnorm
        self.reset_stem = reset_stem
        self.head_lr = head_lr
        self.standardise = standardise
        self.augment = augment
        self.min_scale = min_scale
        self.flip_prob = flip_prob
        self.precision = precision
        parts = []
        if freeze_batchnorm:
            parts.append("BatchNorm on its pretrained running statistics")
        if reset_stem:
            parts.append("first convolution new, 3x3 with stride 1 and padding 2, no pooling")
        body = f"Encoder ({'; '.join(parts)})" if parts else "Encoder"
        start = (
            "Linear classifier on frozen features" if freeze else f"{body} and linear classifier"
        )
        scaled = ", standardised by the train split," if standardise else ""
        views = "un-augmented images"
        if augment:
            views = (
                f"random resized crops (of {min_scale:g} of the area or more) and flips "
                f"(probability {flip_prob:g})"
            )
        head = "" if head_lr is None else f" ({head_lr:g} for the classifier)"
        self.protocol = (
            f"{start}{scaled} of {views}: {self.training}{head}, encoder in {precision}; top-1 "
            "accuracy on un-augmented test images after the last epoch."
        )

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse a size that the encoder does not take, and a stem that cannot be reset."""
        if not self.reset_stem:
            check_size(encoder, data)
        elif not isinstance(getattr(encoder, "conv1", None), nn.Conv2d):
            raise UserError(
                f"finetune: reset_stem=true needs an encoder with a conv1, and "
                f"{type(encoder).__name__} has none; choose a ResNet, or set it to false"
            )

    def run(
        self, encoder: nn.Module, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Train on ``data.train`` and score both splits."""
        self.check(encoder, data)
        images, labels = examples(data, "train", "labels")
        test_images, test_labels = examples(data, "test", "labels")
        inputs = Inputs(data.mean, data.std, device)
        start = self._fresh_stem(encoder, eval_seed) if self.reset_stem else encoder
        body = working_copy(
            start, device, freeze=self.freeze, freeze_batchnorm=self.freeze_batchnorm
        )
        head = self._head(encoder, int(labels.max()) + 1, eval_seed).to(device)
        views = Augment(
            data.image_size,
            min_scale=self.min_scale,
            flip_prob=self.flip_prob,
            jitter_prob=0.0,
            grayscale_prob=0.0,
            blur_prob=0.0,
        )

        def encode(epoch: int, index: Int[Tensor, "b"]) -> Float[Tensor, "b d"]:
            batch = images[index].to(device)
            pixels: Images = batch.float() / 255
            if self.augment:
                # Views 0 and 1 are those of pretraining, which may have had the same seed.
                pixels = views(batch, Streams(eval_seed, epoch, index.to(device)), view=2)
            with autocast(self.precision, device):
                return full_precision(body(inputs(pixels)))

        def loss(epoch: int, index: Int[Tensor, "b"]) -> Float[Tensor, ""]:
            once = self.freeze and not self.augment
            features = fixed[index] if once else encode(epoch, index)
            return F.cross_entropy(head(features), labels[index].to(device))

        with unchanged(body if self.freeze else encoder):
            if self.freeze:
                fixed = extract(body, images, inputs, self.precision)
                if self.standardise:
                    head[0].running_mean = fixed.mean(0)
                    head[0].running_var = fixed.var(0, correction=0)
            self.training.fit(
                loss, body, head, head_lr=self.head_lr, count=len(images), eval_seed=eval_seed
            )
            train_features = fixed if self.freeze else extract(body, images, inputs, self.precision)
            test_features = extract(body, test_images, inputs, self.precision)
        accuracy = _accuracy(head, test_features, test_labels)
        train_accuracy = _accuracy(head, train_features, labels)
        return TaskResult({"accuracy": accuracy, "train_accuracy": train_accuracy})

    def _fresh_stem(self, encoder: nn.Module, eval_seed: int) -> nn.Module:
        """A copy whose first convolution is that of ADIOS for CIFAR, initialised as there."""
        renewed = copy.deepcopy(encoder)
        conv1 = renewed.conv1
        assert isinstance(conv1, nn.Conv2d)
        with seeded(eval_seed, f"{self.training.purpose}/stem"):
            renewed.conv1 = nn.Conv2d(3, conv1.out_channels, 3, padding=2, bias=False)
        renewed.maxpool = nn.Identity()
        return renewed

    def _head(self, encoder: nn.Module, num_classes: int, eval_seed: int) -> nn.Sequential:
        """Standardisation, if any, then the linear layer; the former has no parameters."""
        dim = encoder.feature_dim
        assert isinstance(dim, int)
        with seeded(eval_seed, f"{self.training.purpose}/head"):
            linear = nn.Linear(dim, num_classes)
        scale = nn.BatchNorm1d(dim, affine=False).eval() if self.standardise else nn.Identity()
        return nn.Sequential(scale, linear)


@torch.no_grad()
def _accuracy(head: nn.Module, features: Float[Tensor, "n d"], labels: Int[Tensor, "n"]) -> float:
    """Share of samples, in percent, whose class has the highest score."""
    correct = head(features).argmax(1) == labels.to(features.device)
    return 100 * int(correct.sum()) / len(labels)
