"""ImageNet100 out of a tree of ImageNet."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import UserError
from benchmark.sources import imagenet

OTHERS = ("n01440764", "n15075141")  # the first and the last class of ImageNet, not of these 100


def tree(root):
    """Two training images and one for validation of each class, in the sizes of photographs."""
    for number, wnid in enumerate((*imagenet.class_list(), *OTHERS)):
        names = {
            "train": [f"{wnid}_{k}.JPEG" for k in (10, 9)],
            "val": [f"ILSVRC2012_val_{number:08d}.JPEG"],
        }
        for inside, files in names.items():
            (root / inside / wnid).mkdir(parents=True)
            for name in files:
                Image.new("RGB", (20, 10), (number, 0, 0)).save(root / inside / wnid / name)
    return root


def opened(folder, trust=True):
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return imagenet.ImageNet100().open(folder, scratch, trust=trust)


def refused(message, folder, **arguments):
    with pytest.raises(UserError) as caught:
        opened(folder, **arguments)
    assert re.search(message, str(caught.value)), caught.value


def test_class_list__is_sorted_and_leaves_900_classes_out():
    wnids = imagenet.class_list()
    assert len(set(wnids)) == 100
    assert [*wnids] == sorted(wnids)
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids)
    assert not set(wnids) & set(OTHERS)


def test_class_list__change_is_found(tmp_path, monkeypatch):
    changed = tmp_path / "imagenet100.txt"
    changed.write_text(imagenet.CLASS_LIST.read_text().replace("n01558993", "n01440764"))
    monkeypatch.setattr(imagenet, "CLASS_LIST", changed)
    with pytest.raises(UserError, match=r"has the SHA-256 .* install maskbench again"):
        imagenet.class_list()


def test_imagenet100__reads_its_classes_alone(tmp_path):
    folder = tree(tmp_path)
    contents = opened(folder)
    wnids = imagenet.class_list()
    assert contents.class_names == {"class": wnids}
    train, test = contents.splits["train"], contents.splits["test"]
    assert test.labels["class"].tolist() == [*range(100)]
    assert train.labels["class"].tolist() == [label for label in range(100) for _ in range(2)]
    assert train.origin(0) == str(folder / "train" / wnids[0] / f"{wnids[0]}_10.JPEG")
    assert train.origin(1) == str(folder / "train" / wnids[0] / f"{wnids[0]}_9.JPEG")
    assert [*train.files(0, 2)] == [Path(train.origin(0)), Path(train.origin(1))]
    image = test.read(42).image
    assert image.size == (20, 10)
    assert np.abs(np.asarray(image).astype(int) - (42, 0, 0)).max() < 4


def test_imagenet100__wrong_counts(tmp_path, monkeypatch):
    folder = tree(tmp_path)
    refused("has 200 images in split train where 126,689 are published", folder, trust=False)
    monkeypatch.setattr(imagenet, "_COUNTS", {"train": 200, "test": 100})
    opened(folder, trust=False)


def test_imagenet100__missing_classes_are_named(tmp_path):
    folder = tree(tmp_path)
    first, *_, last = imagenet.class_list()
    shutil.rmtree(folder / "val" / last)
    for path in (folder / "val" / first).iterdir():
        path.unlink()
    refused(f"/val lacks images .* of the classes {first}, {last};", folder)


def test_imagenet100__flat_validation_folder(tmp_path):
    folder = tree(tmp_path)
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    refused("/val lacks images", folder)
    for k in (2, 1):
        Image.new("RGB", (8, 8)).save(folder / f"val/ILSVRC2012_val_0000000{k}.JPEG")
    message = r"/val holds images \(ILSVRC2012_val_00000001.JPEG, ...\) where one folder per class"
    refused(message, folder)


def test_imagenet100__wrong_layout(tmp_path):
    (tmp_path / "ILSVRC").mkdir()
    refused(r"holds ILSVRC/, scratch/ where DIR/train/WNID/\*\.JPEG with", tmp_path)
