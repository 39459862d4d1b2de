"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32 px, 50,000 and 10,000 images.

The pickles of the data set's site are read by torchvision, after their checksums; mirrors also
distribute the images as files, in one folder per class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64, UInt8

from benchmark.errors import UserError
from benchmark.sources.archives import find_members
from benchmark.sources.checks import check_counts, listed, wrong_layout
from benchmark.sources.examples import RawExamples
from benchmark.sources.source import Contents, Examples, Source
from benchmark.sources.tree import class_tree, images_and_subfolders

_COUNTS = {"train": 50_000, "test": 10_000}
_TREE = "DIR/train/CLASS/*.jpg with DIR/test/CLASS/*.jpg"
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"


class CIFAR10(Source):
    """CIFAR-10, ten classes."""

    version: ClassVar[int] = 1
    expects: ClassVar[str] = f"DIR/cifar-10-python.tar.gz, DIR/cifar-10-batches-py/ or {_TREE}"

    def open(self, folder: Path, scratch: Path, *, trust: bool) -> Contents:
        """See the contract."""
        from torchvision import datasets  # slow: imports torch

        contents = _open(datasets.CIFAR10, self.expects, folder, scratch, trust=trust)
        classes = contents.class_names["class"]
        if classes != tuple(_CIFAR10.split()):
            raise UserError(
                f"{folder} has the classes {listed(classes)} where CIFAR-10 has {_CIFAR10}; "
                "name them so, or use data=images for other classes."
            )
        return contents


class CIFAR100(Source):
    """CIFAR-100, one hundred fine classes."""

    version: ClassVar[int] = 1
    expects: ClassVar[str] = f"DIR/cifar-100-python.tar.gz, DIR/cifar-100-python/ or {_TREE}"

    def open(self, folder: Path, scratch: Path, *, trust: bool) -> Contents:
        """See the contract."""
        from torchvision import datasets

        contents = _open(datasets.CIFAR100, self.expects, folder, scratch, trust=trust)
        classes = contents.class_names["class"]
        if len(classes) != 100:
            raise UserError(
                f"{folder} has {len(classes)} classes where CIFAR-100 has 100; "
                "complete it, or use data=folder for other classes."
            )
        return contents


def _open(official: Any, expects: str, folder: Path, scratch: Path, *, trust: bool) -> Contents:
    """The pickles if they are there, else the tree; ``official`` is torchvision's reader."""
    meta = (official.meta["filename"], official.meta["md5"])
    pickles = dict([meta, *official.train_list, *official.test_list])
    found = find_members(official, pickles, folder, scratch, trust=trust)
    if found is None:
        return _read_tree(folder, expects, scratch, trust=trust)
    unpacked, checksums = found
    splits, classes = _read_pickles(official, unpacked, scratch)
    check_counts(folder, splits, _COUNTS, trust=trust)
    files = [folder / name for name in checksums]
    return Contents(splits, {"class": classes}, checksums=checksums, files=files)


def _read_tree(folder: Path, expects: str, scratch: Path, *, trust: bool) -> Contents:
    if not all((folder / split).is_dir() for split in _COUNTS):
        raise wrong_layout(folder, expects)
    classes = tuple(images_and_subfolders(folder / "train")[1])
    trees = {split: class_tree(folder / split, classes, scratch / split) for split in _COUNTS}
    check_counts(folder, trees, _COUNTS, trust=trust)
    return Contents(dict(trees), {"class": classes}, files=())


def _read_pickles(
    official: Any, folder: Path, scratch: Path
) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Both splits and the names of the classes."""
    splits: dict[str, Examples] = {}
    classes: tuple[str, ...] = ()
    for split, files in (("train", official.train_list), ("test", official.test_list)):
        labels = []
        with (scratch / split).open("wb") as file:
            for name, _ in files:
                pixels, batch_labels, classes = _read_pickle(official, folder / name)
                file.write(pixels.tobytes())
                labels.append(batch_labels)
        splits[split] = RawExamples(
            scratch / split,
            f"{folder}, split {split}",
            shape=(32, 32, 3),
            axes=(0, 1, 2),
            labels={"class": np.concatenate(labels)},
        )
    return splits, classes


def _read_pickle(
    official: Any, path: Path
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int64[np.ndarray, "n"], tuple[str, ...]]:
    """Pixels and labels of one pickle and the names of the classes, by torchvision's reader."""
    # The reader of a single file, without the checksums: those are ours to check or to trust.
    changes = {
        "base_folder": "",
        "train_list": [[path.name, None]],
        "test_list": [],
        "meta": {**official.meta, "md5": None},
    }
    try:
        reader = type(official.__name__, (official,), changes)(path.parent)
        pixels, labels = reader.data, np.array(reader.targets, np.int64)
        classes = tuple(reader.classes)
    except Exception as error:  # unpickling damaged bytes raises nearly anything
        raise UserError(
            f"{path} or {official.meta['filename']} beside it cannot be read "
            f"({type(error).__name__}: {' '.join(str(error).split())}); download it again."
        ) from error
    if pixels.dtype != np.uint8 or len(pixels) != len(labels):
        raise UserError(
            f"{path} has {len(pixels)} images of {pixels.dtype} and {len(labels)} labels where as "
            "many labels as images of uint8 are expected; download it again."
        )
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if len(wrong):
        raise UserError(
            f"{path} has the label {wrong[0]} where 0 to {len(classes) - 1} are expected; "
            "download it again."
        )
    return pixels, labels, classes
