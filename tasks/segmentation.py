"""Semantic segmentation with a fully convolutional head: FCN-32s, FCN-16s or FCN-8s."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from benchmark.contracts import Dataset, Task, TaskResult, UserError
from benchmark.precision import autocast
from benchmark.streams import Streams, permutation, seeded
from tasks.fcn import FCN, HEADS, FCNHead
from tasks.features import (
    EVAL_BATCH,
    Inputs,
    check_size,
    examples,
    unchanged,
    working_copy,
)
from tasks.iou import confusion_matrix, intersection_over_union, mean_iou, num_classes_of
from tasks.scale_crop import IGNORE, ScaleCrop
from tasks.training import Training

_EVAL_SCORES = 2**25  # class scores computed at once for evaluation: 128 MiB


class Segmentation(Task[nn.Module]):
    """Mean intersection over union of an `FCNHead` on a trained or frozen encoder.

    As in the VOC challenge, intersections and unions are counted over all pixels of the set, pixels
    of class 255 do not count, and a class in neither truth nor prediction has no score. Images are
    trained on and scored at the size they are stored at; a ``view_size`` of the data, which is for
    whole-image features, has no influence.

    Args:
        epochs: passes through the train split.
        lr: learning rate, of the encoder too if it is trained. Of several, the one is taken
            whose head is best on a held-out part of the train split, and trained again on all.
        head: "fcn32", "fcn16" or "fcn8".
        schedule: "constant", "cosine", "poly", "step" or "warmup_cosine".
        warmup_epochs: for "warmup_cosine" alone, linear from 0.
        batch_size: most images in a step.
        freeze: train the head alone.
        head_lr: learning rate of the head if it is to differ.
        optimiser: as in `tasks.features.Training`.
        momentum: of SGD.
        weight_decay: of SGD; with LARS of weight matrices only.
        freeze_batchnorm: leave a trained encoder's BatchNorm on its running statistics; its scale
            and shift train all the same.
        flip_prob, crop_size, min_scale, max_scale: see `ScaleCrop`.
        holdout: share of the train split that several ``lr`` are compared on.
        precision: "fp32" or "bf16", for encoder and head.

    Raises:
        UserError: for values that do not exist or are out of range.
    """

    version: ClassVar[int] = 2
    needs: ClassVar[Literal["labels", "pixel_labels", "segments"]] = "pixel_labels"

    def __init__(
        self,
        *,
        epochs: int,
        lr: float | Sequence[float],
        head: str = "fcn8",
        schedule: str = "poly",
        warmup_epochs: float = 0.0,
        batch_size: int = 16,
        freeze: bool = False,
        head_lr: float | None = None,
        optimiser: str = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        freeze_batchnorm: bool = False,
        flip_prob: float = 0.5,
        crop_size: int | None = None,
        min_scale: float = 1.0,
        max_scale: float = 1.0,
        holdout: float = 0.1,
        precision: str = "fp32",
    ) -> None:
        if head not in HEADS:
            raise UserError(f"segmentation: head={head} is not one of {', '.join(HEADS)}")
        if freeze and head_lr is not None:
            raise UserError(f"segmentation: head_lr={head_lr} needs freeze=false; set lr instead")
        if freeze and freeze_batchnorm:
            raise UserError(
                "segmentation: freeze_batchnorm=true is for an encoder that is trained; set it or "
                "freeze to false"
            )
        if head_lr is not None and head_lr < 0:
            raise UserError(f"segmentation: head_lr={head_lr} must not be negative")
        if not 0 < holdout < 1:
            raise UserError(f"segmentation: holdout={holdout:g} must lie between 0 and 1")
        autocast(precision, torch.device("cpu"))  # refuses an unknown precision
        self.rates = [lr] if isinstance(lr, int | float) else list(lr)
        if not self.rates:
            raise UserError("segmentation: lr=[] names no learning rate; give one or more")
        self.training = Training(
            "segmentation",
            epochs,
            batch_size,
            self.rates[0],
            schedule,
            momentum,
            weight_decay,
            optimiser,
            warmup_epochs,
        )
        for rate in self.rates:
            replace(self.training, lr=rate)  # refuses what is out of range
        self.head = head
        self.freeze = freeze
        self.freeze_batchnorm = freeze_batchnorm
        self.head_lr = head_lr
        self.holdout = holdout
        self.precision = precision
        self.augment = ScaleCrop(flip_prob, crop_size, min_scale, max_scale)
        self.protocol = self._protocol()

    def _protocol(self) -> str:
        head = f"FCN-{self.head.removeprefix('fcn')}s head"
        norm = " (BatchNorm on its pretrained running statistics)" if self.freeze_batchnorm else ""
        start = f"{head} on the frozen encoder" if self.freeze else f"Encoder{norm} and {head}"
        head_lr = "" if self.head_lr is None else f" ({self.head_lr:g} for the head)"
        rates, chosen = ", ".join(f"{rate:g}" for rate in self.rates), ""
        if len(self.rates) > 1:
            rates = f"one of {rates}"
            chosen = (
                f", the learning rate with the highest mean intersection over union on "
                f"{self.holdout:g} of the train split held out, then trained on all of it"
            )
        training = self.training.sentence(rates, f"{self.training.weight_decay:g}")
        return (
            f"{start} trained with cross entropy on images at their stored size, {self.augment}: "
            f"{training}{head_lr}, in {self.precision}{chosen}; intersection over union of the "
            "pixels of all un-augmented test images at their stored size after the last epoch, "
            f"pixels of class {IGNORE} left out, mean over the classes that occur in truth or "
            "prediction."
        )

    def unsuited(self, encoder: nn.Module) -> str | None:
        """Why the head cannot be built on ``encoder``, or None if it can."""
        if len(getattr(encoder, "stage_dims", ())) < 3 or not hasattr(encoder, "stages"):
            name = getattr(encoder, "name", type(encoder).__name__)
            return f"encoder {name} has no three stages of feature maps"
        return None

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse an encoder without stages, and images that encoder or augmentation refuse."""
        if reason := self.unsuited(encoder):
            raise UserError(
                f"segmentation: {reason}; choose a ResNet or another convolutional net, or leave "
                "the task out"
            )
        data = replace(data, view_size=None)
        height, width = data.train.images.shape[2:]
        crop = self.augment.crop_size
        if crop is not None and crop > min(height, width):
            raise UserError(
                f"segmentation: crop_size={crop} exceeds the {height}x{width} pixels of the images "
                f"of {data.name!r}; choose at most {min(height, width)}, or null for all of them"
            )
        check_size(encoder, data)
        self._rehearse(encoder, data, self.augment.size(height, width))

    def _rehearse(self, encoder: nn.Module, data: Dataset, size: tuple[int, int]) -> None:
        """Refuse images too small for the stages, without computing anything."""
        count = len(data.train) - self._held_out(data)
        if count < 1:
            raise UserError(
                f"segmentation: holdout={self.holdout:g} leaves none of the {len(data.train)} "
                f"training images of {data.name!r} to train on; give one lr alone"
            )
        smallest = count // math.ceil(count / self.training.batch_size)
        body = working_copy(
            encoder,
            torch.device("meta"),
            freeze=self.freeze,
            freeze_batchnorm=self.freeze_batchnorm,
        )
        try:
            body.stages(torch.zeros(smallest, 3, *size, device="meta"))  # type: ignore[operator]
        except Exception as error:
            raise UserError(
                f"segmentation: the encoder's stages do not take {smallest} images of "
                f"{size[0]}x{size[1]} pixels ({str(error).splitlines()[0]}); choose larger images, "
                "crops or batches, or leave the task out"
            ) from error

    def passes(self, data: Dataset) -> int:
        """See the contract: a training for each rate, and one more where there is a choice."""
        trainings = len(self.rates) + (len(self.rates) > 1)
        images = trainings * self.training.epochs * len(data.train)
        return super().passes(data) + (1 if self.freeze else 3) * images

    def run(
        self, subject: nn.Module, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Train on ``data.train`` and score ``data.test``."""
        self.check(subject, data)
        images, truth = examples(data, "train", "pixel_labels")
        test_images, test_truth = examples(data, "test", "pixel_labels")
        names = data.pixel_class_names
        learnt = max(len(names), num_classes_of(truth))
        # A class that only the test split has cannot be predicted but counts, with an IoU of 0.
        num_classes = max(learnt, num_classes_of(test_truth))
        inputs = Inputs.of(replace(data, view_size=None), device)
        order = permutation(eval_seed, "segmentation/held out", 0, len(images))
        held, rest = order[: self._held_out(data)], order[self._held_out(data) :]

        def fit(lr: float, index: Int[Tensor, "m"]) -> FCN:
            net = self._net(subject, learnt, eval_seed, device)
            with unchanged(net.body if self.freeze else subject):
                self._fit(net, lr, inputs, images, truth, index, eval_seed)
            return net.eval()

        lr, details = self.rates[0], {}
        if len(self.rates) > 1:
            tried = {
                rate: mean_iou(
                    self._confusion(fit(rate, rest), inputs, images, truth, held, learnt)
                )
                for rate in self.rates
            }
            lr = max(tried, key=lambda rate: tried[rate])
            held_out = [{"lr": rate, "miou": 100 * miou} for rate, miou in tried.items()]
            details = {"chosen": {"lr": lr}, "held_out": held_out}
        net = fit(lr, torch.arange(len(images)))
        all_test = torch.arange(len(test_images))
        confusion = self._confusion(net, inputs, test_images, test_truth, all_test, num_classes)
        names += tuple(map(str, range(len(names), num_classes)))
        iou = dict(zip(names, intersection_over_union(confusion).tolist(), strict=True))
        accuracy = confusion.trace().double() / confusion.sum()
        return TaskResult(
            {"miou": 100 * mean_iou(confusion), "pixel_accuracy": 100 * float(accuracy)},
            {"iou": {k: None if math.isnan(x) else 100 * x for k, x in iou.items()}, **details},
        )

    def _held_out(self, data: Dataset) -> int:
        """Training images that learning rates are compared on; none if there is but one rate."""
        return math.ceil(self.holdout * len(data.train)) if len(self.rates) > 1 else 0

    def _net(
        self, encoder: nn.Module, num_classes: int, eval_seed: int, device: torch.device
    ) -> FCN:
        body = working_copy(
            encoder, device, freeze=self.freeze, freeze_batchnorm=self.freeze_batchnorm
        )
        stage_dims: tuple[int, ...] = body.stage_dims  # type: ignore[assignment]
        with seeded(eval_seed, "segmentation/head"):
            head = FCNHead(stage_dims[-HEADS[self.head] :], num_classes)
        return FCN(body, head.to(device))

    def _fit(
        self,
        net: FCN,
        lr: float,
        inputs: Inputs,
        images: UInt8[Tensor, "n 3 h w"],
        truth: UInt8[Tensor, "n h w"],
        index: Int[Tensor, "m"],
        eval_seed: int,
    ) -> None:
        """Train on the samples ``index`` of the train split."""
        device = inputs.device

        def loss(epoch: int, batch: Int[Tensor, "b"]) -> Float[Tensor, ""]:
            chosen = index[batch]
            views, labels = self.augment(
                inputs.plain(images[chosen]),
                truth[chosen].to(device),
                Streams(eval_seed, epoch, chosen.to(device)),
            )
            with autocast(self.precision, device):
                scores = net(views)
            # Summed here, because on GPUs the built-in mean has no fixed order of summation.
            losses = F.cross_entropy(scores, labels.long(), ignore_index=IGNORE, reduction="none")
            return losses.sum() / (labels != IGNORE).sum().clamp(min=1)

        training = replace(self.training, lr=lr)
        training.fit(
            loss, net.body, net.head, head_lr=self.head_lr, count=len(index), eval_seed=eval_seed
        )

    @torch.no_grad()
    def _confusion(
        self,
        net: FCN,
        inputs: Inputs,
        images: UInt8[Tensor, "n 3 h w"],
        truth: UInt8[Tensor, "n h w"],
        index: Int[Tensor, "m"],
        num_classes: int,
    ) -> Int[Tensor, "{num_classes} {num_classes}"]:
        """Confusion matrix of the samples ``index`` of a split, un-augmented."""
        device = inputs.device
        total = torch.zeros(num_classes, num_classes, dtype=torch.long, device=device)
        most = _EVAL_SCORES // (num_classes * truth[0].numel())
        for chosen in index.split(min(max(most, 1), EVAL_BATCH)):
            with autocast(self.precision, device):
                predicted = net(inputs.plain(images[chosen])).argmax(1)
            total += confusion_matrix(truth[chosen].to(device), predicted, num_classes)
        return total
