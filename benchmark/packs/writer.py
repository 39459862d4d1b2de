"""Writes a pack: in parallel, in constant memory, and going on where a killed process stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import Int64

from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.packs.arrays import ArrayFile
from benchmark.packs.filling import Chunk, Filled, Filler
from benchmark.packs.journal import Journal, Progress, chunks_of
from benchmark.packs.manifest import Manifest, Recipe, Stored
from benchmark.packs.opened import digest_of_rows, label_array
from benchmark.packs.workers import WorkerDiedError, share_out
from benchmark.progress import Emit, Event
from benchmark.sources.checks import listed
from benchmark.sources.source import Contents, Examples

# Damaged images that are named before the search for more ends, as when a disk has gone.
_MOST_DAMAGED = 1000


class UnreadableError(UserError):
    """Images that cannot be read, where they must be or where too few are left without them."""


def write_pack(
    work: Path,
    recipe: Recipe,
    contents: Contents,
    source: Path,
    *,
    state: str = "",
    workers: int,
    emit: Emit,
) -> Path:
    """Make a pack in ``work/pack`` out of what a source holds.

    Args:
        work: folder of this pack alone; what a killed process has left there is used, if it was
            making the pack out of the same state.
        recipe: what to make.
        contents: what the source holds.
        source: where it does.
        state: of the source's files and all else that decides the arrays, as a hash.
        workers: processes.
        emit: told how far it is.

    Returns:
        The folder of the pack.

    Raises:
        UnreadableError: if images are damaged, unless such are skipped and enough are left.
        UserError: if there is too little room, or a process dies.
        OSError: if something cannot be written.
    """
    writer = _Writer(work / "pack", recipe, contents, source, emit)
    chunks = chunks_of(contents.splits, recipe.stored_size)
    journal = Journal(work, state, chunks)
    progress = Progress(contents.splits)
    if journal.continues and all(file.exists() for file in writer.files.values()):
        for filled in journal.replay(contents.splits):
            progress.add(filled)
    left = [chunk for chunk in chunks if chunk.number not in progress.numbers]
    if len(left) == len(chunks) or (left and writer.is_compacted):
        journal.discard()
        writer.begin()
        journal.begin()
        progress, left = Progress(contents.splits), chunks
    writer.check_room()
    writer.fill(journal, progress, left, workers)
    emit(Event(recipe.name, "computing checksums"))
    writer.finish(progress)
    return writer.pack


@dataclass(frozen=True)
class _Writer:
    """The steps of writing one pack."""

    pack: Path
    recipe: Recipe
    contents: Contents
    source: Path
    emit: Emit

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the arrays that are filled image by image, before any image is left out."""
        splits, side = self.contents.splits.values(), self.recipe.stored_size
        truths = {truth for examples in splits for truth in examples.truth}
        total = sum(map(len, splits))
        return {
            "images": (total, 3, side, side),
            **dict.fromkeys(sorted(truths), (total, side, side)),
        }

    @property
    def files(self) -> dict[str, Path]:
        """The files of these arrays."""
        return {name: self.pack / f"{name}.npy" for name in self.shapes}

    @property
    def is_compacted(self) -> bool:
        """Whether images have been left out already, so that no more can be filled in."""
        shapes = {name: ArrayFile.open(file).shape for name, file in self.files.items()}
        return shapes != self.shapes

    def begin(self) -> None:
        """Make the arrays, empty."""
        shutil.rmtree(self.pack, ignore_errors=True)
        self.pack.mkdir()
        for name, shape in self.shapes.items():
            ArrayFile.create(self.files[name], "|u1", shape)

    def check_room(self) -> None:
        """Refuse to begin what the disk cannot hold."""
        taken = sum(file.stat().st_blocks * 512 for file in self.files.values())
        sizes = [*map(prod, self.shapes.values())]
        needed = sum(sizes) - taken
        if self.contents.skip_damaged:  # to leave images out, an array is copied, one at a time
            needed += max(sizes)
        free = shutil.disk_usage(self.pack).free
        if needed > free:
            raise UserError(
                f"the pack needs {needed / 1e9:.1f} GB and the disk of {self.pack.parent.parent} "
                f"has {free / 1e9:.1f} GB left; free space there, or choose another folder, and "
                "run again."
            )

    def fill(
        self, journal: Journal, progress: Progress, left: Sequence[Chunk], workers: int
    ) -> None:
        """Fill the chunks that are left, and note them."""
        splits = self.contents.splits
        filler = Filler(splits, self.files, self.recipe.stored_size, self.recipe.fit)
        refused: dict[tuple[int, int], str] = {}
        hopeful = (chunk for chunk in left if len(refused) < _MOST_DAMAGED)
        earlier, started = progress.images, time.monotonic()
        try:
            with journal:
                for filled in share_out(filler, hopeful, min(workers, len(left))):
                    if filled.damaged and not self.contents.skip_damaged:
                        refused |= self._told(filled)
                        continue
                    journal.add(filled)
                    before = progress.images
                    progress.add(filled)
                    rate = (progress.images - earlier) / (time.monotonic() - started)
                    self._tell(before, progress.images, rate)
        except WorkerDiedError as error:
            raise UserError(
                f"{error}; if memory was short, free some, or prepare with fewer workers, and run "
                "again."
            ) from error
        if refused:
            in_order = [refused[key] for key in sorted(refused)]
            raise UnreadableError(
                f"{len(refused):,} {'image' if len(refused) == 1 else 'images'} cannot be packed: "
                f"{listed(in_order)}; "
                f"{self.contents.remedy}."
            )

    def _tell(self, before: int, done: int, rate: float) -> None:
        total = self.shapes["images"][0]
        text = f"{done:,} of {total:,} images, {rate:,.0f}/s"
        tenth = 10 * done // total > 10 * before // total
        self.emit(Event(self.recipe.name, text, done, total, epoch_ended=tenth))

    def _told(self, filled: Filled) -> dict[tuple[int, int], str]:
        """Name the damaged images of a chunk; returns them by chunk and number."""
        examples = self.contents.splits[filled.chunk.split]
        named = {
            (filled.chunk.number, index): f"{examples.origin(index)} ({problem})"
            for index, problem in filled.damaged
        }
        for image in named.values():
            self.emit(Event(self.recipe.name, f"cannot read {image}"))
        return named

    def finish(self, progress: Progress) -> None:
        """Leave out what was skipped, add the labels, and at last the manifest."""
        splits = self.contents.splits
        kept = {name: self._kept(name, damaged) for name, damaged in progress.damaged.items()}
        if any(progress.damaged.values()):
            offsets = accumulate(map(len, splits.values()), initial=0)
            rows = [rows + offset for rows, offset in zip(kept.values(), offsets, strict=False)]
            for file in self.files.values():
                _compact(file, np.concatenate(rows))
        labels = self._write_labels(kept)
        arrays = {
            name: ArrayFile.open(self.pack / f"{name}.npy") for name in (*self.shapes, *labels)
        }
        stored = {}
        ends = pairwise(accumulate(map(len, kept.values()), initial=0))
        for (name, examples), (start, stop) in zip(splits.items(), ends, strict=True):
            present = [a for a in arrays if a in ("images", *labels, *examples.truth)]
            origins = map(examples.origin, progress.damaged[name])
            stored[name] = Stored(
                start,
                stop,
                {array: digest_of_rows(arrays[array], start, stop) for array in present},
                {array: int((each[name] < 0).sum()) for array, each in labels.items()},
                progress.counts[name].tolist(),
                [origin.removeprefix(f"{self.source}/") for origin in origins],
            )
        Manifest(
            self.recipe.name,
            **self.recipe.settings,
            pillow=PIL.__version__,
            arrays={name: (array.dtype.str, array.shape) for name, array in arrays.items()},
            splits=stored,
            class_names=self.contents.class_names,
            pixel_class_names=self.contents.pixel_class_names,
            checksums=self.contents.checksums,
        ).write(self.pack)

    def _kept(self, split: str, damaged: list[int]) -> Int64[np.ndarray, "k"]:
        """Indices of the images that can be read.

        Raises:
            UnreadableError: if a class has lost all that it had, or fewer than 2 are left.
        """
        examples = self.contents.splits[split]
        kept = np.setdiff1d(np.arange(len(examples)), np.array(damaged, np.int64))
        if damaged and len(kept) < 2:
            raise UnreadableError(
                f"{len(kept)} of {len(examples)} images of split {split} in {self.source} can be "
                "read and at least 2 are needed; repair the others."
            )
        for label_set, labels in examples.labels.items():
            for lost in np.setdiff1d(labels, [*labels[kept], -1]):
                raise UnreadableError(
                    f"no image of class {self.contents.class_names[label_set][lost]} of split "
                    f"{split} in {self.source} can be read; repair one, or remove the class."
                )
        return kept

    def _write_labels(
        self, kept: Mapping[str, Int64[np.ndarray, "k"]]
    ) -> dict[str, dict[str, Int64[np.ndarray, "k"]]]:
        """Store the labels of each set; returns them by array and split."""
        written = {}
        for label_set, names in self.contents.class_names.items():
            labels = {
                split: _labels(examples, label_set, len(names))[kept[split]]
                for split, examples in self.contents.splits.items()
            }
            array = label_array(label_set, self.contents.class_names)
            whole = np.concatenate([*labels.values()])
            ArrayFile.create(self.pack / f"{array}.npy", "<i8", whole.shape).write(0, whole)
            written[array] = labels
        return written


def _labels(examples: Examples, label_set: str, num_classes: int) -> Int64[np.ndarray, "n"]:
    """The classes of a split; where it has none, all of them unknown."""
    labels = examples.labels.get(label_set, np.full(len(examples), -1))
    assert labels.shape == (len(examples),), label_set
    assert labels.min() >= -1, label_set
    assert labels.max() < num_classes, label_set
    return labels


def _compact(path: Path, rows: Int64[np.ndarray, "k"]) -> None:
    """Keep only these rows; a call that was interrupted may be repeated."""
    file = ArrayFile.open(path)
    if len(rows) == file.shape[0]:
        return
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)

    def write(part: Path) -> None:
        target = ArrayFile.create(part, file.dtype.str, (len(rows), *file.shape[1:]))
        at = 0
        for run in runs:
            for block in file.blocks(int(run[0]), int(run[-1]) + 1):
                target.write(at, block)
                at += len(block)

    write_atomically(path, write)
