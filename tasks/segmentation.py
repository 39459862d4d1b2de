"""Semantic segmentation with a fully convolutional head: FCN-32s, FCN-16s or FCN-8s."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.precision import autocast, check_precision
from benchmark.streams import Streams, seeded
from benchmark.task import Forwards, Task, TaskResult
from tasks.fcn import FCN, HEADS, FCNHead
from tasks.features import (
    EVAL_BATCH,
    Inputs,
    check_batches,
    check_size,
    examples,
    unchanged,
    working_copy,
)
from tasks.grid import HeldOut, Point
from tasks.iou import (
    confusion_matrices,
    intersection_over_union,
    mean_iou,
    num_classes_of,
    overlaps,
)
from tasks.scale_crop import IGNORE, ScaleCrop
from tasks.selection import GridSearch
from tasks.training import Group, Training

_EVAL_SCORES = 2**25  # class scores computed at once for evaluation: 128 MiB


class Segmentation(Task[nn.Module]):
    """Mean intersection over union of an `FCNHead` on a trained or frozen encoder.

    As in the VOC challenge, intersections and unions are counted over all pixels of the set, pixels
    of class 255 do not count, and a class in neither truth nor prediction has no score. Images are
    trained on and scored at the size they are stored at; a ``view_size`` of the data, which is for
    whole-image features, has no influence.

    Of several learning rates or weight decays each combination is trained in full, and the one with
    the highest score on a held-out part of the train split is scored.

    Args:
        epochs: passes through the train split.
        lr: learning rate, of the encoder too if it is trained, or several to choose from.
        head: "fcn32", "fcn16" or "fcn8".
        schedule: "constant", "cosine", "poly", "step" or "warmup_cosine".
        batch_size: most images in a step.
        freeze: train the head alone.
        head_lr: learning rate of the head if it is to differ.
        optimiser: "sgd", "lars" or "adamw".
        warmup_epochs: for "warmup_cosine" alone, linear from 0.
        momentum: of SGD; of AdamW the first beta.
        weight_decay: one or several to choose from; with LARS of weight matrices only.
        freeze_batchnorm: leave a trained encoder's BatchNorm on its running statistics; its scale
            and shift train all the same.
        holdout: share that is held out where there is something to choose.
        refit: train the chosen combination again, on the whole train split.
        flip_prob, crop_size, min_scale, max_scale: see `ScaleCrop`.
        precision: "fp32" or "bf16", for encoder and head.

    Raises:
        UserError: for values that do not exist, are out of range or contradict each other.
    """

    version: ClassVar[int] = 2
    needs: ClassVar[Literal["labels", "pixel_labels", "segments"]] = "pixel_labels"

    def __init__(
        self,
        *,
        epochs: int,
        lr: float | list[float],
        head: str = "fcn8",
        schedule: str = "poly",
        batch_size: int = 16,
        freeze: bool = False,
        head_lr: float | None = None,
        optimiser: str = "sgd",
        warmup_epochs: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float | list[float] = 0.0,
        freeze_batchnorm: bool = False,
        holdout: float = 0.1,
        refit: bool = False,
        flip_prob: float = 0.5,
        crop_size: int | None = None,
        min_scale: float = 1.0,
        max_scale: float = 1.0,
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
        check_precision(precision)
        self.search = GridSearch.of(
            "segmentation", holdout, refit, "miou", lr=lr, weight_decay=weight_decay
        )
        self.training, *_ = (
            Training(
                "segmentation",
                epochs,
                batch_size,
                schedule=schedule,
                momentum=momentum,
                optimiser=optimiser,
                warmup_epochs=warmup_epochs,
                lr=point["lr"],
                weight_decay=point["weight_decay"],
            )
            for point in self.search.points
        )
        self.head = head
        self.freeze = freeze
        self.freeze_batchnorm = freeze_batchnorm
        self.head_lr = head_lr
        self.precision = precision
        self.augment = ScaleCrop(flip_prob, crop_size, min_scale, max_scale)
        self.protocol = self._protocol()

    def _protocol(self) -> str:
        head = f"FCN-{self.head.removeprefix('fcn')}s head"
        norm = " (BatchNorm on its pretrained running statistics)" if self.freeze_batchnorm else ""
        start = f"{head} on the frozen encoder" if self.freeze else f"Encoder{norm} and {head}"
        head_lr = "" if self.head_lr is None else f" ({self.head_lr:g} for the head)"
        rate, decay = (self.search.words(name) for name in ("lr", "weight_decay"))
        training = self.training.sentence(rate, decay)
        return (
            f"{start} trained with cross entropy on images at their stored size, {self.augment}: "
            f"{training}{head_lr}{self.search}, in {self.precision}; intersection over union of "
            "the pixels of all un-augmented test images at their stored size after the last epoch, "
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
        labels = _labels(len(data.train))
        self.search.check(labels, data.name)
        smallest = min(map(self.training.smallest_batch, self.search.counts(labels)))
        body = self._body(encoder, torch.device("meta"))
        stages: Callable[[Tensor], object] = body.stages  # type: ignore[assignment]
        check_batches("segmentation", stages, smallest, self.augment.size(height, width))

    def forwards(self, encoder: nn.Module, data: Dataset) -> list[Forwards]:
        """See the contract: every candidate is a training; images are scored as they are stored."""
        side = data.train.images.shape[-1]
        images = self.search.trainings * self.training.epochs * len(data.train)
        crop = self.augment.size(side, side)[0]
        return [
            Forwards(encoder, crop, (1 if self.freeze else 3) * images),
            Forwards(encoder, side, 0 if data.test is None else len(data.test)),
        ]

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

        def train(point: Point, index: Int[Tensor, "m"]) -> FCN:
            net = self._net(subject, learnt, eval_seed, device)
            with unchanged(net.body if self.freeze else subject):
                self._fit(net, point, inputs, images, truth, index, eval_seed)
            return net.eval()

        def score(net: FCN, index: Int[Tensor, "k"]) -> HeldOut | None:
            confusion, _ = self._confusion(net, inputs, images, truth, index, learnt)
            miou = mean_iou(confusion)
            return None if math.isnan(miou) else HeldOut(100 * miou)

        net, _, details = self.search.best(train, score, _labels(len(images)), eval_seed)
        all_test = torch.arange(len(test_images))
        confusion, counts = self._confusion(
            net, inputs, test_images, test_truth, all_test, num_classes
        )
        intersection, union = counts.cpu().numpy()
        names += tuple(map(str, range(len(names), num_classes)))
        iou = dict(zip(names, intersection_over_union(confusion).tolist(), strict=True))
        accuracy = confusion.trace().double() / confusion.sum()
        return TaskResult(
            {"miou": 100 * mean_iou(confusion), "pixel_accuracy": 100 * float(accuracy)},
            {"iou": {k: None if math.isnan(x) else 100 * x for k, x in iou.items()}, **details},
            {"intersection": intersection, "union": union},
        )

    def _body(self, encoder: nn.Module, device: torch.device) -> nn.Module:
        return working_copy(
            encoder, device, freeze=self.freeze, freeze_batchnorm=self.freeze_batchnorm
        )

    def _net(
        self, encoder: nn.Module, num_classes: int, eval_seed: int, device: torch.device
    ) -> FCN:
        body = self._body(encoder, device)
        stage_dims: tuple[int, ...] = body.stage_dims  # type: ignore[assignment]
        with seeded(eval_seed, "segmentation/head"):
            head = FCNHead(stage_dims[-HEADS[self.head] :], num_classes)
        return FCN(body, head.to(device))

    def _fit(
        self,
        net: FCN,
        point: Point,
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

        training = self.training.at(point)
        head_lr = training.lr if self.head_lr is None else self.head_lr
        groups: list[Group] = [
            {"params": list(net.head.parameters()), "lr": head_lr},
            {"params": [p for p in net.body.parameters() if p.requires_grad]},
        ]
        training.fit(loss, groups, count=len(index), eval_seed=eval_seed)

    @torch.no_grad()
    def _confusion(
        self,
        net: FCN,
        inputs: Inputs,
        images: UInt8[Tensor, "n 3 h w"],
        truth: UInt8[Tensor, "n h w"],
        index: Int[Tensor, "m"],
        num_classes: int,
    ) -> tuple[Int[Tensor, "{num_classes} {num_classes}"], Int[Tensor, "2 m {num_classes}"]]:
        """Confusion matrix of the samples ``index`` of a split, un-augmented; `overlaps` of each.

        Raises:
            FloatingPointError: if any score is not finite.
        """
        device, finite = inputs.device, torch.ones((), dtype=torch.bool, device=inputs.device)
        total = torch.zeros(num_classes, num_classes, dtype=torch.long, device=device)
        counts: list[Tensor] = []
        most = _EVAL_SCORES // (num_classes * truth[0].numel())
        for chosen in index.split(min(max(most, 1), EVAL_BATCH)):
            with autocast(self.precision, device):
                scores = net(inputs.plain(images[chosen]))
            finite &= scores.isfinite().all()
            predicted = scores.argmax(1)
            confusions = confusion_matrices(truth[chosen].to(device), predicted, num_classes)
            total += confusions.sum(0)
            counts.append(torch.stack(overlaps(confusions)))
        if not finite:
            raise FloatingPointError("the head gives scores that are not finite; lower the lr")
        return total, torch.cat(counts, dim=1)


def _labels(count: int) -> Int[Tensor, "{count}"]:
    """One class for all images: of those with classes of pixels any share will do."""
    return torch.zeros(count, dtype=torch.long)
