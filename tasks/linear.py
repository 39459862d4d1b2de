"""Linear probe: how well a linear layer tells classes apart by frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmark.dataset import Dataset
from benchmark.precision import autocast, check_precision, full_precision
from benchmark.streams import seeded
from benchmark.task import Forwards, Task, TaskResult
from tasks.accuracy import SCORES, accuracies, accuracies_per_image
from tasks.crops import Crops
from tasks.features import Inputs, check_size, examples, extract, unchanged, working_copy
from tasks.grid import HeldOut, Point
from tasks.heads import Heads
from tasks.selection import GridSearch
from tasks.training import Training


class LinearProbe(Task[nn.Module]):
    """Top-1 and top-5 accuracy of a linear layer on a frozen encoder.

    The protocol of Zhang et al. (arXiv 1603.08511) and He et al. (arXiv 1911.05722, sec. 4.1). The
    encoder stays in evaluation mode, and without ``augment`` its features are computed once.

    Of several learning rates and weight decays a layer for each combination is trained, all in one
    pass on the same features (as in DINOv2, arXiv 2304.07193, appendix B.3), and the one with the
    highest accuracy on a held-out part of the train split is scored.

    Args:
        epochs: passes through the train split.
        lr: learning rate, or several to choose from.
        schedule: "constant", "cosine", "poly", "step" or "warmup_cosine".
        batch_size: most samples in a step.
        optimiser: "sgd", "lars" or "adamw".
        warmup_epochs: for "warmup_cosine" alone, linear from 0.
        momentum: of SGD; of AdamW the first beta.
        weight_decay: one or several to choose from; with LARS of weight matrices only.
        holdout: share of each class that is held out where there is something to choose.
        refit: train the chosen layer again, on the whole train split; with ``augment`` that costs
            as much as the choice itself.
        standardise: scale each frozen feature by its mean and variance over the images trained on,
            un-augmented, as a BatchNorm without affine part would (MAE's probe, arXiv 2111.06377,
            appendix A.1).
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
        optimiser: str = "sgd",
        warmup_epochs: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float | list[float] = 0.0,
        holdout: float = 0.1,
        refit: bool = False,
        standardise: bool = False,
        augment: bool = False,
        min_scale: float = 0.08,
        padding: int | None = None,
        flip_prob: float = 0.5,
        precision: str = "fp32",
    ) -> None:
        self.search = GridSearch.of("linear", holdout, refit, lr=lr, weight_decay=weight_decay)
        self.training, *_ = (
            Training(
                "linear",
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
        self.crops = Crops("linear", augment, min_scale, flip_prob, padding)
        check_precision(precision)
        self.standardise = standardise
        self.precision = precision
        scaled = ", standardised by the un-augmented images trained on," if standardise else ""
        rate, decay = (self.search.words(name) for name in ("lr", "weight_decay"))
        self.protocol = (
            f"Linear classifier on frozen features{scaled} of {self.crops}: "
            f"{self.training.sentence(rate, decay)}{self.search}, encoder in {precision}; "
            f"{SCORES} after the last epoch."
        )

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse a size that the encoder does not take, and classes too small to hold out of."""
        check_size(encoder, data)
        _, labels = examples(data, "train", "labels")
        self.search.check(labels, data.name)
        self.crops.check(data)

    def forwards(self, encoder: nn.Module, data: Dataset) -> list[Forwards]:
        """See the contract: features once, and each epoch's crops."""
        trainings = 1 + (self.search.refit and len(self.search.points) > 1)
        images = trainings * self.training.epochs * len(data.train) if self.crops.augment else 0
        return [*super().forwards(encoder, data), Forwards(encoder, data.image_size, images)]

    def run(
        self, subject: nn.Module, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Train on ``data.train`` and score both splits; of train, what was trained on."""
        self.check(subject, data)
        images, labels = examples(data, "test", "labels")
        body = working_copy(subject, device, freeze=True)
        with unchanged(body):
            head, train_accuracy, details = self.fit(body, data, eval_seed=eval_seed, device=device)
            features = extract(body, images, Inputs.of(data, device), self.precision)
        metrics, per_image = accuracies_per_image(head, features, labels)
        return TaskResult({**metrics, "train_accuracy": train_accuracy}, details, per_image)

    def fit(
        self, body: nn.Module, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> tuple[nn.Module, float, dict[str, Any]]:
        """Train the layer, and choose it if there is a choice.

        Args:
            body: frozen, in evaluation mode and on the device.
            data: whose train split is used.
            eval_seed: decides initial weights, order, crops and what is held out.
            device: to train on.

        Returns:
            The classifier of features, its accuracy on what it was trained on, in percent, and
            the details of the choice.
        """
        images, labels = examples(data, "train", "labels")
        inputs = Inputs.of(data, device)
        features = extract(body, images, inputs, self.precision)

        def encode(epoch: int, index: Int[Tensor, "b"]) -> Float[Tensor, "b d"]:
            if not self.crops.augment:
                return features[index]
            seen = self.crops(
                images[index], inputs, data.image_size, index, eval_seed=eval_seed, epoch=epoch
            )
            with autocast(self.precision, device):
                return full_precision(body(seen))

        def train(points: Sequence[Point], index: Int[Tensor, "m"]) -> list[nn.Module]:
            linear = self._linear(features.shape[1], int(labels.max()) + 1, eval_seed)
            scale = self._scale(features[index]).to(device)
            heads = Heads(scale, linear.to(device), len(points))

            def losses(epoch: int, position: Int[Tensor, "b"]) -> Float[Tensor, "k"]:
                chosen = index[position]
                return heads.losses(encode(epoch, chosen), labels[chosen].to(device))

            groups = [
                {"params": list(layer.parameters()), **point}
                for layer, point in zip(heads.layers, points, strict=True)
            ]
            self.training.fit(losses, groups, count=len(index), eval_seed=eval_seed)
            return heads.apart()

        points, (index, held) = self.search.points, self.search.split(labels, eval_seed)
        heads, best = train(points, index), 0
        details: dict[str, Any] = {}
        if len(points) > 1:
            held_out = [HeldOut.of(head, features[held], labels[held]) for head in heads]
            best, details = self.search.choose(held_out)
            if self.search.refit:
                index = torch.arange(len(labels))
                heads, best = train([points[best]], index), 0
        train_accuracy = accuracies(heads[best], features[index], labels[index])["accuracy"]
        return heads[best], train_accuracy, details

    def _linear(self, dim: int, num_classes: int, eval_seed: int) -> nn.Linear:
        with seeded(eval_seed, "linear/head"):
            return nn.Linear(dim, num_classes)

    def _scale(self, features: Float[Tensor, "n d"]) -> nn.Module:
        """Standardisation by these features, if any; it has no parameters."""
        if not self.standardise:
            return nn.Identity()
        scale = nn.BatchNorm1d(features.shape[1], affine=False).eval()
        scale.running_mean = features.mean(0)
        scale.running_var = features.var(0, correction=0)
        return scale
