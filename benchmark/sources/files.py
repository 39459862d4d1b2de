"""The images of a user's folders; what workers import, so no more than decoding needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int64, Shaped

from benchmark.sources.examples import read_image
from benchmark.sources.source import Examples, Sample


@dataclass(frozen=True)
class FolderExamples(Examples):
    """Images of a folder, in one subfolder per class or without classes.

    Attributes:
        folder: what the names are relative to.
        names: of the files, as `benchmark.sources.examples.compact` makes them, class by class.
        labels: as in the contract.
        class_names: of the subfolders; empty without classes.
    """

    folder: Path
    names: Shaped[np.ndarray, "n"]
    labels: dict[str, Int64[np.ndarray, "n"]] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    remedy: ClassVar[str] = "repair or remove it, or set on_bad_image=skip"

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Path]:
        return map(self.path, range(len(self)))

    def path(self, index: int) -> Path:
        """Where an image lies."""
        return self.folder / os.fsdecode(self.names[index])

    def read(self, index: int) -> Sample:
        """See the contract."""
        return Sample(read_image(self.path(index)))

    def origin(self, index: int) -> str:
        """See the contract."""
        return str(self.path(index))

    def lacking(self, kept: Int64[np.ndarray, "k"]) -> str | None:
        """See the contract."""
        if len(kept) < 2:
            return (
                f"only {len(kept)} of {len(self)} images in {self.folder} can be read and "
                "at least 2 are needed; repair the others."
            )
        for labels in self.labels.values():
            if lost := np.setdiff1d(labels, labels[kept]).tolist():
                folder = self.path(int(np.argmax(labels == lost[0]))).parent
                return (
                    f"class folder {folder} has no image that can be read; "
                    "repair its images or remove it."
                )
        return None
