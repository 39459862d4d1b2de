"""Folders of images, and trees with one folder per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.sources.checks import listed
from benchmark.sources.examples import FileExamples, compact, list_files

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def images_and_subfolders(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of the images and of the subfolders in a folder, without hidden ones.

    Raises:
        UserError: if it cannot be listed.
    """
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
        name: images_and_subfolders(folder / name)[0] if (folder / name).is_dir() else []
        for name in classes
    }
    empty = [name for name, images in members.items() if not images]
    if empty:
        raise UserError(
            f"{folder} lacks images ({', '.join(SUFFIXES)}) of the classes {listed(empty)}; "
            f"it must hold one folder with images for each of {len(members)} classes."
        )
    names = compact(f"{name}/{image}" for name, images in members.items() for image in images)
    counts = [len(images) for images in members.values()]
    labels = {"class": np.repeat(np.arange(len(counts)), counts)}
    return list_files(folder, names, labels, listing)
