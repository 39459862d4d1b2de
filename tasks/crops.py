"""What a classifier sees of the train split: images as they are, or random crops of them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int, UInt8
from torch import Tensor

from benchmark.augment import Augment
from benchmark.contracts import Images, UserError
from benchmark.streams import Streams
from tasks.features import Inputs


@dataclass(frozen=True)
class Crops:
    """Random resized crops and horizontal flips, torchvision's for the training of classifiers.

    A crop is taken from the pixels that are stored, whatever the data set's view of a whole image
    is, and resized to the side of that view.

    Attributes:
        purpose: names the task in messages.
        augment: whether there are any; if not, images are seen as for scores.
        min_scale: smallest area of a crop, as a share of the image.
        flip_prob: chance of a flip.

    Raises:
        UserError: for values out of range.
    """

    purpose: str
    augment: bool
    min_scale: float
    flip_prob: float

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= 1:
            raise UserError(
                f"{self.purpose}: min_scale={self.min_scale} must be above 0 and at most 1"
            )
        if not 0 <= self.flip_prob <= 1:
            raise UserError(f"{self.purpose}: flip_prob={self.flip_prob} must lie between 0 and 1")

    def __str__(self) -> str:
        if not self.augment:
            return "un-augmented images"
        return (
            f"random resized crops (of {self.min_scale:g} of the area or more) and flips "
            f"(probability {self.flip_prob:g})"
        )

    def __call__(
        self,
        images: UInt8[Tensor, "b 3 H W"],
        inputs: Inputs,
        size: int,
        index: Int[Tensor, "b"],
        *,
        eval_seed: int,
        epoch: int,
    ) -> Images:
        """What the encoder sees of a batch, on its device.

        Args:
            images: as they are stored.
            inputs: of the data set.
            size: side of the images that encoders see, in pixels.
            index: sample ids, which decide crop and flip with seed and epoch.
            eval_seed: of the task.
            epoch: from 0.
        """
        if not self.augment:
            return inputs.plain(images)
        views = Augment(
            size,
            min_scale=self.min_scale,
            flip_prob=self.flip_prob,
            jitter_prob=0.0,
            grayscale_prob=0.0,
            blur_prob=0.0,
        )
        streams = Streams(eval_seed, epoch, index.to(inputs.device))
        # Views 0 and 1 are those of pretraining, which may have had the same seed.
        return inputs(views(images.to(inputs.device), streams, view=2))
