"""ImageNet100: the 100 classes of ImageNet that CMC (Tian et al. 2020, section 4.2) chose."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

from benchmark.errors import UserError
from benchmark.sources.checks import check_counts, wrong_layout
from benchmark.sources.source import Contents, Source
from benchmark.sources.tree import class_tree, images_and_subfolders

CLASS_LIST = Path(__file__).with_name("imagenet100.txt")

_LIST_SHA256 = "5ee5db69d488bb799a286d8e181801c3d02798776c1ce9203e5450f64e086e07"
_COUNTS = {"train": 126_689, "test": 5_000}
_FOLDERS = {"train": "train", "test": "val"}  # ImageNet's own test labels were never published


class ImageNet100(Source):
    """A tree of ImageNet (ILSVRC 2012) with its 1,000 classes, or with these 100 alone.

    The classes are named by their WordNet ids and sorted by them.
    """

    version: ClassVar[int] = 1
    expects: ClassVar[str] = "DIR/train/WNID/*.JPEG with DIR/val/WNID/*.JPEG"

    def open(self, folder: Path, scratch: Path, *, trust: bool) -> Contents:
        """See the contract."""
        classes = class_list()
        for inside in _FOLDERS.values():
            if not (folder / inside).is_dir():
                raise wrong_layout(folder, self.expects)
            loose, classed = images_and_subfolders(folder / inside)
            if loose and not classed:
                raise UserError(
                    f"{folder / inside} holds images ({loose[0]}, ...) where one folder per class "
                    "is expected; move each image into a folder named by the WordNet id of its "
                    "class, for the validation images that of ILSVRC2012_devkit_t12."
                )
        trees = {
            split: class_tree(folder / inside, classes, scratch / split)
            for split, inside in _FOLDERS.items()
        }
        check_counts(folder, trees, _COUNTS, trust=trust)
        return Contents(dict(trees), {"class": classes}, files=())


def class_list() -> tuple[str, ...]:
    """WordNet ids of the 100 classes, sorted.

    Raises:
        UserError: if the list is not the one that this code was written for.
    """
    content = CLASS_LIST.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != _LIST_SHA256:
        raise UserError(
            f"{CLASS_LIST} has the SHA-256 {found} where {_LIST_SHA256} is expected; "
            "install maskbench again."
        )
    return tuple(content.decode().split())
