"""An existing pack: what its manifest tells, its arrays and whether they are as they were made.

torch takes seconds to import, and to list or make packs needs none of it, so none is imported here;
`benchmark.packs.pack` makes a data set of what is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.packs.arrays import ArrayFile, digest_of_blocks
from benchmark.packs.manifest import MANIFEST, DamagedPackError, Manifest, Stored


@dataclass(frozen=True)
class Part:
    """Some splits of a pack as one.

    Attributes:
        arrays: as `benchmark.dataset.Split` names them, memory-mapped.
        digests: of each array, a list where several stored splits are joined.
        counts: how often each of the 256 values occurs in each channel.
    """

    arrays: dict[str, np.ndarray]
    digests: dict[str, str | list[str]]
    counts: list[list[int]]


class Pack:
    """An existing pack; opening it reads the manifest and no pixel.

    Raises:
        DamagedPackError: unless the manifest is as it was written and fits the array files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder)
        self._check_arrays()
        self._files = {name: self._open(name) for name in self.manifest.arrays}

    def _check_arrays(self) -> None:
        """Refuse a manifest of other arrays than packs have."""
        known, side = self.manifest.arrays, self.manifest.stored_size
        count = known["images"][1][0] if "images" in known else 0
        expected: dict[str, tuple[str, tuple[int, ...]]]
        expected = {"images": ("|u1", (count, 3, side, side))}
        for label_set in self.manifest.class_names:
            expected[label_array(label_set, self.manifest.class_names)] = ("<i8", (count,))
        for truth in {"pixel_labels", "segments"} & known.keys():
            expected[truth] = ("|u1", (count, side, side))
        for name in sorted(known.keys() | expected.keys()):
            if known.get(name) != expected.get(name):
                found = " ".join(map(str, known.get(name, ["nothing"])))
                wanted = " ".join(map(str, expected.get(name, ["nothing"])))
                problem = f"array {name!r} is {found} where {wanted} is expected"
                raise DamagedPackError(self.folder / MANIFEST, problem)

    def _open(self, name: str) -> ArrayFile:
        path = self.folder / f"{name}.npy"
        dtype, shape = self.manifest.arrays[name]
        try:
            file = ArrayFile.open(path)
        except OSError as error:
            raise DamagedPackError(path, f"it cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise DamagedPackError(path, " ".join(str(error).split())) from error
        if (file.dtype.str, file.shape) != (dtype, shape):
            raise DamagedPackError(
                path, f"it holds {file.dtype.str} {file.shape} where {dtype} {shape} is expected"
            )
        return file

    def __len__(self) -> int:
        return sum(split.stop - split.start for split in self.manifest.splits.values())

    def changes(self) -> Iterator[DamagedPackError]:
        """Read every byte; yields the arrays of splits that are not as they were packed."""
        for split, stored in self.manifest.splits.items():
            for name, expected in stored.digests.items():
                if digest_of_rows(self._files[name], stored.start, stored.stop) != expected:
                    file = self._files[name].path
                    yield DamagedPackError(file, f"split {split} has changed since it was packed")

    def label_set(self, wanted: str | None) -> str | None:
        """The label set of a name, or the only one; None if there are no labels.

        Raises:
            UserError: naming the sets.
        """
        known = [*self.manifest.class_names]
        if wanted is None and len(known) < 2:
            return known[0] if known else None
        if wanted not in known:
            raise UserError(
                f"data.labels={wanted} is none of the label sets of {self.folder}; "
                f"choose one of {', '.join(known) or 'null'}."
            )
        return wanted

    def part(self, key: str, names: Sequence[str], labels: str | None, *, partly: bool) -> Part:
        """Splits that are stored one after the other, as one.

        Args:
            key: the setting that asks for them, for messages.
            names: of the splits.
            labels: the label set.
            partly: whether some of the images, not all, may lack a class.

        Raises:
            UserError: for splits that are not there or not neighbours, or labels of some images.
        """
        splits = [self._stored(key, name) for name in names]
        if not splits or any(a.stop != b.start for a, b in pairwise(splits)):
            raise UserError(
                f"data.{key}=[{', '.join(names)}] are no neighbours in {self.folder}; give one or "
                f"several of {', '.join(self.manifest.splits)}, in this order and without a gap."
            )
        rows = slice(splits[0].start, splits[-1].stop)
        array = label_array(labels, self.manifest.class_names) if labels else ""
        unlabelled = sum(split.unlabelled.get(array, 0) for split in splits)
        if unlabelled and not partly and unlabelled < rows.stop - rows.start:
            raise UserError(
                f"data.{key}=[{', '.join(names)}] has {unlabelled:,} images without a class; "
                "leave their split out, or give it to data.pretrain alone."
            )
        stored_as = {"images": "images"}
        if labels and unlabelled < rows.stop - rows.start:
            stored_as["labels"] = array
        for name in ("pixel_labels", "segments"):
            if all(name in split.digests for split in splits):
                stored_as[name] = name
        arrays = {name: self._files[stored].map()[rows] for name, stored in stored_as.items()}
        digests: dict[str, str | list[str]] = {}
        for name, stored in stored_as.items():
            each = [split.digests[stored] for split in splits]
            digests[name] = each[0] if len(each) == 1 else each
        counts = np.sum([split.counts for split in splits], axis=0)
        return Part(arrays, digests, counts.tolist())

    def _stored(self, key: str, name: str) -> Stored:
        if name not in self.manifest.splits:
            raise UserError(
                f"data.{key} names the split {name!r}, which {self.folder} does not have; "
                f"choose of {', '.join(self.manifest.splits)}."
            )
        return self.manifest.splits[name]


def label_array(label_set: str, class_names: dict[str, tuple[str, ...]]) -> str:
    """Name of the array that stores a label set."""
    return "labels" if len(class_names) == 1 else f"labels_{label_set}"


def digest_of_rows(file: ArrayFile, start: int, stop: int) -> str:
    """The `benchmark.data.digest` of rows of an array, in constant memory."""
    blocks = file.blocks(start, stop)
    return digest_of_blocks(file.dtype, (stop - start, *file.shape[1:]), blocks)
