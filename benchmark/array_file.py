"""Arrays in an .npz file; read, whoever wrote it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmark.files import write_atomically

_LARGEST = 1 << 30  # bytes of all arrays: many times what the masks of a run take


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file that `read_arrays` reads, in one step; the same arrays give the same bytes."""

    def write(part: Path) -> None:
        with part.open("wb") as file:  # given a name, numpy would append a suffix
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read every array of a file; nothing in it is executed.

    Raises:
        ValueError: naming the file, if it is broken, holds Python objects, or unfolds to more than
            masks can.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # of which no more is read than its list tells
            size = sum(member.file_size for member in archive.infolist())
        if size > _LARGEST:
            raise ValueError(f"it unfolds to {size:,} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # broken bytes raise whatever they happen to lead to
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{path} is broken ({why}); delete it to have it made again") from error
    return {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
