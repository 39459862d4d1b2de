"""Any folder of images: class subfolders, or images without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int64, Shaped

from benchmark.errors import UserError
from benchmark.sources.checks import listed
from benchmark.sources.examples import compact, list_files
from benchmark.sources.source import Contents, Examples, Source
from benchmark.sources.tree import SUFFIXES, images_and_subfolders

_LAYOUT = "put images directly into it, or into one subfolder per class"


class Folder(Source):
    """Images in files of their own.

    Each folder holds one subfolder per class, or images without labels. Hidden files and files that
    are not images are ignored.

    Args:
        splits: names of the folders that hold the splits; None if there is one split, "train",
            directly in the source folder.
        on_bad_image: "error" stops at images that cannot be read, "skip" leaves them out.
    """

    version: ClassVar[int] = 1
    expects: ClassVar[str] = (
        "DIR/SPLIT/CLASS/*.jpg or DIR/SPLIT/*.jpg for each of data.source.splits"
    )

    def __init__(self, splits: list[str] | None = None, on_bad_image: str = "error") -> None:
        if on_bad_image not in ("error", "skip"):
            raise UserError(f'on_bad_image="{on_bad_image}" is unknown; use "error" or "skip".')
        self.splits = splits
        self.on_bad_image = on_bad_image

    def open(self, folder: Path, scratch: Path, *, trust: bool) -> Contents:
        """See the contract."""
        listings = self._listings(folder)
        check_alike(listings)
        splits: dict[str, Examples] = {}
        for number, (split, found) in enumerate(listings.items()):
            file = scratch / f"names{number}"
            splits[split] = list_files(found.folder, found.names, found.labels, file)
        classes = next(iter(listings.values())).class_names
        return Contents(
            splits,
            {"class": classes} if classes else {},
            skip_damaged=self.on_bad_image == "skip",
            remedy="repair or remove them, or set data.on_bad_image=skip (data=folder) or "
            "data.source.on_bad_image=skip (data=images)",
            files=(),
        )

    def _listings(self, folder: Path) -> dict[str, Listing]:
        if self.splits is None:
            return {"train": list_folder("source", folder)}
        if missing := [name for name in self.splits if not (folder / name).is_dir()]:
            raise UserError(
                f"source={folder} has no folder {missing[0]} for that split; name its folders with "
                "data.source.splits=[...], or have a single split with data.source.splits=null "
                "data.test=null."
            )
        return {name: list_folder(name, folder / name) for name in self.splits}


@dataclass(frozen=True)
class Listing:
    """What a folder of images holds.

    Attributes:
        folder: what the names are relative to.
        names: `benchmark.sources.examples.compact` paths of the files, class by class.
        labels: "class" of each image; empty without classes.
        class_names: of the subfolders; empty without classes.
    """

    folder: Path
    names: Shaped[np.ndarray, "n"]
    labels: dict[str, Int64[np.ndarray, "n"]]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def paths(self) -> Iterator[Path]:
        """Where the images lie."""
        return (self.folder / os.fsdecode(name) for name in self.names)


def list_folder(argument: str, given: str | Path) -> Listing:
    """The images of a folder, sorted by class and name.

    Args:
        argument: what gave the folder, for messages.
        given: the folder.

    Raises:
        UserError: if it is none, or is laid out otherwise.
    """
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise UserError(f"{argument}={folder} is not a folder; give the path of one with images.")
    images, classes = images_and_subfolders(folder)
    if images and classes:
        raise UserError(
            f"{argument}={folder} has both images ({images[0]}, ...) and subfolders "
            f"({classes[0]}, ...); {_LAYOUT}, not both."
        )
    parts = [compact(images)]
    for class_name in classes:
        members, nested = images_and_subfolders(folder / class_name)
        if nested:
            raise UserError(
                f"{folder / class_name} has subfolders ({nested[0]}, ...) where images are "
                f"expected; give {argument} a folder whose subfolders are the classes."
            )
        if not members:
            raise UserError(
                f"class folder {folder / class_name} has no images ({', '.join(SUFFIXES)}); "
                "fill or remove it."
            )
        parts.append(compact(f"{class_name}/{member}" for member in members))
    names = np.concatenate(parts)
    if len(names) < 2:
        raise UserError(
            f"{argument}={folder} has {len(names)} images ({', '.join(SUFFIXES)}) and at least 2 "
            f"are needed; {_LAYOUT}."
        )
    labels = {"class": np.repeat(np.arange(len(classes)), [*map(len, parts[1:])])}
    return Listing(folder, names, labels if classes else {}, tuple(classes))


def check_alike(listings: Mapping[str, Listing]) -> None:
    """Refuse folders of different classes.

    Args:
        listings: by what gave the folder, for messages.

    Raises:
        UserError: naming the classes that differ.
    """
    (one, first), *others = listings.items()
    for other, second in others:
        if bool(first.class_names) != bool(second.class_names):
            flat, classed = (first, second) if second.class_names else (second, first)
            raise UserError(
                f"{classed.folder} has class subfolders but {flat.folder} has images without "
                f"classes; give {one} and {other} the same layout."
            )
        missing = set(first.class_names) - set(second.class_names)
        extra = set(second.class_names) - set(first.class_names)
        if missing or extra:
            raise UserError(
                f"the classes of {other}={second.folder} differ from those of {one}="
                f"{first.folder}: missing {listed(sorted(missing))}, extra "
                f"{listed(sorted(extra))}; give both folders the same subfolders."
            )
