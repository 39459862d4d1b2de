"""Fine-tuning: how far a pretrained encoder gets when it learns the classes with the classifier."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.precision import autocast, check_precision, full_precision
from benchmark.streams import seeded
from benchmark.task import Forwards, Task, TaskResult
from tasks.accuracy import SCORES, accuracies, accuracies_per_image
from tasks.crops import Crops
from tasks.features import (
    Inputs,
    check_batches,
    check_size,
    examples,
    extract,
    unchanged,
    working_copy,
)
from tasks.grid import HeldOut, Point
from tasks.layer_decay import decayed_groups, layer_depths
from tasks.selection import GridSearch
from tasks.training import Training


class FineTuning(Task[nn.Module]):
    """Top-1 and top-5 accuracy of an encoder and a linear layer that are trained together.

    What is trained is a copy, whose BatchNorm learns and counts as in any training.
    ``freeze_batchnorm`` and ``reset_stem`` are what the ADIOS code does when it fine-tunes
    (github.com/YugeTen/adios, src/methods/supervised.py), the latter for CIFAR only.

    Of several learning rates or weight decays each combination is trained in full, and the one with
    the highest accuracy on a held-out part of the train split is scored; Kornblith et al. choose
    theirs so (arXiv 1805.08974). With one combination nothing is held out.

    Args:
        epochs: passes through the train split.
        lr: learning rate of encoder and classifier, or several to choose from.
        schedule: "constant", "cosine", "poly", "step" or "warmup_cosine".
        batch_size: most samples in a step.
        head_lr: learning rate of the linear layer if it is to differ.
        layer_decay: factor on the learning rate from one layer to the next below it, as in BEiT;
            see `tasks.layer_decay`.
        optimiser: "sgd", "lars" or "adamw".
        warmup_epochs: for "warmup_cosine" alone, linear from 0.
        momentum: of SGD; of AdamW the first beta.
        weight_decay: one or several to choose from; with LARS of weight matrices only.
        exclude_bias_and_norm: no weight decay of biases and of the scales and shifts of norms.
        label_smoothing: share of the target that is spread over all classes.
        freeze_batchnorm: leave BatchNorm on its running statistics; its scale and shift train all
            the same.
        reset_stem: exchange the first convolution of a ResNet for a new one of 3x3 with stride 1
            and padding 2, drawn by the evaluation seed, and leave the pooling out. The BatchNorm
            behind it stays, running statistics included.
        holdout: share of each class that is held out where there is something to choose.
        refit: train the chosen combination again, on the whole train split.
        augment: train on random resized crops and flips; scores never are.
        min_scale: smallest area of a crop, as a share of the image.
        padding: pixels of reflection around the image, for crops from it instead of resized ones.
        flip_prob: chance of a horizontal flip.
        precision: "fp32" or "bf16", for the encoder; the linear layer is always fp32.

    Raises:
        UserError: for values that do not exist, are out of range or contradict each other.
    """

    version: ClassVar[int] = 2
    needs: ClassVar[Literal["labels", "pixel_labels", "segments"]] = "labels"

    def __init__(
        self,
        *,
        epochs: int,
        lr: float | list[float],
        schedule: str,
        batch_size: int = 256,
        head_lr: float | None = None,
        layer_decay: float = 1.0,
        optimiser: str = "sgd",
        warmup_epochs: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float | list[float] = 0.0,
        exclude_bias_and_norm: bool = False,
        label_smoothing: float = 0.0,
        freeze_batchnorm: bool = False,
        reset_stem: bool = False,
        holdout: float = 0.1,
        refit: bool = False,
        augment: bool = False,
        min_scale: float = 0.08,
        padding: int | None = None,
        flip_prob: float = 0.5,
        precision: str = "fp32",
    ) -> None:
        if head_lr is not None and head_lr < 0:
            raise UserError(f"finetune: head_lr={head_lr} must not be negative")
        if not 0 < layer_decay <= 1:
            raise UserError(f"finetune: layer_decay={layer_decay} must be above 0 and at most 1")
        if layer_decay < 1 and reset_stem:
            raise UserError(
                f"finetune: layer_decay={layer_decay:g} would leave a new stem almost as it is; "
                "set reset_stem to false, or layer_decay to 1"
            )
        if not 0 <= label_smoothing < 1:
            raise UserError(
                f"finetune: label_smoothing={label_smoothing} must be at least 0 and below 1"
            )
        self.search = GridSearch.of("finetune", holdout, refit, lr=lr, weight_decay=weight_decay)
        self.training, *_ = (
            Training(
                "finetune",
                epochs,
                batch_size,
                schedule=schedule,
                momentum=momentum,
                optimiser=optimiser,
                warmup_epochs=warmup_epochs,
                exclude_bias_and_norm=exclude_bias_and_norm,
                lr=point["lr"],
                weight_decay=point["weight_decay"],
            )
            for point in self.search.points
        )
        self.crops = Crops("finetune", augment, min_scale, flip_prob, padding)
        check_precision(precision)
        self.head_lr = head_lr
        self.layer_decay = layer_decay
        self.label_smoothing = label_smoothing
        self.freeze_batchnorm = freeze_batchnorm
        self.reset_stem = reset_stem
        self.precision = precision
        self.protocol = self._protocol()

    def _protocol(self) -> str:
        parts = []
        if self.freeze_batchnorm:
            parts.append("BatchNorm on its pretrained running statistics")
        if self.reset_stem:
            parts.append("first convolution new, 3x3 with stride 1 and padding 2, no pooling")
        body = f"Encoder ({'; '.join(parts)})" if parts else "Encoder"
        rate, decay = (self.search.words(name) for name in ("lr", "weight_decay"))
        if self.head_lr is not None:
            rate += f" for the encoder and {self.head_lr:g} for the classifier"
        training = self.training.sentence(rate, decay)
        falling = ""
        if self.layer_decay < 1:
            falling = f", rates times {self.layer_decay:g} for each layer down from the classifier"
        smooth = f", labels smoothed by {self.label_smoothing:g}" if self.label_smoothing else ""
        return (
            f"{body} and linear classifier of {self.crops}: {training}{falling}{smooth}"
            f"{self.search}, encoder in {self.precision}; {SCORES} after the last epoch."
        )

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse what the encoder lacks or does not take, and classes too small to hold out of."""
        if not self.reset_stem:
            check_size(encoder, data)
        elif not isinstance(getattr(encoder, "conv1", None), nn.Conv2d):
            raise UserError(
                f"finetune: reset_stem=true needs an encoder with a conv1, and "
                f"{type(encoder).__name__} has none; choose a ResNet, or set it to false"
            )
        if self.layer_decay < 1:
            layer_depths(encoder)
        _, labels = examples(data, "train", "labels")
        self.search.check(labels, data.name)
        self.crops.check(data)
        smallest = min(map(self.training.smallest_batch, self.search.counts(labels)))
        body = self._body(encoder, eval_seed=0, device=torch.device("meta"))
        check_batches("finetune", body, smallest, (data.image_size, data.image_size))

    def forwards(self, encoder: nn.Module, data: Dataset) -> list[Forwards]:
        """See the contract: every candidate is a training."""
        images = self.search.trainings * self.training.epochs * len(data.train)
        body = self._body(encoder, eval_seed=0, device=torch.device("cpu"))
        return [*super().forwards(body, data), Forwards(body, data.image_size, 3 * images)]

    def run(
        self, subject: nn.Module, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Train on ``data.train`` and score both splits; of train, what was trained on."""
        self.check(subject, data)
        images, labels = examples(data, "train", "labels")
        test_images, test_labels = examples(data, "test", "labels")
        inputs = Inputs.of(data, device)

        def train(point: Point, index: Int[Tensor, "m"]) -> _Net:
            return self._train(point, subject, data, index, eval_seed=eval_seed, device=device)

        def score(net: _Net, index: Int[Tensor, "k"]) -> HeldOut | None:
            features = extract(net.body, images, inputs, self.precision, index)
            return HeldOut.of(net.head, features, labels[index])

        with unchanged(subject):
            net, index, details = self.search.best(train, score, labels, eval_seed)
        features = extract(net.body, images, inputs, self.precision, index)
        test_features = extract(net.body, test_images, inputs, self.precision)
        train_accuracy = accuracies(net.head, features, labels[index])["accuracy"]
        metrics, per_image = accuracies_per_image(net.head, test_features, test_labels)
        return TaskResult({**metrics, "train_accuracy": train_accuracy}, details, per_image)

    def _train(
        self,
        point: Point,
        encoder: nn.Module,
        data: Dataset,
        index: Int[Tensor, "m"],
        *,
        eval_seed: int,
        device: torch.device,
    ) -> _Net:
        """Train a copy of the encoder and a classifier on the images at ``index``."""
        images, labels = examples(data, "train", "labels")
        inputs = Inputs.of(data, device)
        body = self._body(encoder, eval_seed, device)
        dim = encoder.feature_dim
        assert isinstance(dim, int)
        with seeded(eval_seed, "finetune/head"):
            head = nn.Linear(dim, int(labels.max()) + 1)
        head.to(device)

        def loss(epoch: int, position: Int[Tensor, "b"]) -> Float[Tensor, ""]:
            chosen = index[position]
            seen = self.crops(
                images[chosen], inputs, data.image_size, chosen, eval_seed=eval_seed, epoch=epoch
            )
            with autocast(self.precision, device):
                features = full_precision(body(seen))
            target = labels[chosen].to(device)
            return F.cross_entropy(head(features), target, label_smoothing=self.label_smoothing)

        training = self.training.at(point)
        head_lr = training.lr if self.head_lr is None else self.head_lr
        groups = [
            {"params": list(head.parameters()), "lr": head_lr},
            *decayed_groups(body, training.lr, self.layer_decay),
        ]
        training.fit(loss, groups, count=len(index), eval_seed=eval_seed)
        return _Net(body, head)

    def _body(self, encoder: nn.Module, eval_seed: int, device: torch.device) -> nn.Module:
        """A copy of the encoder as its training begins."""
        start = self._fresh_stem(encoder, eval_seed) if self.reset_stem else encoder
        return working_copy(start, device, freeze=False, freeze_batchnorm=self.freeze_batchnorm)

    def _fresh_stem(self, encoder: nn.Module, eval_seed: int) -> nn.Module:
        """A copy whose first convolution is that of ADIOS for CIFAR, initialised as there."""
        renewed = copy.deepcopy(encoder)
        conv1 = renewed.conv1
        assert isinstance(conv1, nn.Conv2d)
        with seeded(eval_seed, "finetune/stem"):
            renewed.conv1 = nn.Conv2d(3, conv1.out_channels, 3, padding=2, bias=False)
        renewed.maxpool = nn.Identity()
        return renewed


@dataclass(frozen=True)
class _Net:
    body: nn.Module
    head: nn.Module
