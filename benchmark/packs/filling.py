"""The work of a packer's process: read some images, make them square, write them to the arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.packs.arrays import ArrayFile
from benchmark.packs.fitting import FILL, Fit, Square, square
from benchmark.sources.source import Examples


@dataclass(frozen=True)
class Chunk:
    """Some consecutive images of a split.

    Attributes:
        number: of all chunks of a pack.
        split: name of the split.
        start: first image, counted in the split.
        stop: the image after the last.
        row: where the first image is stored.
    """

    number: int
    split: str
    start: int
    stop: int
    row: int


@dataclass(frozen=True)
class Filled:
    """A chunk whose images are on the disk.

    Attributes:
        chunk: what was to be done.
        counts: how often each of the 256 values occurs in each channel.
        damaged: images that cannot be read, counted in the split, and why; their rows are void.
        stamp: the `stamp_of` the files of its images before they were read.
    """

    chunk: Chunk
    counts: list[list[int]]
    damaged: list[tuple[int, str]]
    stamp: str


@dataclass(frozen=True)
class Filler:
    """Fills the arrays of a pack, chunk by chunk, in any order and in any number of processes.

    Attributes:
        splits: the images by split.
        files: of the arrays, by name.
        size: side of the squares in pixels.
        fit: how images become squares.
    """

    splits: dict[str, Examples]
    files: dict[str, Path]
    size: int
    fit: Fit

    def __call__(self, chunk: Chunk) -> Filled:
        """Fill the rows of a chunk.

        Raises:
            OSError: if they cannot be written.
        """
        files = {name: ArrayFile.open(path) for name, path in self.files.items()}
        stamp = stamp_of(self.splits[chunk.split].files(chunk.start, chunk.stop))
        count = chunk.stop - chunk.start
        rows = {
            name: np.full((count, *file.shape[1:]), FILL[name], np.uint8)
            for name, file in files.items()
        }
        counts = np.zeros((3, 256), np.int64)
        damaged = []
        for position in range(count):
            index = chunk.start + position
            try:
                found = self._read(self.splits[chunk.split], index)
            except Exception as error:  # damaged bytes make decoders raise nearly anything
                damaged.append((index, " ".join(str(error).split()) or type(error).__name__))
                continue
            counts += found.counts
            for name in rows.keys() & found.arrays.keys():
                rows[name][position] = found.arrays[name]
        for name, file in files.items():
            file.write(chunk.row, rows[name])
        return Filled(chunk, counts.tolist(), damaged, stamp)

    def _read(self, examples: Examples, index: int) -> Square:
        sample = examples.read(index)
        found = square(sample, self.size, self.fit)
        if lacking := set(examples.truth) - set(found.arrays):
            raise ValueError(f"it has no {lacking.pop()}")
        return found


def stamp_of(files: Iterable[Path]) -> str:
    """Hash of the paths, sizes and times of files: another one if a file has changed."""
    state = hashlib.sha256()
    for file in files:
        state.update(os.fsencode(file.absolute()) + b"\0")
        with suppress(OSError):  # such as a dangling link; reading the image will name it
            stat = file.stat()
            state.update(b"%d %d\0" % (stat.st_size, stat.st_mtime_ns))
    return state.hexdigest()
