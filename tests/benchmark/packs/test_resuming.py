"""Writing a pack after an interruption: nothing is done twice, and nothing stale is kept."""

from __future__ import annotations

import contextlib
import errno
import os

import numpy as np
import pytest
from PIL import Image

from benchmark.packs import journal, writer
from benchmark.packs.pack import Pack


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


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


@pytest.mark.parametrize("position", [0, 45])
def test_write_pack__a_change_after_images_were_left_out(pets, monkeypatch, position):
    """Neither the repaired image nor another one fits into arrays that are shorter already."""
    damaged, wanted = pets.files[0], pets.recipe(on_bad_image="skip")
    content = damaged.read_bytes()
    damaged.write_bytes(b"")

    def stop(*arguments):
        raise pets.stopped

    with monkeypatch.context() as patch:
        patch.setattr(writer, "digest_of_rows", stop)
        with pytest.raises(pets.stopped):
            pets.make(wanted)
    changed = pets.files[position]
    changed.write_bytes(content)
    pets.make(wanted)
    pets.make(fresh := pets.recipe("fresh", on_bad_image="skip"))
    for name in ("images.npy", "labels.npy"):
        assert (wanted.folder / name).read_bytes() == (fresh.folder / name).read_bytes()


def test_write_pack__a_change_that_is_taken_back(pets, monkeypatch):
    """What was written over meanwhile is not taken for done."""
    first = pets.files[0]
    content, times = first.read_bytes(), first.stat()
    pets.stop(4)
    Image.new("RGB", (10, 12), "red").save(first)

    def stop(event):
        if event.step is not None:
            raise pets.stopped

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "add", lambda self, filled: None)  # killed just before
        with pytest.raises(pets.stopped):
            pets.make(emit=stop)
    first.write_bytes(content)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    pets.make()
    pets.make(fresh := pets.recipe("fresh"))
    assert bytes_of(pets.recipe().folder)["images.npy"] == bytes_of(fresh.folder)["images.npy"]


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
