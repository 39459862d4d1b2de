"""The command line that makes, checks and lists packs."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from benchmark import folder
from benchmark.build import load_data
from benchmark.config import compose
from benchmark.packs.pack import load
from benchmark.prepare import main
from benchmark.progress import Display
from benchmark.sources.folder import Folder
from benchmark.sources.imagenet import class_list

ROOT = Path(__file__).parents[2]
CIFAR = ROOT.parent / "shared/data/cifar10-images.tar.xz"


@pytest.fixture
def source(tmp_path, monkeypatch):
    for k in range(24):
        split, class_name = ("train", "test")[k % 2], ("cat", "dog")[k // 2 % 2]
        path = tmp_path / f"source/{split}/{class_name}/{k:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "source"


def run(capfd, line, status=0):
    """What a command prints on its two streams."""
    assert main(line.split()) == status
    return capfd.readouterr()


PETS = "data=images data.name=pets"


def test_main__packs_a_folder_for_run(source, capfd):
    out, err = run(capfd, f"{PETS} source={source} workers=1")
    assert re.search(r"datasets/pets made in \d+ s: 24 images \(train 12, test 12\) of 32 px", out)
    assert err == ""
    data = load_data(OmegaConf.to_container(compose(PETS.split()).data, resolve=True))
    plain = folder.load(train=source / "train", test=source / "test")
    assert (data.name, data.class_names, data.image_size) == ("pets", ("cat", "dog"), 32)
    assert data.fingerprint == plain.fingerprint
    assert data.train_fingerprint == plain.train_fingerprint
    assert (data.mean, data.std) == (plain.mean, plain.std)
    out, _ = run(capfd, f"{PETS} source={source}")
    assert out.startswith("datasets/pets is there already: 24 images")


def test_main__keys_that_shape_the_pack(source, capfd):
    line = f"{PETS} data_dir=elsewhere data.stored_size=16 data.fit=pad source={source}/train"
    out, _ = run(capfd, f"{line} data.source.splits=null data.test=null trust=true")
    assert "elsewhere/pets made" in out
    assert "12 images (train 12) of 16 px" in out
    _, err = run(capfd, f"{PETS} data_dir=elsewhere source={source}", status=2)
    wrong = "data.source.splits=null where [train,test] is asked for"
    assert err.startswith(f"error: elsewhere/pets was made with {wrong}; choose another data.name")
    assert "replace=true" in err
    out, _ = run(capfd, f"{PETS} data_dir=elsewhere source={source} replace=true")
    assert "24 images (train 12, test 12) of 32 px" in out


def test_main__skipped_images_are_told(source, capfd):
    (source / "test/dog/003.png").write_bytes(b"no image")
    _, err = run(capfd, f"{PETS} source={source}", status=2)
    assert re.match(r"error: 1 image cannot be packed: \S*/test/dog/003.png \(", err)
    _, err = run(capfd, f"{PETS} source={source} data.source.on_bad_image=skip")
    assert err == "skipped 1 unreadable images, first: test/dog/003.png\n"


def test_main__verify(source, capfd):
    run(capfd, f"{PETS} source={source}")
    run(capfd, f"data=images data.name=others source={source}")
    out, _ = run(capfd, "verify")
    assert out.splitlines() == [
        f"datasets/{name} is as it was made: 24 images (train 12, test 12) of 32 px, 0 MB"
        for name in ("others", "pets")
    ]
    images = Path("datasets/pets/images.npy")
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    out, err = run(capfd, "verify", status=1)
    assert out.startswith("datasets/others is as it was made")
    assert err == (
        "error: datasets/pets/images.npy: split test has changed since it was packed; "
        "add replace=true to the line that made the pack\n"
    )
    run(capfd, "verify data=images data.name=others")
    os.truncate(images, 1000)
    _, err = run(capfd, f"verify {PETS}", status=1)
    assert err.startswith("error: datasets/pets/images.npy: it is 1,000 bytes long where 73,856")


def test_main__list(source, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run(capfd, f"data=images source={source}")
    run(capfd, f"{PETS} source={source} data.stored_size=16")
    table = run(capfd, "list").out
    rows = {line.split("│")[1].strip(): line for line in table.splitlines() if "│" in line}
    packed = "24 images (train 12, test 12) of"
    assert re.search(rf"images +│ images │ {re.escape(packed)} 32 px", rows["images"])
    assert re.search(rf"│ pets   │ {re.escape(packed)} 16 px", rows[""])
    others = set(rows) - {"images", ""}
    assert others >= {"cifar10", "stl10", "segmentation_folder"}
    assert all("none" in rows[name] and "DIR" in rows[name] for name in others)
    assert not {"scenes", "digits", "folder"} & set(rows)
    run(capfd, f"data=images source={source} data.stored_size=16 replace=true")
    wrong = "made with data.stored_size=16 where 32 is asked for"
    assert f"{wrong}: {packed} 16 px" in run(capfd, "list").out
    os.truncate("datasets/images/labels.npy", 100)
    assert "damaged: labels.npy, it has no header of a .npy file" in run(capfd, "list").out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sorce=x data=images", "unknown key 'sorce'; did you mean 'source'?"),
        ("data=images epochs=3", "unknown key 'epochs'; prepare takes data, data_dir, source,"),
        ("data=images data.stord_size=3 source=x", "did you mean 'data.stored_size'?"),
        ("data=images +data.more=3 source=x", "unknown key '+data.more'"),
        ("data=images source", "source has no value; write source=..."),
        ("data=images", "source=DIR is missing; give DIR/SPLIT/CLASS/"),
        ("source=x", "data=NAME is missing; choose one of "),
        ("data=imagse source=x", "data=imagse is unknown; choose one of"),
        ("data=images source=nowhere", "source=nowhere has no folder train for that split"),
        ("data=images source=x workers=0", "workers=0 must be a whole number of at least 1"),
        ("data=images source=x trust=yes", "trust=yes must be true or false"),
        ("data=images source=x data.stored_size=big", "stored_size='big' must be of type int"),
        ("data=images source=x data.fit=squash", "fit='squash' must be one of crop, pad"),
        ("data=images source=x data.source.on_bad_image=hide", 'on_bad_image="hide" is unknown'),
        ("data=segmentation_folder source=x", "data.source.num_classes has no value; set"),
        ("verify source=x", "unknown key 'source'; verify takes data, data_dir"),
        ("verify", "data_dir=datasets has no packs; make one with data=NAME source=DIR"),
        ("verify data=images", "datasets/images is no pack; make it with data=images source=DIR"),
        ("verify data=scenes", "data=scenes has no pack; choose one of"),
        ("list data=images", "unknown key 'data'; list takes data_dir"),
    ],
)
def test_main__one_sentence(line, message, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, err = run(capfd, line, status=2)
    assert message in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_main__choices_are_what_can_be_packed(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in ("source=x", "verify data=scenes"):
        choices = run(capfd, line, status=2).err.rpartition("choose one of ")[2].split(", ")
        assert {"cifar10", "images"} <= set(choices)
        assert not {"scenes", "digits", "folder"} & set(choices)


def test_main__two_data_sets_share_a_pack(tmp_path, capfd, monkeypatch):
    """Once it is made for one of them, the other is there as well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("benchmark.sources.imagenet._COUNTS", {"train": 200, "test": 100})
    for k, wnid in enumerate(class_list()):
        for path in (f"train/{wnid}/1.JPEG", f"train/{wnid}/2.JPEG", f"val/{wnid}/3.JPEG"):
            (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 8), (k, 0, 0)).save(tmp_path / "source" / path)
    out, _ = run(capfd, "data=imagenet100s source=source workers=1")
    assert "datasets/imagenet100 made in" in out
    out, _ = run(capfd, "data=imagenet100 source=source")
    assert out.startswith("datasets/imagenet100 is there already: 300 images")
    table = run(capfd, "list").out
    rows = {line.split("│")[1].strip(): line for line in table.splitlines() if "│" in line}
    for name in ("imagenet100", "imagenet100s"):
        assert "│ imagenet100 │ 300 images (train 200, test 100) of 256 px" in rows[name]
    assert "" not in rows
    assert "none" in rows["imagenet100s_static"]
    assert "imagenet100 is as it was made" in run(capfd, "verify data=imagenet100s").out
    data = {
        name: load_data(OmegaConf.to_container(compose([f"data={name}"]).data, resolve=True))
        for name in ("imagenet100", "imagenet100s")
    }
    assert [d.name for d in data.values()] == ["imagenet100", "imagenet100s"]
    assert len({d.train_fingerprint for d in data.values()}) == 1
    assert [d.image_size for d in data.values()] == [224, 96]


def test_main__data_that_needs_no_preparing(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("scenes", "digits", "folder"):
        assert run(capfd, f"data={name} source=x").out == f"data={name} needs no preparing\n"


def test_main__usage(capfd):
    assert "python benchmark/prepare.py data=NAME source=DIR" in run(capfd, "verify -h").out
    assert main([]) == 0


def test_main__interrupted(source, capfd, monkeypatch):
    """Ctrl-C ends in one line, and the same command goes on."""
    monkeypatch.setattr("benchmark.packs.journal._CHUNK_IMAGES", 1)
    shown, show = [], Display.show

    def interrupted(self, event):
        shown.append(event.step)
        if shown == [None, 1, 2, 3]:
            raise KeyboardInterrupt
        show(self, event)

    monkeypatch.setattr(Display, "show", interrupted)
    _, err = run(capfd, f"{PETS} source={source} workers=2", status=130)
    assert err == "interrupted; the same line goes on from here\n"
    assert not Path("datasets/pets").exists()
    assert "datasets/pets made in" in run(capfd, f"{PETS} source={source} workers=1").out
    assert shown[4:7] == [None, 4, 5]
    data = load_data(OmegaConf.to_container(compose(PETS.split()).data, resolve=True))
    plain = folder.load(train=source / "train", test=source / "test")
    assert data.fingerprint == plain.fingerprint


@pytest.mark.skipif(not CIFAR.exists(), reason=f"{CIFAR} is missing")
def test_main__real_cifar_images(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tarfile.open(CIFAR) as archive:
        taken = {}
        for member in archive:
            parent = str(Path(member.name).parent)
            if member.isfile() and member.name.startswith("test/") and taken.get(parent, 0) < 60:
                archive.extract(member, tmp_path / "source", filter="data")
                taken[parent] = taken.get(parent, 0) + 1
            if len(taken) == 10 and min(taken.values()) == 60:
                break
    line = "data=images data.name=cifar data.source.splits=null data.test=null workers=2"
    run(capfd, f"{line} source=source/test")
    data = load(name="cifar", data_dir="datasets", source=Folder(), stored_size=32, train=["train"])
    plain = folder.load(train="source/test")
    assert len(data.train) == 600
    assert data.train_fingerprint == plain.train_fingerprint
