"""Pickles of plain values and arrays of bytes, read without calling anything that they name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8


@dataclass
class ByteArray:
    """What is pickled of a numpy array."""

    state: Any = field(default=None, init=False)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def to_numpy(self) -> UInt8[np.ndarray, "..."]:
        """The array.

        Raises:
            ValueError: if it is none of bytes.
        """
        _, shape, dtype, in_columns, content = self.state
        if not isinstance(dtype, _Type) or dtype.name not in ("u1", b"u1"):
            raise ValueError("an array in it is not of uint8")
        # Python 2 had one type for text and bytes.
        raw = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if in_columns else "C")


@dataclass
class _Type:
    """What is pickled of a numpy type: its name, and details that are the same for all bytes."""

    name: Any

    def __setstate__(self, _: Any) -> None:
        pass


class _Named:
    """Stands for a function or class of numpy that a pickle names, and cannot be changed by it."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


def _encoded(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it has bytes in {encoding}")
    return text.encode("latin1")


_KNOWN = {
    "numpy.ndarray": _Named(ByteArray),
    "numpy.dtype": _Named(lambda name, *_: _Type(name)),
    "numpy.core.multiarray._reconstruct": _Named(lambda *_: ByteArray()),
    "numpy._core.multiarray._reconstruct": _Named(lambda *_: ByteArray()),
    "_codecs.encode": _Named(_encoded),  # bytes, as Python 3 writes them for Python 2
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if found := _KNOWN.get(f"{module}.{name}"):
            return found
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no data")


def read_pickle(path: Path) -> Any:
    """The content of a pickle of Python 2 or 3, with `ByteArray` for the arrays in it.

    Raises:
        Exception: nearly any, if it is damaged or names more than arrays.
    """
    with path.open("rb") as file:
        return _Unpickler(file, encoding="latin1").load()
