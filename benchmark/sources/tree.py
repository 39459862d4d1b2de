"""Trees of images with one folder per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmark.contracts import UserError
from benchmark.sources.checks import listed
from benchmark.sources.examples import FileExamples, list_files

SUFFIXES = (".jpeg", ".jpg", ".png")


def subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder, without hidden ones."""
    entries = os.scandir(folder)
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def images_in(folder: Path) -> list[str]:
    """Sorted names of the images in a folder, without hidden ones."""
    names = (entry.name for entry in os.scandir(folder))
    return sorted(n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith("."))


def class_tree(folder: Path, classes: Sequence[str], listing: Path) -> FileExamples:
    """The images of ``folder/CLASS/*``, class by class, sorted by name within each.

    Args:
        folder: with one folder per class.
        classes: names of the folders to read.
        listing: file to write for `FileExamples`.

    Raises:
        UserError: naming the classes without a folder or without images.
    """
    members = {
        name: images_in(folder / name) if (folder / name).is_dir() else [] for name in classes
    }
    empty = [name for name, images in members.items() if not images]
    if empty:
        raise UserError(
            f"{folder} lacks images ({', '.join(SUFFIXES)}) of the classes {listed(empty)}; "
            f"it must hold one folder with images for each of {len(members)} classes."
        )
    names = (f"{name}/{image}" for name, images in members.items() for image in images)
    counts = [len(images) for images in members.values()]
    labels = {"class": np.repeat(np.arange(len(counts)), counts)}
    return list_files(folder, names, labels, listing)
