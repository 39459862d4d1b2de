"""Flowers102: MATLAB files that count from 1."""

import re
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets.utils import calculate_md5

from benchmark.errors import UserError
from benchmark.sources import flowers

LABELS = [77, 1, 102, 5, 5, 30, 2]
IDS = {"trnid": [7, 2], "valid": [1], "tstid": [3, 6, 5, 4]}


def files(root, labels=LABELS, ids=IDS):
    (root / "jpg").mkdir(parents=True)
    for number in range(1, 8):
        image = Image.new("RGB", (60, 50), (10 * number, 0, 0))
        image.save(root / f"jpg/image_{number:05d}.jpg")
    savemat(root / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    savemat(root / "setid.mat", {key: np.array([value], np.uint16) for key, value in ids.items()})
    return root


def opened(folder, trust=True):
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return flowers.Flowers102().open(folder, scratch, trust=trust)


def refused(message, folder, **arguments):
    with pytest.raises(UserError) as caught:
        opened(folder, **arguments)
    assert re.search(message, str(caught.value)), caught.value


def publish(monkeypatch, folder):
    md5s = {name: calculate_md5(folder / name) for name in flowers._MD5}
    monkeypatch.setattr(flowers, "_MD5", md5s)
    monkeypatch.setattr(flowers, "_COUNTS", {"train": 2, "val": 1, "test": 4})


def check(contents):
    assert len(contents.class_names["class"]) == 102
    for split, ids in zip(("train", "val", "test"), IDS.values(), strict=True):
        examples = contents.splits[split]
        assert examples.labels["class"].tolist() == [LABELS[number - 1] - 1 for number in ids]
        for k, number in enumerate(ids):
            assert examples.origin(k).endswith(f"jpg/image_{number:05d}.jpg")
            found = np.asarray(examples.read(k).image).astype(int)
            assert np.abs(found - (10 * number, 0, 0)).max() < 4


def test_flowers__labels_and_splits(tmp_path, monkeypatch):
    folder = files(tmp_path / "a")
    refused(r"imagelabels\.mat has the MD5 .* where e0620be6f5", folder, trust=False)
    publish(monkeypatch, folder)
    contents = opened(folder, trust=False)
    check(contents)
    assert [*contents.splits] == ["train", "val", "test"]
    assert contents.class_names["class"][76] == "passion flower"
    assert [*contents.checksums] == ["imagelabels.mat", "setid.mat"]
    monkeypatch.setattr(flowers, "_COUNTS", {"train": 1_020})
    refused("has 2 images in split train where 1,020 are published", folder, trust=False)


def test_flowers__archive(tmp_path):
    folder = files(tmp_path / "a")
    with tarfile.open(folder / "102flowers.tgz", "w:gz") as archive:
        archive.add(folder / "jpg", "jpg")
    (folder / "jpg").rename(tmp_path / "elsewhere")
    contents = opened(folder)
    check(contents)
    assert "102flowers.tgz" in contents.checksums
    assert not (folder / "jpg").exists()


@pytest.mark.parametrize(
    ("labels", "ids", "message"),
    [
        ([*LABELS[:6], 103], IDS, r"imagelabels\.mat has the number 103 where 1 to 102"),
        ([*LABELS[:6], 0], IDS, r"imagelabels\.mat has the number 0 where 1 to 102"),
        (LABELS, {**IDS, "tstid": [3, 8]}, r"setid\.mat has the number 8 where 1 to 7"),
        (LABELS, {**IDS, "valid": []}, "no images in split val"),
        (LABELS, {"trnid": [1], "tstid": [2]}, r"setid\.mat cannot be read .* valid .*KeyError"),
    ],
)
def test_flowers__contents_that_do_not_fit(tmp_path, labels, ids, message):
    refused(message, files(tmp_path / "a", labels, ids))


def test_flowers__missing_and_broken_files_are_named(tmp_path):
    folder = files(tmp_path / "a")
    (folder / "jpg/image_00006.jpg").unlink()
    refused(r"a/jpg lacks image_00006\.jpg;", folder)
    content = (folder / "setid.mat").read_bytes()
    (folder / "setid.mat").write_bytes(content[:150])
    refused(r"setid\.mat cannot be read as a MATLAB file with the array trnid", folder)
    (folder / "imagelabels.mat").unlink()
    refused(r"a lacks imagelabels\.mat;", folder)
    (folder / "jpg").rename(folder / "images")
    refused(r"holds images/, setid\.mat where DIR/102flowers\.tgz or DIR/jpg/", folder)
