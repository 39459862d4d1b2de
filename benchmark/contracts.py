"""The contracts that everything interchangeable fulfils, and the data that pass between.

Conventions, stated once: a mask value of 1 hides a pixel and 0 shows it; images are normalised
with the data set's mean and standard deviation, so that 0 is the mean colour.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmark.batchnorm import over_views
from benchmark.streams import Streams

Images = Float[Tensor, "b 3 h w"]
Masks = Float[Tensor, "b n h w"]
Reduction = Literal["mean", "sum"]


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


MOST_MASKS = 256  # of an image


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
