"""Any folder of images: class subfolders, or images without labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.contracts import UserError
from benchmark.sources.examples import compact
from benchmark.sources.files import FolderExamples
from benchmark.sources.source import Contents, Source

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")

_LAYOUT = "put images directly into it, or into one subfolder per class"


class Folder(Source):
    """Images in files of their own.

    Each folder holds one subfolder per class, or images without labels. Hidden files and files that
    are not images are ignored.

    Args:
        splits: names of the folders that hold the splits; None if there is one split, "train",
            directly in the source folder.
        on_bad_image: "error" stops at an image that cannot be read, "skip" leaves it out.
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
        if self.splits is None:
            return self.contents({"train": list_folder("source", folder)})
        if missing := [name for name in self.splits if not (folder / name).is_dir()]:
            raise UserError(
                f"source={folder} has no folder {missing[0]} for that split; name its folders with "
                "data.source.splits=[...], or have a single split with data.source.splits=null "
                "data.test=null."
            )
        return self.contents({name: list_folder(name, folder / name) for name in self.splits})

    def contents(self, splits: Mapping[str, FolderExamples]) -> Contents:
        """Splits of the same classes as the contents of a source.

        Raises:
            UserError: if their classes differ.
        """
        first, *others = splits
        for other in others:
            _check_alike(first, splits[first], other, splits[other])
        classes = splits[first].class_names
        return Contents(
            dict(splits),
            {"class": classes} if classes else {},
            skip_damaged=self.on_bad_image == "skip",
            files=chain(*splits.values()),
        )


def list_folder(argument: str, given: str | Path) -> FolderExamples:
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
    images, classes = _listing(folder)
    if images and classes:
        raise UserError(
            f"{argument}={folder} has both images ({images[0]}, ...) and subfolders "
            f"({classes[0]}, ...); {_LAYOUT}, not both."
        )
    parts = [compact(images)]
    for class_name in classes:
        members, nested = _listing(folder / class_name)
        if nested:
            raise UserError(
                f"{folder / class_name} has subfolders ({nested[0]}, ...) where images are "
                f"expected; give {argument} a folder whose subfolders are the classes."
            )
        if not members:
            raise UserError(
                f"class folder {folder / class_name} has no images ({_listed(SUFFIXES)}); "
                "fill or remove it."
            )
        parts.append(compact(f"{class_name}/{member}" for member in members))
    names = np.concatenate(parts)
    if len(names) < 2:
        raise UserError(
            f"{argument}={folder} has {len(names)} images ({_listed(SUFFIXES)}) and at least 2 "
            f"are needed; {_LAYOUT}."
        )
    labels = {"class": np.repeat(np.arange(len(classes)), [*map(len, parts[1:])])}
    return FolderExamples(folder, names, labels if classes else {}, tuple(classes))


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of images and of subfolders, without hidden ones."""
    images, subfolders = [], []
    try:
        entries = [*os.scandir(folder)]
    except OSError as error:
        raise UserError(
            f"{folder} cannot be listed ({error.strerror}); make it readable."
        ) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            subfolders.append(entry.name)
        elif entry.name.lower().endswith(SUFFIXES):
            images.append(entry.name)
    return sorted(images), sorted(subfolders)


def _check_alike(one: str, first: FolderExamples, other: str, second: FolderExamples) -> None:
    if bool(first.class_names) != bool(second.class_names):
        flat, classed = (first, second) if second.class_names else (second, first)
        raise UserError(
            f"{classed.folder} has class subfolders but {flat.folder} has images without classes; "
            f"give {one} and {other} the same layout."
        )
    missing = set(first.class_names) - set(second.class_names)
    extra = set(second.class_names) - set(first.class_names)
    if missing or extra:
        raise UserError(
            f"the classes of {other}={second.folder} differ from those of {one}={first.folder}: "
            f"missing {_listed(sorted(missing))}, extra {_listed(sorted(extra))}; "
            "give both folders the same subfolders."
        )


def _listed(words: Iterable[str]) -> str:
    first, rest = [*words][:10], [*words][10:]
    return (", ".join(first) or "none") + (f" and {len(rest)} more" if rest else "")
