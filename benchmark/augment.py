"""The augmentation of two-view learning, for a whole batch on whatever device the images are.

RandomResizedCrop, ColorJitter, grayscale, Gaussian blur and horizontal flip: `Augment` draws the
parameters of the operations of `benchmark.image_ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int, Integer, UInt8
from torch import Tensor

from benchmark.contracts import Images
from benchmark.errors import UserError, at_least
from benchmark.image_ops import crop_boxes, crop_resize, flip, gaussian_blur, grayscale, jitter
from benchmark.streams import Streams

_CANDIDATES = 10


@dataclass(frozen=True)
class Parameters:
    """What is done to each image for one view; None for an operation that none gets.

    Attributes:
        boxes: crops (top, left, height, width) in pixels.
        factors: of brightness, contrast and saturation; 1 changes nothing.
        shift: of the hue in turns; None where it stays.
        order: the operation done k-th: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        grey: the images that lose their colour.
        sigma: standard deviation of the blur in pixels; 0 changes nothing.
        mirrored: the images that are mirrored left to right.
    """

    boxes: Int[Tensor, "b 4"]
    factors: Float[Tensor, "b 3"] | None
    shift: Float[Tensor, "b"] | None
    order: Int[Tensor, "b 4"] | None
    grey: Bool[Tensor, "b"] | None
    sigma: Float[Tensor, "b"] | None
    mirrored: Bool[Tensor, "b"] | None

    def split(self, count: int) -> list[Parameters]:
        """Those of ``count`` images at a time."""
        tensors = {name: value for name, value in vars(self).items() if value is not None}
        parts = zip(*(value.split(count) for value in tensors.values()), strict=True)
        return [replace(self, **dict(zip(tensors, part, strict=True))) for part in parts]


@dataclass(frozen=True)
class Augment:
    """Draws one augmented view of each image; the defaults are those of ADIOS.

    Attributes:
        image_size: side of the output.
        min_scale: smallest share of the image that a crop covers.
        ratio: smallest and largest width / height of a crop.
        brightness, contrast, saturation: a factor is drawn from 1 ± this, not below 0.
        hue: the shift is drawn from ± this, in turns of the colour wheel.
        jitter_prob: share of the images whose colours are jittered.
        grayscale_prob: share of the images that lose their colour.
        blur_prob: share of the images that are blurred.
        blur_sigma: smallest and largest standard deviation of the blur in pixels.
        blur_kernel: taps of the blur.
        flip_prob: share of the images that are mirrored.
    """

    version: ClassVar[int] = 1

    image_size: int
    min_scale: float = 0.08
    ratio: Sequence[float] = (3 / 4, 4 / 3)
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    jitter_prob: float = 0.8
    grayscale_prob: float = 0.2
    blur_prob: float = 0.5
    blur_sigma: Sequence[float] = (0.1, 2.0)
    blur_kernel: int = 9
    flip_prob: float = 0.5

    def __post_init__(self) -> None:
        at_least(1, "augment.", image_size=self.image_size)
        if not 0 < self.min_scale <= 1:
            raise UserError(f"augment.min_scale={self.min_scale} must be above 0 and at most 1")
        for name in ("ratio", "blur_sigma"):
            bounds = tuple(getattr(self, name))
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
                raise UserError(f"augment.{name}={bounds} must be two ascending numbers above 0")
        highest = dict.fromkeys(("brightness", "contrast", "saturation"), math.inf) | {"hue": 0.5}
        highest |= dict.fromkeys(("jitter_prob", "grayscale_prob", "blur_prob", "flip_prob"), 1)
        for name, high in highest.items():
            if not 0 <= getattr(self, name) <= high:
                raise UserError(f"augment.{name}={getattr(self, name)} must be in 0..{high}")
        fits = self.blur_kernel % 2 == 1 and 0 < self.blur_kernel < 2 * self.image_size
        if self.blur_prob > 0 and not fits:
            raise UserError(
                f"augment.blur_kernel={self.blur_kernel} must be odd and below "
                f"{2 * self.image_size}, twice the image size; set a smaller one or blur_prob=0"
            )

    def __call__(self, images: UInt8[Tensor, "b 3 H W"], streams: Streams, view: int) -> Images:
        """One view in [0, 1]; what a sample draws depends on the streams and ``view`` alone."""
        return self.apply(images, self.draw(streams, (images.shape[2], images.shape[3]), view))

    def draw(self, streams: Streams, size: tuple[int, int], view: int) -> Parameters:
        """The parameters of one view of images of ``size``, height and width."""
        factors = shift = order = grey = sigma = None
        if self.jitter_prob > 0:
            factors, shift, order = self._jitter(streams, view)
        if self.grayscale_prob > 0:
            grey = streams.uniform(f"augment/{view}/grayscale") < self.grayscale_prob
        if self.blur_prob > 0:
            drawn = streams.uniform(f"augment/{view}/blur", 2)
            low, high = self.blur_sigma
            chosen = (drawn[:, 0] < self.blur_prob).float()
            sigma = chosen * (low + (high - low) * drawn[:, 1])
        mirrored = self._mirrored(streams, view) if self.flip_prob > 0 else None
        boxes = self._boxes(size, streams, view)
        return Parameters(boxes, factors, shift, order, grey, sigma, mirrored)

    @torch.no_grad()
    def apply(self, images: UInt8[Tensor, "b 3 H W"], parameters: Parameters) -> Images:
        """The view that has these parameters."""
        largest = 3 * max(self.image_size**2, images.shape[2] * images.shape[3])
        at_once = max(1, _values_at_once(images.device) // largest)
        # Parts of equal size, where that is possible, share a compiled graph.
        rounds = max(1, math.ceil(len(images) / at_once))
        count = math.ceil(len(images) / rounds)
        parts = zip(images.split(count), parameters.split(count), strict=True)
        # Matrix products would be rounded to bfloat16 inside an autocast region.
        with torch.autocast(images.device.type, enabled=False):
            return torch.cat([self._transform(*part) for part in parts])

    def compile(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile, in place, what is done to pixels; parameters are drawn as before.

        There is one graph for each shape of a batch, made when the first of that shape comes.
        """
        compiled = torch.compile(self._transform, fullgraph=True, dynamic=False, backend=backend)
        object.__setattr__(self, "_transform", compiled)

    def _transform(self, images: UInt8[Tensor, "b 3 H W"], parameters: Parameters) -> Images:
        """A pure function of tensors."""
        pixels = crop_resize(images, parameters.boxes, self.image_size)
        if parameters.factors is not None and parameters.order is not None:
            pixels = jitter(pixels, parameters.factors, parameters.shift, parameters.order)
        if parameters.grey is not None:
            pixels = grayscale(pixels, parameters.grey)
        if parameters.sigma is not None:
            pixels = gaussian_blur(pixels, parameters.sigma, self.blur_kernel)
        if parameters.mirrored is not None:
            pixels = flip(pixels, parameters.mirrored)
        return pixels

    @torch.no_grad()
    def segments(
        self, segments: Integer[Tensor, "b H W"], streams: Streams, view: int
    ) -> Int[Tensor, "b {self.image_size} {self.image_size}"]:
        """The label of each pixel of the same view, that at the pixel's centre.

        Args:
            segments: objects or superpixels, whole numbers of any dtype.
            streams: as for the pixels.
            view: as for the pixels.
        """
        boxes = self._boxes((segments.shape[1], segments.shape[2]), streams, view)
        top, left, height, width = boxes[..., None].unbind(1)
        # The centre of pixel i of n lies at (i + 1/2) / n of the crop; in whole numbers, hence
        # exact.
        odd = 2 * torch.arange(self.image_size, device=segments.device) + 1
        rows = top + odd * height // (2 * self.image_size)
        columns = left + odd * width // (2 * self.image_size)
        mirrored = self._mirrored(streams, view)[:, None]
        columns = torch.where(mirrored, columns.flip(1), columns)
        image = torch.arange(len(segments), device=segments.device)[:, None, None]
        return segments[image, rows[:, :, None], columns[:, None, :]].long()

    def _boxes(self, size: tuple[int, int], streams: Streams, view: int) -> Int[Tensor, "b 4"]:
        drawn = streams.uniform(f"augment/{view}/crop", _CANDIDATES + 1, 2)
        return crop_boxes(drawn[:, :-1], drawn[:, -1], size, self.min_scale, self.ratio)

    def _mirrored(self, streams: Streams, view: int) -> Bool[Tensor, "b"]:
        return streams.uniform(f"augment/{view}/flip") < self.flip_prob

    def _jitter(
        self, streams: Streams, view: int
    ) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b"] | None, Int[Tensor, "b 4"]]:
        drawn = streams.uniform(f"augment/{view}/jitter", 9)
        chosen = (drawn[:, 0] < self.jitter_prob).float()
        factors = []
        for k, strength in enumerate((self.brightness, self.contrast, self.saturation), start=1):
            low = max(0.0, 1 - strength)
            factors.append(1 + chosen * (low + (1 + strength - low) * drawn[:, k] - 1))
        shift = chosen * self.hue * (2 * drawn[:, 4] - 1) if self.hue > 0 else None
        order = drawn[:, 5:].argsort(dim=1, stable=True)
        return torch.stack(factors, dim=1), shift, order


def _values_at_once(device: torch.device) -> int:
    """Pixel values to work on at once, of which a few floats each are kept.

    That is what the caches of a CPU hold, and what a GPU easily has memory for.
    """
    return 2**25 if device.type == "cuda" else 2**19 * torch.get_num_threads()
