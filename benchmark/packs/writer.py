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

from benchmark.contracts import UserError
from benchmark.files import write_atomically
from benchmark.packs.arrays import ArrayFile
from benchmark.packs.filling import Chunk, Filled, Filler
from benchmark.packs.journal import Journal, Progress, chunks_of
from benchmark.packs.manifest import Manifest, Recipe, Stored
from benchmark.packs.pack import digest_of_rows, label_array
from benchmark.packs.workers import WorkerDiedError, share_out
from benchmark.progress import Emit, Event
from benchmark.sources.source import Contents, Examples

GO_ON = "run the same command again, which goes on where it stopped"


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
        UserError: if an image is damaged, unless such are skipped, or there is too little room.
        OSError: if something cannot be written.
    """
    writer = _Writer(work / "pack", recipe, contents, source, emit)
    chunks = chunks_of(contents.splits, recipe.stored_size)
    journal = Journal(work, state, chunks)
    if not (journal.continues and all(file.exists() for file in writer.files.values())):
        journal.discard()
        writer.begin()
        journal.begin()
    writer.check_room()
    progress = writer.fill(journal, chunks, workers)
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

    def begin(self) -> None:
        """Make the arrays, empty."""
        shutil.rmtree(self.pack, ignore_errors=True)
        self.pack.mkdir()
        for name, shape in self.shapes.items():
            ArrayFile.create(self.files[name], "|u1", shape)

    def check_room(self) -> None:
        """Refuse to begin what the disk cannot hold."""
        taken = sum(file.stat().st_blocks * 512 for file in self.files.values())
        needed = sum(map(prod, self.shapes.values())) - taken
        free = shutil.disk_usage(self.pack).free
        if needed > free:
            raise UserError(
                f"the pack needs {needed / 1e9:.1f} GB and the disk of {self.pack.parent.parent} "
                f"has {free / 1e9:.1f} GB left; free space there and {GO_ON}, or choose another "
                "data_dir."
            )

    def fill(self, journal: Journal, chunks: Sequence[Chunk], workers: int) -> Progress:
        """Fill the chunks that the journal does not have."""
        splits = self.contents.splits
        progress = Progress(splits)
        for filled in journal.replay():
            progress.add(filled)
        left = [chunk for chunk in chunks if chunk.number not in progress.numbers]
        filler = Filler(splits, self.files, self.recipe.stored_size, self.recipe.fit)
        refused: list[Filled] = []
        # No chunk is begun after a damaged image, and those begun before are finished: so the first
        # damaged image of all is found with any number of processes.
        unrefused = (chunk for chunk in left if not refused)
        earlier, started = progress.images, time.monotonic()
        try:
            with journal:
                for filled in share_out(filler, unrefused, min(workers, len(left))):
                    if filled.damaged and not self.contents.skip_damaged:
                        refused.append(filled)
                        continue
                    journal.add(filled)
                    before = progress.images
                    progress.add(filled)
                    rate = (progress.images - earlier) / (time.monotonic() - started)
                    self._tell(before, progress.images, rate)
        except WorkerDiedError as error:
            raise UserError(
                f"{error}; if memory was short, set fewer workers, and {GO_ON}."
            ) from error
        if refused:
            self._refuse(min(refused, key=lambda filled: filled.chunk.number))
        return progress

    def _tell(self, before: int, done: int, rate: float) -> None:
        total = self.shapes["images"][0]
        text = f"{done:,} of {total:,} images, {rate:,.0f}/s"
        tenth = 10 * done // total > 10 * before // total
        self.emit(Event(self.recipe.name, text, done, total, epoch_ended=tenth))

    def _refuse(self, filled: Filled) -> None:
        examples = self.contents.splits[filled.chunk.split]
        index, problem = filled.damaged[0]
        raise UserError(
            f"{examples.origin(index)} cannot be read as an image ({problem}); {examples.remedy}."
        )

    def finish(self, progress: Progress) -> None:
        """Leave out what was skipped, add the labels, and at last the manifest."""
        splits = self.contents.splits
        kept = {name: _kept(splits[name], damaged) for name, damaged in progress.damaged.items()}
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


def _kept(examples: Examples, damaged: list[int]) -> Int64[np.ndarray, "k"]:
    """Indices of the images that can be read.

    Raises:
        UserError: if they are too few.
    """
    kept = np.setdiff1d(np.arange(len(examples)), np.array(damaged, np.int64))
    if damaged and (sentence := examples.lacking(kept)):
        raise UserError(sentence)
    return kept


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
