"""The contracts that everything interchangeable fulfils, and the data that pass between.

Conventions, stated once: a mask value of 1 hides a pixel and 0 shows it; images are normalised
with the data set's mean and standard deviation, so that 0 is the mean colour.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Int16, UInt8
from torch import Tensor, nn

from benchmark.batchnorm import over_views
from benchmark.streams import Streams

Images = Float[Tensor, "b 3 h w"]
Masks = Float[Tensor, "b n h w"]
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class Split:
    """Images of one split with whatever ground truth the data set has.

    The arrays may be memory-mapped files larger than memory: read slices, never whole arrays.

    Attributes:
        images: pixels, one size for all.
        labels: class of each image; -1 where it is unknown, in a split for pretraining alone.
        pixel_labels: class of each pixel, 255 where it does not count.
        segments: object of each pixel, 0 for the background.
        superpixels: of each pixel, for a method that asked for them.
    """

    images: UInt8[Tensor, "n 3 h w"]
    labels: Int[Tensor, "n"] | None = None
    pixel_labels: UInt8[Tensor, "n h w"] | None = None
    segments: UInt8[Tensor, "n h w"] | None = None
    superpixels: Int16[Tensor, "n h w"] | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A data set, in memory or memory-mapped.

    Attributes:
        name: as the user calls it; part of the run folder.
        train: split for training heads, and for pretraining unless ``pretrain`` is given.
        test: split for scores only; None if there is nothing to score on.
        class_names: class k is ``class_names[k]``; empty without labels.
        mean: mean colour in [0, 1].
        std: standard deviation of colour in [0, 1].
        fingerprint: SHA-256 of every pixel and label, and of the view.
        train_fingerprint: the same of the split for pretraining alone, all that an encoder
            depends on.
        pretrain: split for pretraining where that is more than ``train``, as with STL-10.
        pixel_class_names: class k of a pixel is ``pixel_class_names[k]``; empty if it has no name.
        view_size: side of the images that encoders see, in pixels; None for that of the arrays.
        view: what an un-augmented image becomes if ``view_size`` differs from the arrays' side:
            "whole" is resized, of "centre" the central square is cut out.
    """

    name: str
    train: Split
    test: Split | None
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str
    train_fingerprint: str
    pretrain: Split | None = None
    pixel_class_names: tuple[str, ...] = ()
    view_size: int | None = None
    view: Literal["whole", "centre"] = "whole"

    @property
    def image_size(self) -> int:
        """Side of the square images that encoders see, in pixels."""
        return self.view_size or self.train.images.shape[-1]

    @property
    def pretraining(self) -> Split:
        """The split to pretrain on."""
        return self.train if self.pretrain is None else self.pretrain


@dataclass(frozen=True)
class Batch:
    """One training step's data, on the device.

    Attributes:
        views: two augmented views, normalised; view 0 stays clean, view 1 is masked.
        pixels: the same before normalisation, in [0, 1].
        index: sample ids.
        labels: classes, for the online probe and for `supervised` only.
        segments: object of each pixel of both views, 0 for the background, where the data has it
            and the method asks for it.
        progress: share of training done, in [0, 1].
        streams: random numbers of these samples in this epoch.
        loss_gradient: gradient of the objective's loss with respect to the unmasked view 1, for
            methods that ask for it; computed when called.
        superpixels: of both views, from the `MaskingMethod.segmenter`; None without one.
    """

    views: Float[Tensor, "2 b 3 h w"]
    pixels: Float[Tensor, "2 b 3 h w"]
    index: Int[Tensor, "b"]
    labels: Int[Tensor, "b"] | None
    segments: Int[Tensor, "2 b h w"] | None
    progress: float
    streams: Streams
    loss_gradient: Callable[[], Images] | None = None
    superpixels: Int[Tensor, "2 b h w"] | None = None

    def swapped(self) -> Batch:
        """The same batch with the views in the other order and with random draws of its own."""
        return replace(
            self,
            views=self.views.flip(0),
            pixels=self.pixels.flip(0),
            segments=None if self.segments is None else self.segments.flip(0),
            superpixels=None if self.superpixels is None else self.superpixels.flip(0),
            streams=self.streams.apart("swapped"),
        )


@dataclass(frozen=True)
class Proposal:
    """What a masking method proposes for a batch.

    Attributes:
        masks: all masks; the penalties see these.
        shown: the masks under which the adversary's loss is measured; None for all of them.
        trained: the masks under which the encoder trains; None for those of the adversary.
        budgets: the share of pixels that each mask may hide, where the method has one.
    """

    masks: Masks
    shown: Float[Tensor, "b m h w"] | None = None
    trained: Float[Tensor, "b t h w"] | None = None
    budgets: Float[Tensor, "b n"] | None = None

    @property
    def adversary_masks(self) -> Float[Tensor, "b m h w"]:
        """The masks under which the adversary's loss is measured."""
        return self.masks if self.shown is None else self.shown

    @property
    def encoder_masks(self) -> Float[Tensor, "b t h w"]:
        """The masks under which the encoder trains."""
        return self.adversary_masks if self.trained is None else self.trained


class Encoder(nn.Module):
    """Turns images into features, ``forward(images: b 3 h w) -> b d``.

    Attributes:
        feature_dim: d.
    """

    feature_dim: int


@runtime_checkable
class Segmenter(Protocol):
    """Cuts images up."""

    @property
    def finds(self) -> str:
        """Names what it finds: two of them with the same name find the same."""

    def segment(self, pixels: Images) -> Int[Tensor, "b h w"]:
        """Superpixel of each pixel of images in [0, 1], numbered from 0; at most 32,768."""


class MaskingMethod(nn.Module, ABC):
    """Proposes masks for view 1; owns no optimiser, encoder or objective.

    Attributes:
        version: raised whenever a change of the code changes its results.
        needs: what of a batch it needs beyond the views: "segments" or "loss_gradient".
        hides: whether it hides anything at all.
        same_masks: whether both players see the same masks, so that one forward can train both.
        segmenter: cuts the images up before they are augmented, for a method that asks for the
            superpixels in both views.
        num_masks: masks per image.
        reduction: how the losses of an image's masks become one, in both phases.
    """

    version: ClassVar[int]
    needs: ClassVar[tuple[Literal["segments", "loss_gradient"], ...]] = ()
    hides: ClassVar[bool] = True
    same_masks: ClassVar[bool] = True
    segmenter: Segmenter | None = None
    num_masks: int
    reduction: Reduction = "mean"

    @abstractmethod
    def forward(self, batch: Batch) -> Proposal:
        """Propose masks; the graph to the method's parameters, if any, is kept."""

    def penalties(self, proposal: Proposal) -> dict[str, Float[Tensor, ""]]:
        """Weighted terms that the adversary minimises besides the negative objective."""
        return {}

    def after_step(self, proposal: Proposal) -> None:
        """Called after each step of the adversary with what it had proposed, without graph."""

    def costly_nets(self) -> Iterable[nn.Module]:
        """Its nets that are worth compiling: pure functions of tensors."""
        return ()

    @property
    def adversarial(self) -> bool:
        """Whether there is anything to train."""
        return any(p.requires_grad for p in self.parameters())


@dataclass(frozen=True)
class Anchor:
    """The clean view as an objective compares hidden views with it.

    Attributes:
        features: encoder output, without graph; the online probe reads it.
        values: what `Objective.compare` needs of it.
    """

    features: Float[Tensor, "b d"]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class Losses:
    """What an objective returns.

    Attributes:
        per_mask: loss of each mask slot.
        features: encoder output for the clean view, without graph.
    """

    per_mask: Float[Tensor, "m"]
    features: Float[Tensor, "b d"]


class Objective(nn.Module, ABC):
    """A self-supervised loss; owns projector, predictor and teacher.

    The clean view is encoded first and once, then the hidden views in order: the rule for
    BatchNorm's running statistics builds on that. The loss of a hidden view depends on no other
    hidden view, so that they may be compared one at a time.

    Attributes:
        at_once: encode all hidden views in one batch instead of one after another, with the same
            numbers: BatchNorm keeps the statistics of each view apart.
    """

    version: ClassVar[int]
    at_once: bool = False

    @abstractmethod
    def anchor(self, encoder: nn.Module, batch: Batch) -> Anchor:
        """Encode the clean view."""

    @abstractmethod
    def compare(
        self, encoder: nn.Module, anchor: Anchor, hidden: Float[Tensor, "m b 3 h w"], batch: Batch
    ) -> Float[Tensor, "m"]:
        """The loss of each hidden view; `each` runs a net over them."""

    def forward(
        self,
        encoder: nn.Module,
        batch: Batch,
        hidden: Float[Tensor, "m b 3 h w"],
        *,
        adversary: bool = False,
    ) -> Losses:
        """Compare the clean view with each hidden view.

        With ``adversary`` the gradient is wanted for ``hidden`` only, so the clean view gets no
        graph.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not adversary):
            anchor = self.anchor(encoder, batch)
        return Losses(self.compare(encoder, anchor, hidden, batch), anchor.features)

    def each(self, net: nn.Module, views: Float[Tensor, "m b ..."]) -> Float[Tensor, "m b d"]:
        """The output of ``net`` for each view."""
        return over_views(net, views, at_once=self.at_once)

    def after_step(self, encoder: nn.Module, progress: float) -> None:
        """Called after each encoder step; an EMA teacher moves here."""

    def costly_nets(self) -> Iterable[nn.Module]:
        """Its nets that are worth compiling: pure functions of tensors."""
        return ()


@dataclass(frozen=True)
class TaskResult:
    """Scores of one encoder under one protocol.

    Attributes:
        metrics: name to value, accuracies and IoUs in percent; the main metric first.
        details: anything else worth keeping, such as per-class values.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedMasks:
    """What a method hides of the first images of a split.

    Attributes:
        masks: 255 is fully hidden.
    """

    masks: UInt8[np.ndarray, "n k h w"]


Subject = TypeVar("Subject", nn.Module, SavedMasks)


@dataclass(frozen=True)
class Forwards:
    """Images that go forward through a net.

    Attributes:
        net: the encoder, or what a task makes of it.
        size: side of the images in pixels.
        images: how many; one that comes back too counts as three.
    """

    net: nn.Module
    size: int
    images: int


class Task(ABC, Generic[Subject]):
    """Scores a frozen or fine-tuned copy of an encoder, or saved masks; writes nothing itself.

    Attributes:
        version: raised whenever a change of the code changes its results.
        scores: what `run` is given: the "encoder", or the "masks" of the test split.
        needs: the ground truth without which the task cannot run.
        seeded: whether the evaluation seed has an influence.
        protocol: one sentence that says what is trained on what, and how it is scored.
    """

    version: ClassVar[int]
    needs: ClassVar[Literal["labels", "pixel_labels", "segments"]]
    scores: ClassVar[Literal["encoder", "masks"]] = "encoder"
    seeded: ClassVar[bool] = True
    protocol: str

    def unsuited(self, encoder: nn.Module) -> str | None:
        """Why the task makes no sense for this encoder and is left out, or None if it does."""
        return None

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse what would fail in `run`; called before anything is trained.

        Raises:
            UserError: if encoder and data do not suit the task.
        """

    def forwards(self, encoder: nn.Module, data: Dataset) -> list[Forwards]:
        """What goes through the encoder, for the forecast of a dry run; heads are left out."""
        images = len(data.train) + (0 if data.test is None else len(data.test))
        return [Forwards(encoder, data.image_size, images)]

    @abstractmethod
    def run(
        self, subject: Subject, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Score ``subject`` on ``data.test`` after training any head on ``data.train``."""
