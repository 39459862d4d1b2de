"""The images of a split in the shapes that data sets come in.

Worker processes start with nothing but this module, so it imports no more than decoding needs, and
long lists are in files rather than in what is sent to each of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped
from PIL import Image

from benchmark.sources.source import Examples, Sample

IGNORED = 255  # pixels that do not count

SCENE = np.dtype(
    [
        ("image", np.uint8, (192, 192, 3)),
        ("segments", np.uint8, (192, 192)),
        ("shapes", np.uint8, 11),
    ]
)


# Whatever a file is called. One of Pillow's other formats is PostScript, a program that it has
# Ghostscript execute.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def read_image(path: Path) -> Image.Image:
    """A decoded image whose file is closed again.

    Raises:
        Exception: nearly any, if it is damaged or of more pixels than Pillow takes for honest.
    """
    with Image.open(path, formats=_FORMATS) as image:
        image.load()
    return image


def compact(names: Iterable[str]) -> Shaped[np.ndarray, "n"]:
    """Names of files as bytes of one length: a tenth of the memory of as many strings."""
    return np.array([os.fsencode(name) for name in names], np.bytes_)


@dataclass(frozen=True)
class FileExamples(Examples):
    """Images in files of their own; `list_files` makes it.

    Attributes:
        folder: what the names are relative to.
        listing: a file with the names, each filled up to ``width`` bytes.
        width: of a name.
        count: number of images.
        labels: as in the contract; not sent to workers, which read pixels alone.
    """

    folder: Path
    listing: Path
    width: int
    count: int
    labels: dict[str, Int64[np.ndarray, "n"]]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "labels": {}}

    def __len__(self) -> int:
        return self.count

    def files(self, start: int, stop: int) -> Iterator[Path]:
        """See the contract."""
        for name in np.memmap(self.listing, f"S{self.width}", mode="r")[start:stop]:
            yield self.folder / os.fsdecode(name)

    def path(self, index: int) -> Path:
        """Where an image lies."""
        offset = index * self.width
        (name,) = np.fromfile(self.listing, f"S{self.width}", count=1, offset=offset)
        return self.folder / os.fsdecode(name)

    def read(self, index: int) -> Sample:
        """See the contract."""
        return Sample(read_image(self.path(index)))

    def origin(self, index: int) -> str:
        """See the contract."""
        return str(self.path(index))


def list_files(
    folder: Path,
    names: Shaped[np.ndarray, "n"],
    labels: dict[str, Int64[np.ndarray, "n"]],
    listing: Path,
) -> FileExamples:
    """Images in files of their own, by their `compact` paths in ``folder``; writes ``listing``."""
    names.tofile(listing)
    return FileExamples(folder, listing, names.itemsize, len(names), labels)


@dataclass(frozen=True)
class RawExamples(Examples):
    """Images of one size, one after the other in a file without more.

    Attributes:
        file: with the pixels.
        source: what the file is or was made from, for messages.
        shape: of an image as the file stores it, three axes.
        axes: which of them are rows, columns and channels.
        labels: as in the contract.
    """

    file: Path
    source: str
    shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    labels: dict[str, Int64[np.ndarray, "n"]]

    def __len__(self) -> int:
        return len(self.labels["class"])

    def read(self, index: int) -> Sample:
        """See the contract."""
        size = int(np.prod(self.shape))
        pixels = np.fromfile(self.file, np.uint8, count=size, offset=index * size)
        image = pixels.reshape(self.shape).transpose(self.axes)
        return Sample(Image.fromarray(np.ascontiguousarray(image)))

    def origin(self, index: int) -> str:
        """See the contract."""
        return f"{self.source}, image {index}"


@dataclass(frozen=True)
class SegmentedExamples(Examples):
    """Images in the layout of VOC, with the class of each pixel as another image.

    Attributes:
        root: with JPEGImages/ and the folder of the classes.
        names: of the images, without suffix.
        annotated: name of the folder of the classes.
        num_classes: classes from 0, beside 255.
    """

    root: Path
    names: tuple[str, ...]
    annotated: str
    num_classes: int
    labels: dict[str, Int64[np.ndarray, "n"]] = field(default_factory=dict)
    truth: tuple[str, ...] = ("pixel_labels",)

    def __len__(self) -> int:
        return len(self.names)

    def files(self, start: int, stop: int) -> Iterator[Path]:
        """See the contract."""
        return chain.from_iterable(map(self._pair, range(start, stop)))

    def _pair(self, index: int) -> tuple[Path, Path]:
        """The image and its classes."""
        name = self.names[index]
        return self.root / f"JPEGImages/{name}.jpg", self.root / self.annotated / f"{name}.png"

    def read(self, index: int) -> Sample:
        """One image with its classes.

        Raises:
            ValueError: if they do not fit the image, or are no classes.
        """
        image_path, path = self._pair(index)
        image = read_image(image_path)
        annotation = read_image(path)
        if annotation.mode not in ("P", "L"):
            raise ValueError(
                f"{path} has the mode {annotation.mode} where indices of classes are expected, "
                "mode P or L"
            )
        if annotation.size != image.size:
            raise ValueError(
                f"{path} has {_size(annotation)} pixels where its image has {_size(image)}"
            )
        classes = np.asarray(annotation)
        wrong = np.unique(classes[(classes >= self.num_classes) & (classes != IGNORED)])
        if len(wrong):
            raise ValueError(
                f"{path} has the class {wrong[0]} where 0 to {self.num_classes - 1} and "
                f"{IGNORED}, ignored, are expected"
            )
        return Sample(image, pixel_labels=classes)

    def origin(self, index: int) -> str:
        """The image; errors about its classes name their file themselves."""
        return str(self._pair(index)[0])


def _size(image: Image.Image) -> str:
    return "x".join(map(str, image.size))


@dataclass(frozen=True)
class SceneExamples(Examples):
    """A range of CLEVR's scenes.

    Attributes:
        source: the distributed file.
        scenes: what was unpacked from it, elements of `SCENE`.
        start: the first scene of the range.
        labels: as in the contract.
    """

    source: Path
    scenes: Path
    start: int
    labels: dict[str, Int64[np.ndarray, "n"]]
    truth: tuple[str, ...] = ("pixel_labels", "segments")

    def __len__(self) -> int:
        return len(self.labels["objects"])

    def read(self, index: int) -> Sample:
        """See the contract; the class of a pixel is the shape of its object."""
        offset = (self.start + index) * SCENE.itemsize
        (scene,) = np.fromfile(self.scenes, SCENE, count=1, offset=offset)
        segments = scene["segments"]
        return Sample(Image.fromarray(scene["image"]), scene["shapes"][segments], segments)

    def origin(self, index: int) -> str:
        """See the contract."""
        return f"{self.source}, scene {self.start + index}"
