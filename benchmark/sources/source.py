"""What every reader of a distributed data set is: a `Source` that opens into `Contents`."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image


@dataclass(frozen=True)
class Sample:
    """One image with the ground truth of its pixels, all of one height and width.

    Attributes:
        image: in any of Pillow's modes.
        pixel_labels: class of each pixel, 255 where it does not count.
        segments: object of each pixel, 0 for the background.
    """

    image: Image.Image
    pixel_labels: UInt8[np.ndarray, "h w"] | None = None
    segments: UInt8[np.ndarray, "h w"] | None = None


class Examples(ABC):
    """The images of one split, read one at a time.

    Worker processes read, each with a copy of the object: it is pickled, so it must hold paths and
    offsets rather than open files or pixels.

    Attributes:
        labels: classes of the images by the name of the label set, -1 where the class is unknown;
            empty without labels.
        truth: what samples have beside the image: "pixel_labels", "segments".
    """

    labels: dict[str, Int64[np.ndarray, "n"]]
    truth: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """One image.

        Raises:
            Exception: any at all, if the file is damaged; `origin` is then named to the user.
        """

    @abstractmethod
    def origin(self, index: int) -> str:
        """Where an image comes from, for messages: a path, or a file and a position in it."""

    def files(self, start: int, stop: int) -> Iterator[Path]:
        """The files of the images from ``start`` to before ``stop``, if each has its own.

        After an interruption, images are read again where one of these files has changed.
        """
        return iter(())


@dataclass(frozen=True)
class Contents:
    """What a source holds.

    Attributes:
        splits: by name, in the order in which a pack stores them.
        class_names: of each label set: class k is ``class_names[set][k]``.
        pixel_class_names: class k of a pixel is ``pixel_class_names[k]``.
        checksums: of the files that were checked, as "md5:..." or "sha256:...", by their path
            relative to the source.
        skip_damaged: leave images out that cannot be read, instead of refusing them.
        remedy: what to do about images that cannot be read.
        files: all that decide pixels or labels, beside `Examples.files`. If one has changed, an
            interrupted packing starts over.
    """

    splits: dict[str, Examples]
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pixel_class_names: tuple[str, ...] = ()
    checksums: dict[str, str] = field(default_factory=dict)
    skip_damaged: bool = False
    remedy: str = "get them again from where they come"
    files: Iterable[Path] = field(kw_only=True)


class Source(ABC):
    """Reads a data set as its site distributes it.

    The constructor takes what shapes the result, and keeps it in attributes of the same names.

    Attributes:
        version: raised whenever the same files would give other pixels or labels.
        expects: what the folder must hold, as "DIR/cifar-10-python.tar.gz or ...".
    """

    version: ClassVar[int]
    expects: ClassVar[str]

    def identity(self) -> dict[str, Any]:
        """Class, version and arguments, as JSON has them: what packs of equal pixels share."""
        kind = type(self)
        arguments = {name: getattr(self, name) for name in inspect.signature(kind).parameters}
        return {
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "version": self.version,
            "arguments": arguments,
        }

    @abstractmethod
    def open(self, folder: Path, scratch: Path, *, trust: bool) -> Contents:
        """Check what is there and list it; the folder is never written to.

        Args:
            folder: the user's.
            scratch: an existing folder to unpack archives into; whoever calls removes it. It may
                hold what an interrupted call has unpacked, in part or of other files.
            trust: go on where a checksum or a count is not the published one; nothing in the files
                is executed, with it or without.

        Raises:
            UserError: if the layout, a checksum or a count is wrong: what was expected, what was
                found, which file, and the remedy.
        """
