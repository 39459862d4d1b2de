"""How an image of any size and mode becomes a square of bytes, and its ground truth with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from benchmark.sources.source import Sample

Fit = Literal["crop", "pad"]

# What stands where an image does not reach: mean luminance of ImageNet's photographs, a pixel label
# that does not count, and the background of segments.
FILL = {"images": 114, "pixel_labels": 255, "segments": 0}


@dataclass(frozen=True)
class Square:
    """A sample of one size for all.

    Attributes:
        arrays: "images" of shape 3 x size x size and, where the sample has them, "pixel_labels"
            and "segments" of shape size x size.
        counts: how often each of the 256 values occurs in each channel of the image itself, not of
            what is padded.
    """

    arrays: dict[str, UInt8[np.ndarray, "..."]]
    counts: Int64[np.ndarray, "3 256"]


def square(sample: Sample, size: int, fit: Fit) -> Square:
    """Scale an image and its ground truth and make them square.

    Images are resized bicubic with antialiasing; of the ground truth, each pixel of the result
    takes the value at its centre.

    Args:
        sample: of any size; the image becomes RGB.
        size: side of the result in pixels.
        fit: "crop" makes the shorter side ``size`` long and keeps the centre; "pad" makes the
            longer side that long if it is longer, and fills up at the right and at the bottom.

    Raises:
        ValueError: if the ground truth is of another size than the image.
        OSError: if the image is damaged.
    """
    scaled, box = _geometry(sample.image.size, size, fit)
    image = _rgb(sample.image).resize(scaled, Image.Resampling.BICUBIC).crop(box)
    pixels = np.asarray(image).transpose(2, 0, 1)
    arrays = {"images": _filled_up(pixels, size, "images")}
    for name in ("pixel_labels", "segments"):
        truth: np.ndarray | None = getattr(sample, name)
        if truth is None:
            continue
        height, width = truth.shape
        if (width, height) != sample.image.size:
            raise ValueError(
                f"its {name} are {width} x {height} pixels and the image "
                f"{' x '.join(map(str, sample.image.size))}"
            )
        rows = _centres(height, scaled[1])[box[1] : box[3], None]
        columns = _centres(width, scaled[0])[box[0] : box[2]]
        arrays[name] = _filled_up(truth[rows, columns], size, name)
    return Square(arrays, channel_counts(pixels))


def channel_counts(pixels: UInt8[np.ndarray, "3 h w"]) -> Int64[np.ndarray, "3 256"]:
    """How often each of the 256 values occurs in each channel."""
    values = pixels.reshape(3, -1) + np.arange(0, 768, 256)[:, None]
    return np.bincount(values.ravel(), minlength=768).reshape(3, 256)


def _geometry(
    given: tuple[int, int], size: int, fit: Fit
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Width and height to scale to, and the box to keep of that."""
    if fit == "pad":
        longer = max(given)
        width, height = (max(1, side * size // longer) if longer > size else side for side in given)
        return (width, height), (0, 0, width, height)
    width, height = (side * size // min(given) for side in given)
    left, top = (width - size) // 2, (height - size) // 2
    return (width, height), (left, top, left + size, top + size)


def _centres(given: int, scaled: int) -> Int64[np.ndarray, "scaled"]:
    """The pixel that lies under the centre of each pixel of a scaled line.

    In whole numbers, where Pillow's NEAREST adds floats up and may miss by one.
    """
    return (2 * np.arange(scaled) + 1) * given // (2 * scaled)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _filled_up(
    array: UInt8[np.ndarray, "*channels h w"], size: int, name: str
) -> UInt8[np.ndarray, "*channels size size"]:
    height, width = array.shape[-2:]
    filled = np.full((*array.shape[:-2], size, size), FILL[name], np.uint8)
    filled[..., :height, :width] = array
    return filled
