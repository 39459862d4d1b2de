"""How far the packing of a data set is, kept so that a killed process loses little."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict

import numpy as np

from benchmark.files import parsed_json, write_text
from benchmark.packs.filling import Chunk, Filled, stamp_of
from benchmark.sources.source import Examples
from benchmark.type_check import misfit

# What a process does at once: little enough to lose, and to hold in memory.
_CHUNK_BYTES, _CHUNK_IMAGES = 1 << 24, 512


def chunks_of(splits: Mapping[str, Examples], size: int) -> list[Chunk]:
    """All images in stored order, in chunks that lie within a split."""
    step = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // (3 * size * size)))
    chunks: list[Chunk] = []
    row = 0
    for split, examples in splits.items():
        for start in range(0, len(examples), step):
            stop = min(start + step, len(examples))
            chunks.append(Chunk(len(chunks), split, start, stop, row + start))
        row += len(examples)
    return chunks


class Progress:
    """What the chunks that are done add up to.

    Attributes:
        numbers: of the chunks.
        images: how many there are in them.
        counts: how often each of the 256 values occurs in each channel, by split.
        damaged: images that cannot be read, by split, in order.
    """

    def __init__(self, splits: Mapping[str, Examples]) -> None:
        self.numbers: set[int] = set()
        self.images = 0
        self.counts = {split: np.zeros((3, 256), np.int64) for split in splits}
        self.damaged: dict[str, list[int]] = {split: [] for split in splits}

    def add(self, filled: Filled) -> None:
        """Take a chunk in."""
        chunk = filled.chunk
        self.numbers.add(chunk.number)
        self.images += chunk.stop - chunk.start
        self.counts[chunk.split] += np.array(filled.counts)
        damaged = self.damaged[chunk.split]
        self.damaged[chunk.split] = sorted([*damaged, *(index for index, _ in filled.damaged)])


class _Entry(TypedDict):
    """A line of the journal: `benchmark.packs.filling.Filled` with the number of its chunk."""

    number: int
    counts: list[list[int]]
    damaged: list[tuple[int, str]]
    stamp: str


class Journal:
    """A file with one line for each chunk that is safely on the disk.

    Attributes:
        continues: whether there is a journal of the same chunks of the same state.
    """

    NAME = "journal.jsonl"

    def __init__(self, work: Path, state: str, chunks: Sequence[Chunk]) -> None:
        self._path = work / self.NAME
        self._chunks = chunks
        numbered = hashlib.sha256(repr(chunks).encode()).hexdigest()
        self._first = json.dumps({"state": state, "chunks": numbered}) + "\n"
        self.continues = self._path.exists() and self._first == self._first_line()

    def _first_line(self) -> str:
        with self._path.open(encoding="utf-8", errors="replace") as file:
            return file.readline()

    def discard(self) -> None:
        """Forget all, before the arrays are removed."""
        self._path.unlink(missing_ok=True)

    def begin(self) -> None:
        """Start anew, once empty arrays are there."""
        self._path.write_text(self._first)

    def replay(self, splits: Mapping[str, Examples]) -> Iterator[Filled]:
        """What is done, of images whose files are as they were; the rest is struck out."""
        valid = [self._first]
        with self._path.open(encoding="utf-8", errors="replace") as file:
            next(file)
            for line in file:
                try:
                    entry: Any = parsed_json(line)
                except ValueError:  # cut off by a crash
                    break
                if not line.endswith("\n") or misfit(entry, _Entry, "it") is not None:
                    break
                chunk = self._chunks[entry["number"]]
                files = splits[chunk.split].files(chunk.start, chunk.stop)
                if entry["stamp"] == stamp_of(files):
                    valid.append(line)
                    damaged = [(index, problem) for index, problem in entry["damaged"]]
                    yield Filled(chunk, entry["counts"], damaged, entry["stamp"])
        # Now, as the rows of what is struck out are about to be written over.
        write_text(self._path, "".join(valid))

    def __enter__(self) -> Journal:
        self._file = self._path.open("a")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, filled: Filled) -> None:
        """Note a chunk."""
        entry = {
            "number": filled.chunk.number,
            "counts": filled.counts,
            "damaged": filled.damaged,
            "stamp": filled.stamp,
        }
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
