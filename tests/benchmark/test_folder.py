"""Image folders: layouts, errors and unreadable images."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import folder

CIFAR = Path(__file__).parents[3] / "shared/data/cifar10-images.tar.xz"


def test_load__classes_are_sorted_subfolders(tmp_path, classes):
    train = classes(tmp_path / "train", ("dog", "Ant", "cat"))
    test = classes(tmp_path / "test", ("Ant", "cat", "dog"), count=2)
    data = folder.load(train=train, test=str(test), image_size=32, name="pets")
    assert (data.name, data.class_names, data.image_size) == ("pets", ("Ant", "cat", "dog"), 32)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.shape == (9, 3, 32, 32)
    scaled = data.train.images.double() / 255
    assert data.mean == tuple(round(x, 4) for x in scaled.mean((0, 2, 3)).tolist())
    std = scaled.std((0, 2, 3), correction=0)
    assert data.std == tuple(round(x, 4) for x in std.tolist())


def test_load__flat_folder_has_no_labels(tmp_path, picture):
    for k in range(3):
        picture(tmp_path / f"{k}.png", seed=k)
    data = folder.load(train=tmp_path)
    assert data.train.labels is None
    assert data.test is None
    assert data.class_names == ()


def test_load__every_format_and_colour_mode(tmp_path, picture):
    for k, mode in enumerate(("RGB", "L", "P", "RGBA", "1", "LA")):
        picture(tmp_path / f"{mode}.png", seed=k, mode=mode)
    for suffix in (".jpg", ".JPEG", ".bmp", ".Webp"):
        picture(tmp_path / f"a{suffix}")
    picture(tmp_path / "cmyk.jpg", mode="CMYK")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not one either")
    (tmp_path / ".cache").mkdir()
    data = folder.load(train=tmp_path, image_size=16)
    assert data.train.images.shape == (11, 3, 16, 16)


def test_load__sixteen_bit_grey_keeps_its_contrast(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray((ramp >> 8).astype(np.uint8)).save(tmp_path / "b.png")
    images = folder.load(train=tmp_path).train.images
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (100, 64), (64, 211), (7, 9)])
def test_load__shorter_side_is_scaled_and_the_centre_kept(tmp_path, size, picture):
    path = picture(tmp_path / "a.png", size=size)
    picture(tmp_path / "b.png")
    found = folder.load(train=tmp_path).train.images[0]
    width, height = (side * 32 // min(size) for side in size)
    scaled = Image.open(path).resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(scaled).copy()).permute(2, 0, 1)
    top, left = (height - 32) // 2, (width - 32) // 2
    assert torch.equal(found, pixels[:, top : top + 32, left : left + 32])


def test_load__fingerprint_follows_content(tmp_path, classes):
    train = classes(tmp_path / "train")
    first = folder.load(train=train).fingerprint
    assert folder.load(train=train, name="other").fingerprint == first
    assert folder.load(train=train, image_size=16).fingerprint != first
    assert folder.load(train=train, test=train).fingerprint != first
    (train / "dog").rename(train / "fox")
    renamed = folder.load(train=train).fingerprint
    assert renamed != first
    (train / "fox/2.png").rename(train / "cat/9.png")
    assert folder.load(train=train).fingerprint not in (first, renamed)


def test_load__missing_folder(tmp_path, classes, refused):
    refused(r"train=.*/nowhere is not a folder", train=tmp_path / "nowhere")
    good = classes(tmp_path / "train")
    refused(r"test=.*/nowhere is not a folder", train=good, test=tmp_path / "nowhere")
    refused(r"train=.*/0.png is not a folder", train=good / "cat/0.png")


def test_load__folder_that_may_not_be_read(tmp_path, monkeypatch, refused):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    refused(r"cannot be listed \(Permission denied\)", train=tmp_path)


def test_load__folder_without_images(tmp_path, picture, refused):
    (tmp_path / "readme.txt").write_text("nothing")
    refused(r"has 0 images \(\.bmp, \.jpeg, .*\) and at least 2 are needed", train=tmp_path)
    picture(tmp_path / "one.png")
    refused(r"has 1 images", train=tmp_path)


def test_load__images_beside_class_folders(tmp_path, picture, classes, refused):
    picture(classes(tmp_path) / "stray.png")
    refused(r"has both images \(stray.png, ...\) and subfolders \(cat, ...\)", train=tmp_path)


def test_load__empty_class_folder(tmp_path, classes, refused):
    (classes(tmp_path) / "bird").mkdir()
    refused(r"class folder .*/bird has no images .* fill or remove it", train=tmp_path)


def test_load__folder_above_the_splits(tmp_path, classes, refused):
    classes(tmp_path / "train")
    refused(r"/train has subfolders \(cat, ...\) where images are expected", train=tmp_path)


@pytest.mark.parametrize("value", ["ignore", "", "Skip"])
def test_load__bad_on_bad_image(tmp_path, value, refused):
    refused(f'on_bad_image="{value}" .* use "error" or "skip"', train=tmp_path, on_bad_image=value)


def test_load__bad_image_size(tmp_path, refused):
    refused("image_size=0", train=tmp_path, image_size=0)


def test_load__classes_differ(tmp_path, picture, classes, refused):
    train = classes(tmp_path / "train", ("ant", "bee", "cat"))
    test = classes(tmp_path / "test", ("bee", "cat", "dog", "eel"))
    refused(r"missing ant, extra dog, eel;", train=train, test=test)
    for k in range(30):
        (train / f"more{k:02}").mkdir()
        picture(train / f"more{k:02}/a.png")
    refused(r"missing ant, more00, .* and 26 more, extra dog, eel;", train=train, test=test)


def test_load__one_split_is_flat(tmp_path, classes, refused):
    labelled = classes(tmp_path / "labelled")
    flat = labelled / "cat"
    refused(r"labelled has class subfolders but .*/cat has", train=labelled, test=flat)
    refused(r"labelled has class subfolders but .*/cat has", train=flat, test=labelled)


def truncated(picture, path):
    picture(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_load__truncated_image_is_named(tmp_path, suffix, picture, classes, refused):
    path = truncated(picture, classes(tmp_path) / "dog" / f"broken{suffix}")
    refused(rf"1 image cannot be packed: {path} \(.* or set data.on_bad_image=skip", train=tmp_path)


def test_load__all_bad_images_are_named(tmp_path, classes, refused):
    classes(tmp_path, count=20)
    for name in ("cat/5.png", "dog/0.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "cat/0.png").unlink()
    (tmp_path / "cat/0.png").symlink_to(tmp_path / "gone.png")
    named = r"3 images cannot be packed: \S*/cat/0.png \(.*, \S*/cat/5.png \(.*, \S*/dog/0.png \("
    refused(named, train=tmp_path)
    refused(named, train=tmp_path, cache_dir=tmp_path / ".cache")
    assert not (tmp_path / ".cache").exists()  # repaired images would have another key


def test_load__skip_counts(tmp_path, capfd, picture, classes):
    whole = folder.load(train=classes(tmp_path))
    truncated(picture, tmp_path / "cat/1a.jpg")
    (tmp_path / "dog/2a.png").write_text("text")
    for cache in (None, tmp_path / ".cache", tmp_path / ".cache"):  # a cache repeats it
        data = folder.load(train=tmp_path, on_bad_image="skip", cache_dir=cache)
        assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.fingerprint == whole.fingerprint
        assert capfd.readouterr().err == (
            f"skipped 2 unreadable images of 8 in {tmp_path}, first: {tmp_path}/cat/1a.jpg\n"
        )


def test_load__skip_leaves_too_little(tmp_path, classes, refused):
    classes(tmp_path)
    for name in ("0", "1", "2"):
        (tmp_path / f"dog/{name}.png").write_text("text")
    message = f"no image of class dog of split train in {tmp_path} can be read"
    refused(message, train=tmp_path, on_bad_image="skip")
    (tmp_path / "cat/0.png").write_text("text")
    message = f"0 of 3 images of split train in {tmp_path}/dog can be read and at least 2"
    refused(message, train=tmp_path / "dog", on_bad_image="skip")


@pytest.mark.skipif(not CIFAR.exists(), reason=f"{CIFAR} is missing")
def test_load__real_cifar_images(tmp_path):
    taken = {}
    with tarfile.open(CIFAR) as archive:
        for member in archive:
            label = Path(member.name).parent.name
            if member.isfile() and member.name.startswith("test/") and taken.get(label, 0) < 5:
                archive.extract(member, tmp_path, filter="data")
                taken[label] = taken.get(label, 0) + 1
            if len(taken) == 10 and min(taken.values()) == 5:
                break
    data = folder.load(train=tmp_path / "test", cache_dir=tmp_path / "cache")
    assert len(data.train) == 50
    assert data.class_names[:3] == ("airplane", "automobile", "bird")
    assert data.train.labels.bincount().tolist() == [5] * 10
    first = np.asarray(Image.open(sorted((tmp_path / "test/airplane").iterdir())[0]))
    assert np.array_equal(data.train.images[0].permute(1, 2, 0).numpy(), first)
    for mean, std in zip(data.mean, data.std, strict=True):  # CIFAR-10: about .47 and .25
        assert 0.38 < mean < 0.58
        assert 0.18 < std < 0.32
