"""From samples of a split to what a step trains on: two augmented views of each, normalised."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from benchmark.augment import Augment
from benchmark.contracts import Batch, Segmenter
from benchmark.dataset import Dataset, Split
from benchmark.feed import Samples
from benchmark.streams import Streams
from benchmark.superpixel_cache import segmented
from benchmark.views import normalise, plain_segments, plain_view


class Batches:
    """Makes batches of the images of one data set.

    Args:
        data: whose mean colour, standard deviation and view they have.
        augment: makes the two views.
        segmenter: of the method, if it asks for superpixels; what a sample brings is taken first.
        seed: of augmentation and masks.
        epochs: of the whole training.
        steps: of the whole training.
    """

    def __init__(
        self,
        data: Dataset,
        augment: Augment,
        segmenter: Segmenter | None,
        *,
        seed: int,
        epochs: int,
        steps: int,
    ) -> None:
        self.data = data
        self.augment = augment
        self.segmenter = segmenter
        self.seed = seed
        self.epochs = epochs
        self.steps = steps

    def augmented(self, epoch: int, step: int, samples: Samples) -> Batch:
        """Two augmented views of ``samples``."""
        streams = Streams(self.seed, epoch, samples.index)
        pixels = [self.augment(samples.images, streams, view) for view in range(2)]
        superpixels = samples.superpixels
        if superpixels is None and self.segmenter is not None:
            superpixels = segmented(self.segmenter, samples.images)
        return Batch(
            views=torch.stack([normalise(p, self.data.mean, self.data.std) for p in pixels]),
            pixels=torch.stack(pixels),
            index=samples.index,
            labels=samples.labels,
            segments=self._followed(samples.segments, streams),
            progress=step / max(self.steps, 1),
            streams=streams,
            superpixels=self._followed(superpixels, streams),
        )

    def _followed(self, labels: Tensor | None, streams: Streams) -> Int[Tensor, "2 b h w"] | None:
        """Labels of pixels, moved as the pixels of each view."""
        if labels is None:
            return None
        return torch.stack([self.augment.segments(labels, streams, view) for view in range(2)])

    def plain(self, split: Split, count: int, device: torch.device) -> Batch:
        """The first images of a split as they are, as both views, at the end of training."""
        index = torch.arange(min(count, len(split)))
        size, view = self.data.view_size, self.data.view
        pixels = plain_view(split.images[: len(index)].to(device), size, view)
        segments = superpixels = None
        if split.segments is not None:
            objects = plain_segments(split.segments[: len(index)], size, view)
            segments = objects.long().to(device).expand(2, -1, -1, -1)
        if self.segmenter is not None:
            superpixels = self.segmenter.segment(pixels).long().expand(2, -1, -1, -1)
        both = (2, -1, -1, -1, -1)
        return Batch(
            views=normalise(pixels, self.data.mean, self.data.std).expand(both),
            pixels=pixels.expand(both),
            index=index.to(device),
            labels=None,
            segments=segments,
            progress=1.0,
            streams=Streams(self.seed, self.epochs, index.to(device)),
            superpixels=superpixels,
        )
