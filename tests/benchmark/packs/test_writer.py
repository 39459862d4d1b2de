"""Writing a pack: the same bytes whatever stops it, and with any number of processes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from benchmark.packs import journal, writer
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
def test_write_pack__the_first_damaged_image_is_named(pets, workers):
    images = pets.files
    for position in (11, 12, 15, 40, 59):
        images[position].write_bytes(images[position].read_bytes()[:100])
    message = f"{images[11]} cannot be read as an image .* on_bad_image=skip"
    pets.refused(message, workers=workers)
    assert not pets.recipe().folder.exists()
    if workers == 1:  # in this process, where reads are counted
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
    message = "class folder .*/test/dog has no image that can be read"
    pets.refused(message, pets.recipe(on_bad_image="skip"))


@pytest.mark.parametrize("chunks", [1, 4, 10])
@pytest.mark.parametrize("tail", [b"", b'{"number": 3, "coun', b"\0\0\0\n"])
def test_write_pack__goes_on_where_it_stopped(pets, chunks, tail):
    pets.make(pets.recipe("whole"))
    expected = bytes_of(pets.recipe("whole").folder)
    pets.reads.clear()
    pets.stop(chunks)
    partial = pets.packs / ".pets.partial"
    assert not pets.recipe().folder.exists()
    with (partial / "journal.jsonl").open("ab") as file:
        file.write(tail)
    with contextlib.suppress(pets.stopped):  # with 10 of 10 chunks it ends
        pets.make(emit=pets.stop_at(1))
    pets.make()
    assert len(pets.reads) == len(set(pets.reads)) == pets.count  # no image was read twice
    found = bytes_of(pets.recipe().folder)
    expected["manifest.json"] = found["manifest.json"]  # it has the name
    assert found == expected
    assert not partial.exists()


@pytest.mark.parametrize("step", ["_compact", "_labels", "digest_of_rows", "Manifest"])
def test_write_pack__goes_on_after_the_last_image(pets, monkeypatch, step):
    (pets.source / "train/cat/000.png").write_bytes(b"")
    wanted = pets.recipe(on_bad_image="skip")
    work = getattr(writer, step)

    def stop(*arguments, **settings):
        work(*arguments, **settings)
        raise pets.stopped

    monkeypatch.setattr(writer, step, stop)
    with pytest.raises(pets.stopped):
        pets.make(wanted)
    monkeypatch.setattr(writer, step, work)
    assert not wanted.folder.exists()
    pets.make(wanted)
    assert len(pets.reads) == pets.count
    assert len(np.load(wanted.folder / "images.npy")) == pets.count - 1
    assert [*Pack(wanted.folder).changes()] == []


def test_write_pack__stopped_while_starting_over(pets, monkeypatch):
    pets.stop(6)
    begin = journal.Journal.begin

    def stop(self):
        raise pets.stopped

    monkeypatch.setattr(journal.Journal, "begin", stop)
    with pytest.raises(pets.stopped):
        pets.make(pets.recipe(on_bad_image="skip"))
    monkeypatch.setattr(journal.Journal, "begin", begin)
    pets.make()
    pets.make(whole := pets.recipe("whole"))
    images = (whole.folder / "images.npy").read_bytes()
    assert (pets.recipe().folder / "images.npy").read_bytes() == images


def test_write_pack__other_chunks_start_over(pets, monkeypatch):
    pets.stop(6)
    pets.reads.clear()
    monkeypatch.setattr(journal, "_CHUNK_IMAGES", 6)  # as many chunks
    pets.make()
    assert len(pets.reads) == pets.count


def test_write_pack__lost_arrays_start_over(pets):
    pets.stop(6)
    pets.reads.clear()
    (pets.packs / ".pets.partial/pack/images.npy").unlink()
    pets.make()
    assert len(pets.reads) == pets.count


def test_write_pack__full_disk(pets, monkeypatch):
    writes, pwrite = [], os.pwrite

    def full(descriptor, data, offset):
        writes.append(offset)
        if len(writes) == 4:
            return pwrite(descriptor, data[: len(data) // 2], offset)
        if len(writes) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    pets.refused("No space left on device; .*run the same command again, which goes on")
    assert not pets.recipe().folder.exists()
    done = len(pets.reads) - 7
    pets.reads.clear()
    monkeypatch.setattr(os, "pwrite", pwrite)
    pets.make()
    assert len(pets.reads) == pets.count - done
    assert done == 21
    assert [*Pack(pets.recipe().folder).changes()] == []


def test_write_pack__too_little_room(pets, monkeypatch):
    usage = shutil.disk_usage(pets.source)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5000))
    pets.refused("the pack needs 0.0 GB and the disk of .*/packs has 0.0 GB left; free space")


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
        return Contents(splits, skip_damaged=self.skip)


def test_write_pack__truth_follows_its_image(pets):
    wanted = Recipe("masked", pets.packs, MaskedSource(), 8)
    pets.make(wanted)
    truth = np.load(wanted.folder / "pixel_labels.npy")
    assert truth[:, 0, 0].tolist() == [0, 1, 3, 4, 0, 1, 255, 3, 4]
    splits = Manifest.read(wanted.folder).splits
    assert [*splits["train"].digests] == ["images", "pixel_labels"]
    assert [*splits["bare"].digests] == ["images"]
    wanted = Recipe("strict", pets.packs, MaskedSource(skip=False), 8)
    pets.refused(r"number 2 cannot be read as an image \(it has no pixel_labels\); get it", wanted)
