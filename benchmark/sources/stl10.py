"""STL-10 (Coates et al. 2011): 96 px, 5,000 and 8,000 images of ten classes, 100,000 without."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int64

from benchmark.errors import UserError
from benchmark.sources.archives import find_members
from benchmark.sources.checks import check_counts, check_present, read_text, wrong_layout
from benchmark.sources.examples import RawExamples
from benchmark.sources.source import Contents, Examples, Source

_COUNTS = {"train": 5_000, "unlabeled": 100_000, "test": 8_000}
_SIDE = 96
_IMAGE_BYTES = 3 * _SIDE * _SIDE
_NAMES = "class_names.txt"


class STL10(Source):
    """The binaries; torchvision's reader would hold all 3 GB of them in memory."""

    version: ClassVar[int] = 1
    expects: ClassVar[str] = "DIR/stl10_binary.tar.gz or DIR/stl10_binary/"

    def open(self, folder: Path, scratch: Path, *, trust: bool) -> Contents:
        """See the contract."""
        from torchvision import datasets  # slow, and needed here alone

        official = datasets.STL10
        binaries = dict([*official.train_list, *official.test_list])
        found = find_members(official, binaries, folder, scratch, trust=trust)
        if found is None:
            raise wrong_layout(folder, self.expects)
        unpacked, checksums = found
        check_present(unpacked, [_NAMES])
        splits, classes = _read(unpacked)
        check_counts(folder, splits, _COUNTS, trust=trust)
        files = [*(folder / name for name in checksums), unpacked / _NAMES]
        return Contents(splits, {"class": classes}, checksums=checksums, files=files)


def _read(binaries: Path) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """The splits and the names of the classes."""
    classes = tuple(read_text(binaries / _NAMES).split())
    if len(classes) != 10:
        raise UserError(
            f"{binaries / _NAMES} has {len(classes)} names where 10 are expected; "
            "unpack the archive again."
        )
    splits: dict[str, Examples] = {}
    for split in _COUNTS:
        file = binaries / f"{split}_X.bin"
        labels = {"class": _labels(binaries, split)}
        # A file has channel after channel, and in each column after column.
        splits[split] = RawExamples(file, str(file), (3, _SIDE, _SIDE), (2, 1, 0), labels)
    return splits, classes


def _labels(binaries: Path, split: str) -> Int64[np.ndarray, "n"]:
    """Labels of as many images as the split has, 0 to 9 or -1 for all; the files count from 1."""
    pixels, file = binaries / f"{split}_X.bin", binaries / f"{split}_y.bin"
    size = pixels.stat().st_size
    if split == "unlabeled":
        labels = np.zeros(size // _IMAGE_BYTES, np.uint8)
    else:
        labels = np.fromfile(file, np.uint8)
        wrong = labels[(labels < 1) | (labels > 10)]
        if len(wrong):
            raise UserError(
                f"{file} has the label {wrong[0]} where 1 to 10 are expected; "
                "unpack the archive again."
            )
    if size != len(labels) * _IMAGE_BYTES:
        raise UserError(
            f"{pixels} has {size:,} bytes where {len(labels):,} images of {_IMAGE_BYTES:,} bytes "
            "are expected; it is incomplete: unpack the archive again."
        )
    return labels.astype(np.int64) - 1
