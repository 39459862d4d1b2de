"""Packs: data sets as memory-mapped arrays, made once by ``benchmark/prepare.py``.

A pack is a folder with ``images.npy``, one array for each kind of ground truth, and the manifest.
Its splits are ranges of the same arrays, so that neighbours are joined without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmark.contracts import Dataset, Split
from benchmark.data import Digests, counted_statistics, digest_of_blocks, fingerprint
from benchmark.errors import UserError
from benchmark.packs.arrays import ArrayFile
from benchmark.packs.fitting import Fit
from benchmark.packs.manifest import (
    MANIFEST,
    DamagedPackError,
    Manifest,
    MissingPackError,
    Recipe,
    Stored,
)
from benchmark.sources.source import Source


@dataclass(frozen=True)
class Part:
    """Some splits of a pack as one, with what is needed to describe it."""

    split: Split
    digests: Digests
    counts: list[list[int]]


class Pack:
    """An existing pack; opening it reads the manifest and no pixel.

    Raises:
        DamagedPackError: unless the manifest is as it was written and fits the array files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder)
        self._files = {name: self._open(name) for name in self.manifest.arrays}

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
        tensors = {
            name: torch.from_numpy(self._files[stored].map()[rows])
            for name, stored in stored_as.items()
        }
        digests: dict[str, str | list[str]] = {}
        for name, stored in stored_as.items():
            each = [split.digests[stored] for split in splits]
            digests[name] = each[0] if len(each) == 1 else each
        counts = np.sum([split.counts for split in splits], axis=0)
        return Part(Split(**tensors), digests, counts.tolist())

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


def load(
    *,
    name: str,
    data_dir: str,
    source: Source,
    stored_size: int,
    train: list[str] | str,
    test: list[str] | str | None = None,
    pretrain: list[str] | str | None = None,
    fit: Fit = "crop",
    labels: str | None = None,
    image_size: int | None = None,
    view: Literal["whole", "centre"] = "whole",
    pack: str | None = None,
    option: str | None = None,
) -> Dataset:
    """Open a pack as a data set; its arrays are memory-mapped, and changes stay in memory.

    Args:
        name: what tables and run folders call it.
        data_dir: folder of all packs.
        source: what the pack was made from.
        stored_size: side of the stored images in pixels.
        train: splits for training heads, neighbours in the pack.
        test: splits for scores; None for none.
        pretrain: splits for pretraining, whose mean and standard deviation count; None for
            ``train``.
        fit: how images became squares; see `benchmark.packs.fitting.square`.
        labels: name of the label set; None for the only one.
        image_size: side of the images that encoders see in pixels; None for ``stored_size``.
        view: see `benchmark.contracts.Dataset`.
        pack: the pack's folder, which sets of the same stored images may share; None for ``name``.
        option: what ``data=`` chooses this configuration by; None for ``name``.

    Raises:
        UserError: if there is no such pack, or it was made otherwise, or lacks what is asked for.
    """
    recipe = Recipe(pack or name, data_dir, source, stored_size, fit)
    prepare = recipe.command(option)
    if not (recipe.folder / MANIFEST).exists():
        raise MissingPackError(
            f"data={option or name} is not prepared, there is no {recipe.folder / MANIFEST}; run "
            f"{prepare}, where DIR is the folder of {source.expects}."
        )
    try:
        opened = Pack(recipe.folder)
    except DamagedPackError as error:
        raise UserError(
            f"{error.file} cannot be used because {error.problem}; run {prepare} replace=true."
        ) from error
    if mismatch := recipe.mismatch(opened.manifest):
        raise UserError(
            f"{recipe.folder} was {mismatch}; change that, data.name or data_dir, or run {prepare} "
            "replace=true."
        )
    size = stored_size if image_size is None else image_size
    if size < 1 or (view == "centre" and size > stored_size):
        raise UserError(
            f"data.image_size={size} must lie between 1 and the stored {stored_size} pixels."
        )
    chosen = opened.label_set(labels)
    parts = {
        key: opened.part(
            key,
            [names] if isinstance(names, str) else names,
            chosen,
            partly=key == "pretrain",
        )
        for key, names in (("train", train), ("test", test), ("pretrain", pretrain))
        if names is not None
    }
    class_names = opened.manifest.class_names[chosen] if chosen else ()
    pixel_class_names = opened.manifest.pixel_class_names
    more: dict[str, Any] = {"view": [size, view]} if size != stored_size else {}
    if pixel_class_names:
        more["pixel_class_names"] = pixel_class_names
    return replace(
        assemble(name, class_names, parts, **more),
        pixel_class_names=pixel_class_names,
        view_size=None if size == stored_size else size,
        view=view,
    )


def assemble(
    name: str, class_names: tuple[str, ...], parts: Mapping[str, Part], **more: object
) -> Dataset:
    """A data set of parts of packs.

    Args:
        name: stays out of the fingerprint: the same images are the same data under any name.
        class_names: of the labels.
        parts: "train", and perhaps "test" and "pretrain", as in `benchmark.contracts.Dataset`.
        more: whatever else makes the data what it is.
    """
    train, test = parts["train"], parts.get("test")
    seen = parts.get("pretrain", train)
    if seen.digests != train.digests:
        more["pretrain"] = seen.digests
    return Dataset(
        name,
        train.split,
        test.split if test else None,
        class_names,
        *counted_statistics(seen.counts),
        fingerprint("images", class_names, train.digests, test.digests if test else None, **more),
        fingerprint("images", class_names, seen.digests),
        pretrain=seen.split if "pretrain" in more else None,
    )
