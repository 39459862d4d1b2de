"""What methods hide while they are trained, as strips of small pictures for the HTML report."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmark.array_file import read_arrays
from reports.page.report import RunPage

CONFIGURATIONS = 12  # shown at most
IMAGES = 4

_SIDE = 64  # of a tile at most: larger ones are averaged down, the page would be too large
_FRAME = 1  # around a slot
_GAP = 4  # between images
_GREYS = 14  # with the two below, 4 bits for a pixel
_FRAME_COLOUR, _NOTHING = _GREYS, _GREYS + 1  # the latter is transparent
_PALETTE = [
    *((round(255 * grey / (_GREYS - 1)),) * 3 for grey in range(_GREYS)),
    (130, 153, 184),  # is seen beside black and white, on light and dark pages
    (128, 128, 128),
]


@dataclass(frozen=True)
class Snapshot:
    """What a method hides of a few images at a moment of training; 255 is hidden."""

    step: int
    epoch: float
    images: np.ndarray
    masks: np.ndarray

    @property
    def when(self) -> str:
        """In words."""
        return f"step {self.step}, epoch {round(self.epoch, 2):g}"


@dataclass(frozen=True)
class Frame:
    """A strip at one moment.

    Attributes:
        share: of training that is done, in percent.
        when: the moment in words.
        hidden: how much is hidden, in words.
        alt: what the picture shows.
        src: the picture as a data URI.
    """

    share: int
    when: str
    hidden: str
    alt: str
    src: str


@dataclass(frozen=True)
class Strip:
    """One configuration: its slots on each image, side by side, over training."""

    label: str
    seed: int
    width: int
    height: int
    frames: Sequence[Frame]


@dataclass(frozen=True)
class Gallery:
    """Configurations over the same images, which are data URIs."""

    data: str
    images: Sequence[str]
    side: tuple[int, int]
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Galleries:
    """All of them, and how many configurations have masks over training."""

    shown: Sequence[Gallery]
    configurations: int

    @property
    def strips(self) -> list[Strip]:
        """Of all galleries."""
        return [strip for gallery in self.shown for strip in gallery.strips]

    @property
    def moments(self) -> list[int]:
        """Shares of training in percent at which something changes."""
        return sorted({frame.share for strip in self.strips for frame in strip.frames})


def galleries(
    runs: Sequence[RunPage], configs: Mapping[str, Mapping[str, Any]] | None = None
) -> Galleries:
    """Strips for the first seed of the first configurations that have snapshots.

    Args:
        runs: of which those of one ``hash8`` belong together.
        configs: by ``hash8``, for the length of a training that has not come to its end.

    Raises:
        ValueError: naming a file that is broken.
    """
    seeds: dict[str, list[RunPage]] = {}
    for run in runs:
        if run.snapshots:
            seeds.setdefault(run.hash8, []).append(run)
    firsts = [min(own, key=lambda run: run.seed) for own in seeds.values()]
    grouped: dict[tuple[str, bytes], list[tuple[RunPage, list[Snapshot]]]] = {}
    for run in firsts[:CONFIGURATIONS]:
        taken = _snapshots(run.snapshots)
        key = (Path(run.folder).parent.parent.name, taken[0].images.tobytes())
        grouped.setdefault(key, []).append((run, taken))
    shown = [_gallery(data, members, configs or {}) for (data, _), members in grouped.items()]
    return Galleries(shown, len(firsts))


def read_snapshot(path: Path) -> Snapshot:
    """Read the first images of a file, averaged down where they are large.

    Raises:
        ValueError: naming the file, if it is broken.
    """
    found = read_arrays(path)
    if lacking := {"images", "masks", "step", "epoch"} - found.keys():
        raise _broken(path, f"it lacks {min(lacking)}")
    images, masks = found["images"], found["masks"]
    n, _, h, w = images.shape if images.ndim == 4 else (0, 0, 0, 0)
    for name, shape in {"images": (n, 3, h, w), "masks": (n, *masks.shape[1:2], h, w)}.items():
        array = found[name]
        if array.shape != shape or array.dtype != np.uint8 or not array.size:
            raise _broken(path, f"{name} are {array.dtype} {array.shape}")
    for name in ("step", "epoch"):
        number = found[name]
        if number.shape or number.dtype.kind not in "iuf" or not 0 <= number < math.inf:
            raise _broken(path, f"{name} is no number from 0 on")
    few = (_reduced(array[:IMAGES]) for array in (images, masks))
    return Snapshot(int(found["step"]), float(found["epoch"]), *few)


def data_uri(png: bytes) -> str:
    """The picture in an address, which needs no file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _broken(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is broken ({why}); delete it to have it made again")


def _snapshots(paths: Sequence[Path]) -> list[Snapshot]:
    taken = [read_snapshot(path) for path in paths]
    for path, snapshot in zip(paths, taken, strict=True):
        if not np.array_equal(snapshot.images, taken[0].images):
            raise _broken(path, f"its images are not those of {paths[0].name}")
    return taken


def _reduced(array: np.ndarray) -> np.ndarray:
    n, channels, height, width = array.shape
    times = math.ceil(max(height, width) / _SIDE)
    if times == 1:
        return array
    h, w = max(height // times, 1), max(width // times, 1)
    blocks = array[..., : h * times, : w * times].reshape(
        n, channels, h, min(times, height), w, min(times, width)
    )
    means: np.ndarray = blocks.mean((3, 5)).round().astype(np.uint8)
    return means


def _gallery(
    data: str,
    members: Sequence[tuple[RunPage, list[Snapshot]]],
    configs: Mapping[str, Mapping[str, Any]],
) -> Gallery:
    images = members[0][1][0].images
    slots = max(snapshot.masks.shape[1] for _, taken in members for snapshot in taken)
    strips = [_strip(run, taken, slots, configs.get(run.hash8, {})) for run, taken in members]
    pictures = [_png(Image.fromarray(image.transpose(1, 2, 0))) for image in images]
    height, width = images.shape[2:]
    return Gallery(data, [data_uri(png) for png in pictures], (width, height), strips)


def _strip(run: RunPage, taken: Sequence[Snapshot], slots: int, config: Mapping[str, Any]) -> Strip:
    last = taken[-1].epoch
    epochs = config.get("epochs")
    planned = isinstance(epochs, int | float) and last <= epochs < math.inf
    whole = float(epochs) if planned and epochs else last
    frames = [
        _frame(run.label, snapshot, slots, round(100 * snapshot.epoch / whole) if whole else 100)
        for snapshot in taken
    ]
    return Strip(run.label, run.seed, *_sprite(taken[0].masks, slots).size, frames)


def _frame(label: str, snapshot: Snapshot, slots: int, share: int) -> Frame:
    n, k = snapshot.masks.shape[:2]
    hidden = f"{snapshot.masks.mean() / 2.55:.0f}% hidden"
    images = f"{n} image{'s' * (n > 1)}, {k} mask{'s' * (k > 1)} each"
    alt = f"Masks of {label} on {images}, at {snapshot.when}: {hidden} on average"
    src = data_uri(_png(_sprite(snapshot.masks, slots), transparency=_NOTHING, bits=4))
    return Frame(min(share, 100), snapshot.when, hidden, alt, src)


def _sprite(masks: np.ndarray, slots: int) -> Image.Image:
    """Framed slots of all images in a row, in few greys: white is hidden.

    It is as wide where there are fewer slots, so that strips stay aligned.
    """
    greys = (masks / 255 * (_GREYS - 1)).round().astype(np.uint8)
    tiles = np.pad(greys, ((0, 0), (0, 0), *[(_FRAME, _FRAME)] * 2), constant_values=_FRAME_COLOUR)
    n, k, height, width = tiles.shape
    canvas = np.full((height, n, slots * width + _GAP), _NOTHING, np.uint8)
    canvas[..., : k * width] = tiles.transpose(2, 0, 1, 3).reshape(height, n, k * width)
    sprite = Image.fromarray(canvas.reshape(height, -1))
    sprite.putpalette([level for colour in _PALETTE for level in colour])
    return sprite


def _png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "png", optimize=True, **options)
    return file.getvalue()
