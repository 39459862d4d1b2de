"""PASCAL VOC 2012 segmentation (Everingham et al. 2010), and other sets in its layout."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import ClassVar

from benchmark.errors import UserError
from benchmark.sources.archives import unpack
from benchmark.sources.checks import (
    check_counts,
    check_md5s,
    check_present,
    listed,
    read_text,
    wrong_layout,
)
from benchmark.sources.examples import IGNORED, SegmentedExamples
from benchmark.sources.source import Contents, Examples, Source

CLASS_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
)

_LISTS = "ImageSets/Segmentation"
_PAIR = re.compile(r"(.+\.jpg)\s+.+\.png")  # paths of an image and of its classes
_COUNTS = {"train": 1_464, "aug": 9_118, "val": 1_449}


class VOCSegmentation(Source):
    """Images as JPEG, classes of pixels as PNG with a palette, splits as lists of names.

    Args:
        trainaug: add the split "aug", what ImageSets/Segmentation/trainaug.txt lists beyond train,
            with the labels of Hariharan et al. (2011) in SegmentationClassAug/.
        num_classes: classes of another set in this layout; None for VOC's 21, whose counts are
            then checked.
        class_names: their names, as many.
    """

    version: ClassVar[int] = 1
    expects: ClassVar[str] = (
        "DIR/VOCtrainval_11-May-2012.tar or VOC2012/ with JPEGImages/, SegmentationClass/ and "
        "ImageSets/Segmentation/ as DIR/VOCdevkit/VOC2012/, DIR/VOC2012/ or DIR itself"
    )

    def __init__(
        self,
        *,
        trainaug: bool = False,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.trainaug = trainaug
        self.num_classes = num_classes
        self.class_names = None if class_names is None else [*class_names]
        self._names = CLASS_NAMES.split() if self._is_voc else self.class_names or []
        self._count = len(self._names) if num_classes is None else num_classes
        if self._names and len(self._names) != self._count:
            raise UserError(
                f"data.source.class_names has {len(self._names)} names where "
                f"data.source.num_classes={num_classes}; give as many, or null."
            )
        if not 2 <= self._count <= IGNORED:
            raise UserError(
                f"data.source.num_classes={self._count} must be from 2 to {IGNORED}, "
                f"as the value {IGNORED} marks pixels that do not count."
            )

    @property
    def _is_voc(self) -> bool:
        return self.num_classes is None and self.class_names is None

    def open(self, folder: Path, scratch: Path, *, trust: bool) -> Contents:
        """See the contract."""
        root, checksums = self._find(folder, scratch, trust=trust)
        names = {split: _names(root, split) for split in ("train", "val")}
        annotated = dict.fromkeys(names, "SegmentationClass")
        if self.trainaug:
            known = set(names["train"])
            more = tuple(name for name in _names(root, "trainaug") if name not in known)
            names = {"train": names["train"], "aug": more, "val": names["val"]}
            annotated["aug"] = "SegmentationClassAug"
        for (first, ours), (second, theirs) in combinations(names.items(), 2):
            shared = sorted(set(ours) & set(theirs))
            if shared:
                raise UserError(
                    f"{root / _LISTS} lists {listed(shared)} in both {first} and "
                    f"{second}; leave each image in one of them."
                )
        splits: dict[str, Examples] = {
            split: SegmentedExamples(root, members, annotated[split], self._count)
            for split, members in names.items()
        }
        check_counts(root, splits, _COUNTS if self._is_voc else {}, trust=trust)
        for split, members in names.items():
            check_present(root, (f"JPEGImages/{name}.jpg" for name in members))
            check_present(root, (f"{annotated[split]}/{name}.png" for name in members))
        files = [folder / name for name in checksums]
        contents = Contents(
            splits, pixel_class_names=tuple(self._names), checksums=checksums, files=files
        )
        if self._is_voc:
            return contents
        return replace(contents, remedy="correct them, or set data.source.num_classes")

    def _find(self, folder: Path, scratch: Path, *, trust: bool) -> tuple[Path, dict[str, str]]:
        """The folder of the layout and the checksums that were checked."""
        for root in (folder / "VOCdevkit/VOC2012", folder / "VOC2012", folder):
            if (root / _LISTS / "train.txt").is_file():
                return root, {}
        from torchvision.datasets.voc import DATASET_YEAR_DICT  # slow, and needed here alone

        archive, md5 = (DATASET_YEAR_DICT["2012"][key] for key in ("filename", "md5"))
        if not (folder / archive).is_file():
            raise wrong_layout(folder, self.expects)
        if self.trainaug:
            raise UserError(
                f"{folder / archive} has nothing of trainaug; unpack it, and add "
                f"SegmentationClassAug/ and {_LISTS}/trainaug.txt, which it does not contain."
            )
        checksums = check_md5s(folder, {archive: md5}, trust=trust)
        return unpack(folder / archive, scratch) / "VOCdevkit/VOC2012", checksums


def _names(root: Path, split: str) -> tuple[str, ...]:
    """Names of a split's images; some copies of trainaug.txt give paths of image and label."""
    path = root / _LISTS / f"{split}.txt"
    check_present(root, [f"{_LISTS}/{split}.txt"])
    names = []
    for line in map(str.strip, read_text(path).splitlines()):
        pair = _PAIR.fullmatch(line)
        name = (pair[1] if pair else line).rpartition("JPEGImages/")[2]
        names.append(name.removesuffix(".jpg").removesuffix(".png"))
    counted = Counter(filter(None, names))
    if repeated := [name for name, times in counted.items() if times > 1]:
        raise UserError(f"{path} lists {listed(repeated)} more than once; list each image once.")
    return tuple(counted)
