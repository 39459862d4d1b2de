"""STL-10: binaries that store images by columns."""

import pickle
import re
import tarfile

import numpy as np
import pytest
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5

from benchmark.errors import UserError
from benchmark.sources import stl10

NAMES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
COUNTS = {"train": 4, "unlabeled": 5, "test": 3}


def binaries(root):
    """The files of the site; returns pixels (n 96 96 3) and labels of each split."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    expected = {}
    for split, count in COUNTS.items():
        pixels = rng.integers(0, 256, (count, 96, 96, 3), np.uint8)
        content = bytearray()
        for image in pixels:
            for channel in range(3):
                for column in range(96):
                    content += image[:, column, channel].tobytes()
        (folder / f"{split}_X.bin").write_bytes(content)
        labels = [-1] * count
        if split != "unlabeled":
            labels = rng.integers(0, 10, count).tolist()
            (folder / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in labels))
        expected[split] = (pixels, labels)
    (folder / "class_names.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "fold_indices.txt").write_text("0 1 2\n")
    return expected


def opened(folder, trust=True):
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return stl10.STL10().open(folder, scratch, trust=trust)


def refused(message, folder, **arguments):
    with pytest.raises(UserError) as caught:
        opened(folder, **arguments)
    assert re.search(message, str(caught.value)), caught.value


def check(contents, expected):
    assert [*contents.splits] == ["train", "unlabeled", "test"]
    assert contents.class_names == {"class": tuple(NAMES)}
    for split, (pixels, labels) in expected.items():
        examples = pickle.loads(pickle.dumps(contents.splits[split]))
        assert examples.labels["class"].tolist() == labels
        assert len(examples) == len(pixels)
        for k, image in enumerate(pixels):
            assert np.array_equal(np.asarray(examples.read(k).image), image)


def publish(monkeypatch, folder):
    for attribute in ("train_list", "test_list"):
        names = [name for name, _ in getattr(datasets.STL10, attribute)]
        lists = [[name, calculate_md5(folder / name)] for name in names]
        monkeypatch.setattr(datasets.STL10, attribute, lists)
    monkeypatch.setattr(stl10, "_COUNTS", COUNTS)


def test_stl10__pixel_by_pixel(tmp_path, monkeypatch):
    expected = binaries(tmp_path / "a")
    check(opened(tmp_path / "a"), expected)
    publish(monkeypatch, tmp_path / "a/stl10_binary")
    contents = opened(tmp_path / "a", trust=False)
    check(contents, expected)
    assert tmp_path / "a/stl10_binary/class_names.txt" in contents.files
    md5 = calculate_md5(tmp_path / "a/stl10_binary/unlabeled_X.bin")
    assert contents.checksums["stl10_binary/unlabeled_X.bin"] == f"md5:{md5}"
    assert contents.splits["test"].origin(2).endswith("stl10_binary/test_X.bin, image 2")
    inner = opened(tmp_path / "a/stl10_binary", trust=False)
    check(inner, expected)
    assert inner.checksums["unlabeled_X.bin"] == f"md5:{md5}"


def test_stl10__same_as_torchvision(tmp_path, monkeypatch):
    binaries(tmp_path / "a")
    publish(monkeypatch, tmp_path / "a/stl10_binary")
    ours = opened(tmp_path / "a").splits["train"]
    for k, (image, label) in enumerate(datasets.STL10(tmp_path / "a", split="train")):
        assert np.array_equal(np.asarray(ours.read(k).image), np.asarray(image))
        assert ours.labels["class"][k] == label


def test_stl10__archive(tmp_path):
    expected = binaries(tmp_path / "made")
    folder = tmp_path / "a"
    folder.mkdir()
    with tarfile.open(folder / "stl10_binary.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made/stl10_binary", "stl10_binary")
    contents = opened(folder)
    check(contents, expected)
    assert [*contents.checksums] == ["stl10_binary.tar.gz"]
    refused(r"stl10_binary\.tar\.gz has the MD5", folder, trust=False)


def test_stl10__truncated_binary_is_named(tmp_path):
    binaries(tmp_path / "a")
    path = tmp_path / "a/stl10_binary/test_X.bin"
    path.write_bytes(path.read_bytes()[:-1])
    message = f"{path} has 82,943 bytes where 3 images of 27,648 bytes are expected"
    refused(message, tmp_path / "a")
    path = tmp_path / "a/stl10_binary/unlabeled_X.bin"
    path.write_bytes(path.read_bytes()[:-100])
    refused(f"{path} has 138,140 bytes where 4 images", tmp_path / "a")


def test_stl10__whole_images_missing(tmp_path):
    binaries(tmp_path / "a")
    path = tmp_path / "a/stl10_binary/train_X.bin"
    path.write_bytes(path.read_bytes()[:27648])
    refused(f"{path} has 27,648 bytes where 4 images of", tmp_path / "a")


def test_stl10__wrong_count(tmp_path, monkeypatch):
    binaries(tmp_path / "a")
    publish(monkeypatch, tmp_path / "a/stl10_binary")
    monkeypatch.setattr(stl10, "_COUNTS", {**COUNTS, "train": 5_000})
    refused("a has 4 images in split train where 5,000 are", tmp_path / "a", trust=False)


def test_stl10__flipped_byte_is_found(tmp_path, monkeypatch):
    binaries(tmp_path / "a")
    publish(monkeypatch, tmp_path / "a/stl10_binary")
    path = tmp_path / "a/stl10_binary/unlabeled_X.bin"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    refused(f"{path} has the MD5 .* is published", tmp_path / "a", trust=False)
    opened(tmp_path / "a", trust=True)


@pytest.mark.parametrize("labels", [(0, 1, 2), (1, 2, 11)])
def test_stl10__labels_out_of_range(tmp_path, labels):
    binaries(tmp_path / "a")
    (tmp_path / "a/stl10_binary/test_y.bin").write_bytes(bytes(labels))
    refused(r"test_y\.bin has the label (0|11) where 1 to 10", tmp_path / "a")


def test_stl10__names_that_are_no_text(tmp_path):
    binaries(tmp_path / "a")
    path = tmp_path / "a/stl10_binary/class_names.txt"
    path.write_bytes("vögel".encode("latin-1"))
    refused(f"{path} is not text in UTF-8 \\(.* at byte 1\\); unpack", tmp_path / "a")


def test_stl10__missing_and_wrong_files_are_named(tmp_path):
    binaries(tmp_path / "a")
    (tmp_path / "a/stl10_binary/class_names.txt").write_text("cat dog")
    refused(r"class_names\.txt has 2 names where 10 are", tmp_path / "a")
    (tmp_path / "a/stl10_binary/train_y.bin").unlink()
    refused(r"a lacks stl10_binary/train_y\.bin;", tmp_path / "a")
    (tmp_path / "b").mkdir()
    refused(r"holds nothing where DIR/stl10_binary\.tar\.gz or", tmp_path / "b")
