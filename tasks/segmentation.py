"""Semantic segmentation with skip connections, as in FCN-8s."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from benchmark.contracts import Dataset, Task, TaskResult, UserError
from benchmark.precision import autocast, full_precision
from benchmark.streams import Streams, seeded
from tasks.features import (
    EVAL_BATCH,
    Inputs,
    Training,
    check_size,
    examples,
    unchanged,
    working_copy,
)

IGNORE = 255  # label of pixels that do not count


class FCN8s(nn.Module):
    """Scores from the last three stages, summed from coarse to fine.

    Shelhamer, Long, Darrell (arXiv 1605.06211, sec. 4.2): each stage gets a 1x1 layer of class
    scores; the coarsest are upsampled and added to the next, twice. Unlike there, all upsampling
    is plain bilinear, and strides are the encoder's own instead of 8, 16 and 32.

    Args:
        stage_dims: channels of the stages, finest first; the last three are used.
        num_classes: scores per pixel.
    """

    def __init__(self, stage_dims: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.scores = nn.ModuleList(nn.Conv2d(dim, num_classes, 1) for dim in stage_dims[-3:])

    def forward(self, maps: list[Tensor], image_size: int) -> Float[Tensor, "b c h w"]:
        """Scores of every pixel of square images.

        Args:
            maps: feature maps of the stages, finest first.
            image_size: side of the images in pixels.
        """
        # Sums and interpolation stay in full precision: bf16 has too few bits for close scores.
        fine, middle, total = (
            full_precision(score(features))
            for score, features in zip(self.scores, maps[-3:], strict=True)
        )
        for finer in (middle, fine):
            total = finer + _upsample(total, finer.shape[-1])
        return _upsample(total, image_size)


def _upsample(x: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c size size"]:
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


class Segmentation(Task):
    """Mean intersection over union of an `FCN8s` head on a trained or frozen encoder.

    Args:
        epochs: passes through the train split.
        lr: learning rate, of the encoder too if it is trained.
        batch_size: most images in a step.
        freeze: train the head alone.
        head_lr: learning rate of the head if it is to differ.
        optimiser: "sgd" or "lars".
        momentum: of SGD.
        weight_decay: of SGD; with LARS of weight matrices only.
        freeze_batchnorm: leave a trained encoder's BatchNorm on its running statistics; its scale
            and shift train all the same.
        flip_prob: chance of a horizontal flip of image and truth, the only augmentation.
        precision: "fp32" or "bf16", for encoder and head.

    Raises:
        UserError: for values that do not exist or are out of range.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[Literal["labels", "pixel_labels"]] = "pixel_labels"

    def __init__(
        self,
        *,
        epochs: int,
        lr: float,
        batch_size: int = 16,
        freeze: bool = False,
        head_lr: float | None = None,
        optimiser: str = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        freeze_batchnorm: bool = False,
        flip_prob: float = 0.5,
        precision: str = "fp32",
    ) -> None:
        if freeze and head_lr is not None:
            raise UserError(f"segmentation: head_lr={head_lr} needs freeze=false; set lr instead")
        if freeze and freeze_batchnorm:
            raise UserError(
                "segmentation: freeze_batchnorm=true is for an encoder that is trained; set it or "
                "freeze to false"
            )
        if head_lr is not None and head_lr < 0:
            raise UserError(f"segmentation: head_lr={head_lr} must not be negative")
        if not 0 <= flip_prob <= 1:
            raise UserError(f"segmentation: flip_prob={flip_prob} must lie between 0 and 1")
        autocast(precision, torch.device("cpu"))  # refuses an unknown precision
        self.training = Training(
            "segmentation", epochs, batch_size, lr, "poly", momentum, weight_decay, optimiser
        )
        self.freeze = freeze
        self.freeze_batchnorm = freeze_batchnorm
        self.head_lr = head_lr
        self.flip_prob = flip_prob
        self.precision = precision
        norm = " (BatchNorm on its pretrained running statistics)" if freeze_batchnorm else ""
        start = "FCN-8s head on the frozen encoder" if freeze else f"Encoder{norm} and FCN-8s head"
        head = "" if head_lr is None else f" ({head_lr:g} for the head)"
        self.protocol = (
            f"{start} trained with cross entropy on images flipped with probability "
            f"{flip_prob:g}: {self.training}{head}, in {precision}; intersection over union of the "
            "pixels of all un-augmented test images after the last epoch, mean over the classes "
            "that occur in truth or prediction."
        )

    def unsuited(self, encoder: nn.Module) -> str | None:
        """Why the head cannot be built on ``encoder``, or None if it can."""
        if len(getattr(encoder, "stage_dims", ())) < 3 or not hasattr(encoder, "stages"):
            name = getattr(encoder, "name", type(encoder).__name__)
            return f"encoder {name} has no three stages of feature maps"
        return None

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse an encoder without stages to build the head on, and a size that it refuses."""
        if reason := self.unsuited(encoder):
            raise UserError(
                f"segmentation: {reason}; choose a ResNet or another convolutional net, or leave "
                "the task out"
            )
        check_size(encoder, data)

    def run(
        self, encoder: nn.Module, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Train on ``data.train`` and score ``data.test``."""
        images, truth = examples(data, "train", "pixel_labels")
        test_images, test_truth = examples(data, "test", "pixel_labels")
        self.check(encoder, data)
        body = working_copy(
            encoder, device, freeze=self.freeze, freeze_batchnorm=self.freeze_batchnorm
        )
        stage_dims: tuple[int, ...] = getattr(body, "stage_dims", ())
        stages: Callable[[Tensor], list[Tensor]] = body.stages  # type: ignore[assignment]
        with seeded(eval_seed, "segmentation/head"):
            head = FCN8s(stage_dims, _num_classes(truth))
        head.to(device)
        # A class that only the test split has cannot be predicted but counts, with an IoU of 0.
        num_classes = max(_num_classes(truth), _num_classes(test_truth))
        inputs = Inputs(data.mean, data.std, device)

        def scores(batch: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
            with autocast(self.precision, device):
                logits: Tensor = head(stages(batch), data.image_size)
            return logits

        def loss(epoch: int, index: Int[Tensor, "b"]) -> Float[Tensor, ""]:
            draws = Streams(eval_seed, epoch, index.to(device)).uniform("segmentation/flip")
            flip = (draws < self.flip_prob)[:, None, None]
            labels = truth[index].to(device)
            pixels = images[index].to(device).float() / 255
            labels = torch.where(flip, labels.flip(-1), labels)
            pixels = torch.where(flip[:, None], pixels.flip(-1), pixels)
            # Summed here, because on GPUs the built-in mean has no fixed order of summation.
            losses = F.cross_entropy(
                scores(inputs(pixels)), labels.long(), ignore_index=IGNORE, reduction="none"
            )
            return losses.sum() / (labels != IGNORE).sum().clamp(min=1)

        with unchanged(body if self.freeze else encoder):
            self.training.fit(
                loss, body, head, head_lr=self.head_lr, count=len(images), eval_seed=eval_seed
            )
            body.eval()
            confusion = torch.zeros(num_classes, num_classes, dtype=torch.long, device=device)
            parts = test_truth.split(EVAL_BATCH)
            with torch.no_grad():
                for batch, labels in zip(inputs.batches(test_images), parts, strict=True):
                    predicted = scores(batch).argmax(1)
                    confusion += confusion_matrix(labels.to(device), predicted, num_classes)
        iou = intersection_over_union(confusion)
        accuracy = confusion.trace().double() / confusion.sum()
        return TaskResult(
            {"miou": 100 * float(iou.nanmean()), "pixel_accuracy": 100 * float(accuracy)},
            {"iou": [None if math.isnan(x) else 100 * x for x in iou.tolist()]},
        )


def _num_classes(truth: UInt8[Tensor, "n h w"]) -> int:
    return int(truth[truth != IGNORE].max()) + 1


def confusion_matrix(
    truth: UInt8[Tensor, "b h w"], predicted: Int[Tensor, "b h w"], num_classes: int
) -> Int[Tensor, "c c"]:
    """Number of pixels by true class (row) and predicted class (column), ignored ones left out."""
    # Ignored pixels go to one more cell, which is dropped: a selection would wait for the device.
    cells = truth.long() * num_classes + predicted
    cells = torch.where(truth == IGNORE, num_classes**2, cells).flatten()
    counts = torch.bincount(cells, minlength=num_classes**2 + 1)
    return counts[:-1].view(num_classes, num_classes)


def intersection_over_union(confusion: Int[Tensor, "c c"]) -> Float[Tensor, "c"]:
    """Share in [0, 1] for each class; NaN for one in neither truth nor prediction."""
    intersection = confusion.diagonal().double()
    return intersection / (confusion.sum(0) + confusion.sum(1) - intersection)
