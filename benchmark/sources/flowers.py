"""Flowers102 (Nilsback and Zisserman 2008): 1,020 + 1,020 + 6,149 images of 102 classes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int64

from benchmark.errors import UserError
from benchmark.sources.archives import unpack
from benchmark.sources.checks import check_counts, check_md5s, check_present, wrong_layout
from benchmark.sources.examples import compact, list_files
from benchmark.sources.source import Contents, Source

# As in torchvision, whose own reader tells neither which file is wrong nor where its files are.
_MD5 = {
    "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
}
_ARCHIVE = {"102flowers.tgz": "52808999861908f626f3c1f4e79d11fa"}
_SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}
_COUNTS = {"train": 1_020, "val": 1_020, "test": 6_149}


class Flowers102(Source):
    """Images as files, labels and splits as MATLAB arrays that count from 1."""

    version: ClassVar[int] = 1
    expects: ClassVar[str] = (
        "DIR/102flowers.tgz or DIR/jpg/, with DIR/imagelabels.mat and DIR/setid.mat"
    )

    def open(self, folder: Path, scratch: Path, *, trust: bool) -> Contents:
        """See the contract."""
        from torchvision import datasets  # slow, and needed here alone

        (archive,) = _ARCHIVE
        if not (folder / "jpg").is_dir() and not (folder / archive).is_file():
            raise wrong_layout(folder, self.expects)
        checksums = check_md5s(folder, _MD5, trust=trust)
        labels = _read(folder / "imagelabels.mat", "labels") - 1
        ids = {split: _read(folder / "setid.mat", key) for split, key in _SPLITS.items()}
        classes = tuple(datasets.Flowers102.classes)
        _check_range(folder / "imagelabels.mat", labels + 1, len(classes))
        for members in ids.values():
            _check_range(folder / "setid.mat", members, len(labels))
        if (folder / "jpg").is_dir():
            images = folder / "jpg"
        else:
            checksums |= check_md5s(folder, _ARCHIVE, trust=trust)
            images = unpack(folder / archive, scratch) / "jpg"
        splits = {}
        for split, members in ids.items():
            names = [f"image_{number:05d}.jpg" for number in members.tolist()]
            check_present(images, names)
            theirs = {"class": labels[members - 1]}
            splits[split] = list_files(images, compact(names), theirs, scratch / split)
        check_counts(folder, splits, _COUNTS, trust=trust)
        files = [folder / name for name in checksums]
        return Contents(dict(splits), {"class": classes}, checksums=checksums, files=files)


def _read(path: Path, key: str) -> Int64[np.ndarray, "n"]:
    """One row of whole numbers."""
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(path)[key], np.int64).reshape(-1)
    except Exception as error:  # damaged bytes make scipy raise nearly anything
        raise UserError(
            f"{path} cannot be read as a MATLAB file with the array {key} "
            f"({type(error).__name__}: {error}); download it again."
        ) from error


def _check_range(path: Path, numbers: Int64[np.ndarray, "n"], last: int) -> None:
    wrong = numbers[(numbers < 1) | (numbers > last)]
    if len(wrong):
        raise UserError(
            f"{path} has the number {wrong[0]} where 1 to {last} are expected; download it again."
        )
