"""Arrays in .npy files that may be larger than memory, written and read row by row."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

_BLOCK = 1 << 24  # bytes read at once
# Not in `mmap` before Python 3.13. Without it Linux refuses a copy-on-write map larger than memory,
# as if every page of it were to be changed.
_NORESERVE = 0x4000 if sys.platform == "linux" else 0


@dataclass(frozen=True)
class ArrayFile:
    """A .npy file in C order whose first axis counts rows.

    Attributes:
        path: of the file.
        dtype: of the elements.
        shape: of the whole array.
        offset: where the elements begin, in bytes.
    """

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def create(cls, path: Path, dtype: str, shape: tuple[int, ...]) -> ArrayFile:
        """Make a file of zeros that takes no room before rows are written."""
        header = io.BytesIO()
        described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, described)
        with path.open("wb") as file:
            file.write(header.getvalue())
            file.truncate(len(header.getvalue()) + prod(shape) * np.dtype(dtype).itemsize)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> ArrayFile:
        """Read the header and compare the size of the file with it.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it is damaged, saying how.
        """
        with path.open("rb") as file:
            try:
                np.lib.format.read_magic(file)
                shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            except Exception as error:  # damaged bytes make its parser raise nearly anything
                raise ValueError(f"it has no header of a .npy file: {error}") from error
            offset = file.tell()
            size = os.fstat(file.fileno()).st_size
        if fortran_order or dtype.hasobject:
            raise ValueError("it is not in C order, or holds Python objects")
        expected = offset + prod(shape) * dtype.itemsize
        if size != expected:
            raise ValueError(f"it is {size:,} bytes long where {expected:,} are expected")
        return cls(path, dtype, shape, offset)

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    def write(self, start: int, rows: np.ndarray) -> None:
        """Write rows and return when they are on the disk; several processes may do so at once."""
        assert rows.dtype == self.dtype
        assert rows.shape[1:] == self.shape[1:]
        left = np.ascontiguousarray(rows).data.cast("B")
        at = self.offset + start * self.row_bytes
        # Not through a memory map, where a full disk ends the process instead of raising.
        with self.path.open("r+b") as file:
            while left:
                written = os.pwrite(file.fileno(), left, at)
                left, at = left[written:], at + written
            os.fdatasync(file.fileno())

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows from ``start`` to before ``stop``, a few at a time.

        The memory of a block is used again for the next one.
        """
        step = max(1, _BLOCK // self.row_bytes)
        buffer = np.empty((min(step, stop - start), *self.shape[1:]), self.dtype)
        with self.path.open("rb") as file:
            file.seek(self.offset + start * self.row_bytes)
            for first in range(start, stop, step):
                block = buffer[: min(step, stop - first)]
                if file.readinto(block.data.cast("B")) != block.nbytes:
                    raise EOFError(f"{self.path} ends early")
                yield block

    def map(self) -> np.ndarray:
        """The whole array, memory-mapped; changes to it stay in memory."""
        with self.path.open("rb") as file:
            mapped = mmap.mmap(
                file.fileno(),
                0,
                flags=mmap.MAP_PRIVATE | _NORESERVE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
            )
        count = prod(self.shape)
        return np.frombuffer(mapped, self.dtype, count, self.offset).reshape(self.shape)


def digest_of_blocks(dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> str:
    """The `benchmark.data.digest` of an array that is read in contiguous blocks of rows."""
    state = hashlib.sha256(f"{dtype.str} {shape} ".encode())
    for block in blocks:
        state.update(block.data)
    return state.hexdigest()
