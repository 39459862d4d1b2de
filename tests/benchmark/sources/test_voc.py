"""VOC segmentation: the VOCdevkit tree with palette PNGs, and street scenes in its layout."""

import pickle
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import UserError
from benchmark.sources import voc

REAL = Path(__file__).parents[4] / "shared/data/camvid-voc.tar.xz"
TRAIN, VAL = ["2007_000032", "2007_000039"], ["2007_000033"]


def palette():
    """VOC's colours: the bits of the index, spread over red, green and blue from the top."""
    colours = []
    for index in range(256):
        colour = [0, 0, 0]
        for bit in range(8):
            colour[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colours += colour
    return colours


def write(path, classes):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(classes)
    image.putpalette(palette())
    image.save(path)
    assert Image.open(path).mode == "P"


def tree(root, classes=21):
    """Two images for training and one for validation; returns the classes of their pixels."""
    rng = np.random.default_rng(0)
    expected = {}
    (root / "JPEGImages").mkdir(parents=True)
    for name in (*TRAIN, *VAL):
        truth = rng.integers(0, classes, (24, 32), np.uint8)
        truth[0] = 255
        write(root / f"SegmentationClass/{name}.png", truth)
        Image.new("RGB", (32, 24), (100, 0, 0)).save(root / f"JPEGImages/{name}.jpg")
        expected[name] = truth
    split(root, "train", TRAIN)
    split(root, "val", VAL)
    return expected


def split(root, name, lines):
    path = root / f"ImageSets/Segmentation/{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def opened(folder, trust=True, **arguments):
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return voc.VOCSegmentation(**arguments).open(folder, scratch, trust=trust)


def refused(message, folder, **arguments):
    with pytest.raises(UserError) as caught:
        opened(folder, **arguments)
    assert re.search(message, str(caught.value)), caught.value


def check(contents, expected):
    for name, members in (("train", TRAIN), ("val", VAL)):
        examples = pickle.loads(pickle.dumps(contents.splits[name]))
        assert len(examples) == len(members)
        assert examples.truth == ("pixel_labels",)
        assert examples.labels == {}
        for k, member in enumerate(members):
            sample = examples.read(k)
            assert np.array_equal(sample.pixel_labels, expected[member])
            assert sample.image.size == (32, 24)
            assert examples.origin(k).endswith(f"JPEGImages/{member}.jpg")


@pytest.mark.parametrize("inside", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc__classes_pixel_by_pixel(tmp_path, inside):
    expected = tree(tmp_path / "a" / inside)
    contents = opened(tmp_path / "a")
    check(contents, expected)
    assert [*contents.splits] == ["train", "val"]
    assert contents.class_names == {}
    assert len(contents.pixel_class_names) == 21
    assert contents.pixel_class_names[:2] == ("background", "aeroplane")
    assert contents.pixel_class_names[20] == "tvmonitor"


def test_voc__archive(tmp_path):
    expected = tree(tmp_path / "made")
    (tmp_path / "a").mkdir()
    with tarfile.open(tmp_path / "a/VOCtrainval_11-May-2012.tar", "w") as archive:
        archive.add(tmp_path / "made", "VOCdevkit/VOC2012")
    contents = opened(tmp_path / "a")
    check(contents, expected)
    assert [*contents.checksums] == ["VOCtrainval_11-May-2012.tar"]
    refused(r"2012\.tar has the MD5 .* where 6cd6e144f9", tmp_path / "a", trust=False)


def test_voc__archive_has_no_trainaug(tmp_path):
    tree(tmp_path / "made")
    folder = tmp_path / "a"
    split(folder, "trainaug", TRAIN)  # as if it completed the archive
    with tarfile.open(folder / "VOCtrainval_11-May-2012.tar", "w") as archive:
        archive.add(tmp_path / "made", "VOCdevkit/VOC2012")
    message = r"2012\.tar has nothing of trainaug; unpack it, and add SegmentationClassAug/ and "
    refused(f"{message}ImageSets/Segmentation/trainaug.txt", folder, trainaug=True)
    assert len(opened(folder).splits["train"]) == 2


@pytest.mark.parametrize("name", ["1.1", "cam 2 frame", "cam.001", "seq/1", "x.png.y"])
@pytest.mark.parametrize(
    "line",
    [
        "{}",
        " {} ",
        "{}.jpg",
        "/JPEGImages/{}.jpg /SegmentationClass/{}.png",
        "VOC2012/JPEGImages/{0}.jpg\tVOC2012/SegmentationClass/{0}.png",
    ],
)
def test_voc__names_stay_whole(tmp_path, name, line):
    folder = tmp_path / "a"
    tree(folder)
    for old, new in (("JPEGImages/{}.jpg", VAL[0]), ("SegmentationClass/{}.png", VAL[0])):
        path = folder / old.format(name)
        path.parent.mkdir(exist_ok=True)
        (folder / old.format(new)).rename(path)
    split(folder, "val", [line.format(name, name)])
    assert opened(folder).splits["val"].origin(0) == str(folder / f"JPEGImages/{name}.jpg")


def test_voc__lists_that_are_wrong(tmp_path):
    folder = tmp_path / "a"
    tree(folder)
    split(folder, "train", [*TRAIN, TRAIN[0], "", ""])
    refused(rf"train\.txt lists {TRAIN[0]} more than once; list each image once", folder)
    (folder / "ImageSets/Segmentation/train.txt").write_bytes("größe\n".encode("latin-1"))
    refused(r"train\.txt is not text in UTF-8 \(", folder)


def test_voc__wrong_counts(tmp_path, monkeypatch):
    tree(tmp_path / "a")
    refused("has 2 images in split train where 1,464 are published", tmp_path / "a", trust=False)
    monkeypatch.setattr(voc, "_COUNTS", {"train": 2, "val": 1})
    opened(tmp_path / "a", trust=False)
    split(tmp_path / "a", "val", [])
    refused("has no images in split val", tmp_path / "a")


@pytest.mark.parametrize("lines", ["{0}", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png"])
def test_voc__trainaug_is_what_it_adds(tmp_path, lines):
    folder = tmp_path / "a"
    expected = tree(folder)
    extra = ["2008_000003", "2008_000001"]
    for k, name in enumerate(extra):
        shutil.copy(folder / f"JPEGImages/{TRAIN[0]}.jpg", folder / f"JPEGImages/{name}.jpg")
        expected[name] = np.full((24, 32), k + 1, np.uint8)
        (folder / "SegmentationClassAug").mkdir(exist_ok=True)
        Image.fromarray(expected[name]).save(folder / f"SegmentationClassAug/{name}.png")
    names = [TRAIN[1], extra[0], TRAIN[0], extra[1]]
    refused(r"lacks ImageSets/Segmentation/trainaug\.txt", folder, trainaug=True)
    split(folder, "trainaug", [lines.format(name) for name in names])
    contents = opened(folder, trainaug=True)
    check(contents, expected)
    assert [*contents.splits] == ["train", "aug", "val"]
    for k, name in enumerate(extra):
        assert np.array_equal(contents.splits["aug"].read(k).pixel_labels, expected[name])
    split(folder, "trainaug", [*names, VAL[0]])
    refused(f"lists {VAL[0]} in both aug and val", folder, trainaug=True)


def test_voc__other_classes(tmp_path):
    folder = tmp_path / "a"
    expected = tree(folder, classes=3)
    contents = opened(folder, num_classes=3, trust=False)  # no count to be compared with
    check(contents, expected)
    assert contents.pixel_class_names == ()
    named = opened(folder, class_names=["sky", "road", "car"], trust=False)
    check(named, expected)
    assert named.pixel_class_names == ("sky", "road", "car")
    with pytest.raises(ValueError, match="has the class 2 where 0 to 1 and 255"):
        opened(folder, num_classes=2).splits["train"].read(0)
    refused("class_names has 2 names where", folder, num_classes=3, class_names=["sky", "road"])
    for wrong in (1, 256):
        refused(f"num_classes={wrong} must be from 2 to 255", folder, num_classes=wrong)


@pytest.mark.parametrize("wrong", [21, 128, 254])
def test_voc__class_out_of_range(tmp_path, wrong):
    truth = tree(tmp_path / "a")[TRAIN[1]]
    truth[5, 7] = wrong
    path = tmp_path / f"a/SegmentationClass/{TRAIN[1]}.png"
    write(path, truth)
    train = opened(tmp_path / "a").splits["train"]
    train.read(0)
    with pytest.raises(ValueError, match=f"{path} has the class {wrong} where 0 to 20 and 255"):
        train.read(1)


def test_voc__labels_that_do_not_fit(tmp_path):
    tree(tmp_path / "a")
    path = tmp_path / f"a/SegmentationClass/{TRAIN[0]}.png"
    train = opened(tmp_path / "a").splits["train"]
    write(path, np.zeros((32, 24), np.uint8))
    with pytest.raises(ValueError, match=f"{path} has 24x32 pixels where its image has 32x24"):
        train.read(0)
    Image.new("RGB", (32, 24)).save(path)
    with pytest.raises(ValueError, match=f"{path} has the mode RGB where indices"):
        train.read(0)


def test_voc__missing_files_are_named(tmp_path):
    folder = tmp_path / "a"
    tree(folder)
    (folder / f"SegmentationClass/{VAL[0]}.png").unlink()
    refused(f"a lacks SegmentationClass/{VAL[0]}.png;", folder)
    (folder / f"JPEGImages/{TRAIN[1]}.jpg").unlink()
    refused(f"a lacks JPEGImages/{TRAIN[1]}.jpg;", folder)
    (folder / "ImageSets/Segmentation/val.txt").unlink()
    refused(r"a lacks ImageSets/Segmentation/val\.txt;", folder)
    shutil.rmtree(folder / "ImageSets")
    refused(r"holds JPEGImages/, SegmentationClass/ where DIR/VOCtrainval_11-May", folder)


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is missing")
def test_voc__real_street_scenes(tmp_path):
    with tarfile.open(REAL) as archive:
        archive.extractall(tmp_path / "a", filter="data")
    contents = opened(tmp_path / "a", num_classes=11, trust=False)
    assert {name: len(examples) for name, examples in contents.splits.items()} == {
        "train": 367,
        "val": 334,
    }
    for k in range(0, 300, 60):
        sample = contents.splits["val"].read(k)
        assert sample.image.size == (240, 180)
        assert sample.pixel_labels.shape == (180, 240)
        assert set(np.unique(sample.pixel_labels)) <= {*range(11), 255}
    with pytest.raises(ValueError, match=r"has the class \d+ where 0 to 2 and"):
        opened(tmp_path / "a", num_classes=3).splits["train"].read(0)
