"""Writing a pack: with any number of processes, of damaged images, and where there is room."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from benchmark.packs import writer
from benchmark.packs.manifest import Manifest, Recipe
from benchmark.packs.pack import Pack
from benchmark.sources.source import Contents, Examples, Sample, Source


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def state_of_files(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_write_pack__any_number_of_processes_makes_the_same_bytes(pets):
    before = state_of_files(pets.source)
    folders = []
    for workers in (1, 3):
        wanted = pets.recipe(f"pets{workers}")
        assert pets.make(wanted, workers=workers)
        folders.append(wanted.folder)
    one, three = map(bytes_of, folders)
    assert {name: one[name] for name in ("images.npy", "labels.npy")} == {
        name: three[name] for name in ("images.npy", "labels.npy")
    }
    splits = [Manifest.read(folder).splits for folder in folders]
    assert splits[0] == splits[1]
    assert sorted(path.name for path in pets.packs.iterdir()) == ["pets1", "pets3"]
    assert state_of_files(pets.source) == before
    images = np.load(folders[0] / "images.npy")
    for channel in range(3):
        counted = np.bincount(images[:30, channel].ravel(), minlength=256).tolist()
        assert splits[0]["train"].counts[channel] == counted


@pytest.mark.parametrize("workers", [1, 3])
def test_write_pack__all_damaged_images_are_named(pets, workers):
    images = pets.files
    damaged = [images[k] for k in (11, 12, 15, 40, 58, 59)]
    whole = [path.read_bytes() for path in damaged]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:100])
    told = []
    pets.refused(
        rf"^6 images cannot be packed: {damaged[0]} \(.*, {damaged[4]} \(.* and 1 more; .*=skip",
        workers=workers,
        emit=lambda event: told.append(event.text),
    )
    assert {x for x in told if "cannot read" in x} == {
        next(x for x in told if x.startswith(f"cannot read {path} (")) for path in damaged
    }
    assert not pets.recipe().folder.exists()
    for path, content in zip(damaged, whole, strict=True):
        path.write_bytes(content)
    pets.reads.clear()
    pets.make()
    assert len(pets.reads) == 7 + 7 + 7 + 2  # the chunks of the repaired images
    pets.make(fresh := pets.recipe("fresh"))
    assert bytes_of(pets.recipe().folder)["images.npy"] == bytes_of(fresh.folder)["images.npy"]


def test_write_pack__the_search_for_damaged_images_ends(pets, monkeypatch):
    monkeypatch.setattr(writer, "_MOST_DAMAGED", 10)
    for path in pets.files:
        path.write_bytes(b"")
    pets.refused("^14 images cannot be packed")
    assert len(pets.reads) == 14


def test_write_pack__skips_damaged_images(pets):
    whole, skipping = pets.recipe("whole"), pets.recipe("skipping", on_bad_image="skip")
    pets.make(whole)
    images = pets.files
    damaged = [0, 5, 6, 7, 29, 30, 44, 59]
    for position in damaged:
        images[position].write_bytes(b"")
    pets.make(skipping, workers=3)
    kept = sorted(set(range(pets.count)) - set(damaged))
    for name in ("images", "labels"):
        expected = np.load(whole.folder / f"{name}.npy")[kept]
        assert np.array_equal(np.load(skipping.folder / f"{name}.npy"), expected)
    manifest = Manifest.read(skipping.folder)
    ranges = {name: (split.start, split.stop) for name, split in manifest.splits.items()}
    assert ranges == {"train": (0, 25), "test": (25, 52)}
    named = [str(images[k].relative_to(pets.source)) for k in damaged]
    assert [x for split in manifest.splits.values() for x in split.skipped] == named
    assert [*Pack(skipping.folder).changes()] == []
    pixels = np.load(skipping.folder / "images.npy")
    counted = np.bincount(pixels[25:, 1].ravel(), minlength=256).tolist()
    assert manifest.splits["test"].counts[1] == counted


def test_write_pack__skipping_must_leave_something(pets):
    for path in (pets.source / "test/dog").iterdir():
        path.write_bytes(b"")
    message = f"no image of class dog of split test in {pets.source} can be read; repair one"
    pets.refused(message, pets.recipe(on_bad_image="skip"))
    pets.files[-1].unlink()
    for path in (pets.source / "test/cat").iterdir():
        path.write_bytes(b"")
    message = "0 of 29 images of split test in .* can be read and at least 2 are needed"
    pets.refused(message, pets.recipe(on_bad_image="skip"))


def test_write_pack__too_little_room(pets, monkeypatch):
    usage = shutil.disk_usage(pets.source)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5000))
    message = "the pack needs 0.0 GB and the disk of .*/packs has 0.0 GB left; free space there, or"
    pets.refused(message)


def test_write_pack__leaving_images_out_needs_room_for_a_copy(pets, monkeypatch):
    usage, images = shutil.disk_usage(pets.source), pets.count * 3 * 8 * 8
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=images + 10))
    pets.make()
    pets.refused("has 0.0 GB left; free space", pets.recipe("skipping", on_bad_image="skip"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * images))
    pets.make(pets.recipe("skipping", on_bad_image="skip"))


@dataclass(frozen=True)
class Masked(Examples):
    """Images whose pixel labels tell which image it is; number 2 is damaged."""

    labels: ClassVar = {}
    truth: tuple[str, ...] = ("pixel_labels",)

    def __len__(self):
        return 5

    def read(self, index):
        if index == 2:
            return Sample(Image.new("RGB", (8, 8)))
        return Sample(Image.new("RGB", (8, 8)), np.full((8, 8), index, np.uint8))

    def origin(self, index):
        return f"number {index}"


class MaskedSource(Source):
    version: ClassVar[int] = 1
    expects: ClassVar[str] = "nothing"

    def __init__(self, skip=True):
        self.skip = skip

    def open(self, folder, scratch, *, trust):
        splits = {"train": Masked(), "bare": Masked(truth=())}
        return Contents(splits, skip_damaged=self.skip, files=())


def test_write_pack__truth_follows_its_image(pets):
    wanted = Recipe("masked", pets.packs, MaskedSource(), 8)
    pets.make(wanted)
    truth = np.load(wanted.folder / "pixel_labels.npy")
    assert truth[:, 0, 0].tolist() == [0, 1, 3, 4, 0, 1, 255, 3, 4]
    splits = Manifest.read(wanted.folder).splits
    assert [*splits["train"].digests] == ["images", "pixel_labels"]
    assert [*splits["bare"].digests] == ["images"]
    wanted = Recipe("strict", pets.packs, MaskedSource(skip=False), 8)
    pets.refused(r"1 image cannot be packed: number 2 \(it has no pixel_labels\); get them", wanted)
