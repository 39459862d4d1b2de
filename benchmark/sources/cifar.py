"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32 px, 50,000 and 10,000 images.

The data set's site distributes pickles; mirrors also distribute the images as files, in one folder
per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64, UInt8

from benchmark.errors import UserError
from benchmark.sources.archives import find_members
from benchmark.sources.checks import check_counts, listed, wrong_layout
from benchmark.sources.examples import RawExamples
from benchmark.sources.pickles import read_pickle
from benchmark.sources.source import Contents, Examples, Source
from benchmark.sources.tree import class_tree, images_and_subfolders
from benchmark.type_check import misfit

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
    """The pickles if they are there, else the tree; ``official`` is torchvision's class."""
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
    meta = folder / official.meta["filename"]
    names = _field(meta, _read(meta), (official.meta["key"],), list[str])
    splits: dict[str, Examples] = {}
    for split, files in (("train", official.train_list), ("test", official.test_list)):
        labels = []
        with (scratch / split).open("wb") as file:
            for name, _ in files:
                pixels, batch_labels = _read_batch(folder / name, len(names))
                file.write(pixels.tobytes())
                labels.append(batch_labels)
        splits[split] = RawExamples(
            scratch / split,
            f"{folder}, split {split}",
            shape=(3, 32, 32),
            axes=(1, 2, 0),
            labels={"class": np.concatenate(labels)},
        )
    return splits, tuple(names)


def _read_batch(
    path: Path, num_classes: int
) -> tuple[UInt8[np.ndarray, "n 3072"], Int64[np.ndarray, "n"]]:
    """Pixels, channel after channel, and labels of one pickle."""
    content = _read(path)
    labels = np.array(_field(path, content, ("labels", "fine_labels"), list[int]), np.int64)
    try:
        pixels = content["data"].to_numpy().reshape(-1, 3072)
    except Exception as error:  # as of damaged bytes
        raise _unreadable(path, error) from error
    if len(pixels) != len(labels):
        raise UserError(
            f"{path} has {len(pixels)} images and {len(labels)} labels where as many labels as "
            "images are expected; download it again."
        )
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UserError(
            f"{path} has the label {wrong[0]} where 0 to {num_classes - 1} are expected; "
            "download it again."
        )
    return pixels, labels


def _read(path: Path) -> Any:
    try:
        return read_pickle(path)
    except Exception as error:  # damaged bytes raise nearly anything
        raise _unreadable(path, error) from error


def _field(path: Path, content: Any, keys: Sequence[str], hint: Any) -> Any:
    """What a pickle holds under the first of the keys that it has."""
    fault = misfit(content, dict[Any, Any], "it")
    key = next((key for key in keys if not fault and key in content), None)
    fault = fault or (f"it lacks {keys[0]}" if key is None else misfit(content[key], hint, key))
    if fault is not None:
        raise _unreadable(path, ValueError(fault))
    return content[key]


def _unreadable(path: Path, error: Exception) -> UserError:
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return UserError(f"{path} cannot be read ({why}); download it again.")
