"""Decoded images are kept: which entry is used, and what may happen to it."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from benchmark import folder
from benchmark.packs import journal
from benchmark.packs.manifest import Manifest
from benchmark.sources.examples import FileExamples


def test_cache__is_reused(tmp_path, monkeypatch, classes):
    train, cache = classes(tmp_path / "train"), tmp_path / "cache"
    plain = folder.load(train=train)
    first = folder.load(train=train, test=train, cache_dir=cache)
    monkeypatch.setattr(folder, "prepare", None)  # nothing is decoded any more
    second = folder.load(train=train, test=train, cache_dir=cache)
    assert torch.equal(second.train.images, plain.train.images)
    assert torch.equal(second.train.labels, plain.train.labels)
    assert second.fingerprint == first.fingerprint != plain.fingerprint
    assert [len(entry.name) for entry in cache.iterdir()] == [16]  # and no temporary folder
    second.train.images.fill_(0)  # copy-on-write: the file stays as it is
    assert torch.equal(folder.load(train=train, cache_dir=cache).train.images, plain.train.images)


def test_cache__other_settings_or_files_make_another_entry(tmp_path, picture, classes):
    train, cache = classes(tmp_path / "train"), tmp_path / "cache"
    seen = {folder.load(train=train, cache_dir=cache).fingerprint}
    seen.add(folder.load(train=train, cache_dir=cache, image_size=16).fingerprint)
    picture(train / "cat/0.png", seed=99)
    os.utime(train / "cat/0.png", ns=(1, 1))
    seen.add(folder.load(train=train, cache_dir=cache).fingerprint)
    picture(train / "cat/new.png", seed=98)
    seen.add(folder.load(train=train, cache_dir=cache).fingerprint)
    copy = shutil.copytree(train, tmp_path / "copy")
    folder.load(train=copy, cache_dir=cache)
    assert len(seen) == 4
    assert len([*cache.iterdir()]) == 5


def test_cache__writers_at_once(tmp_path, classes):
    train, cache = classes(tmp_path / "train", count=20), tmp_path / "cache"
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: folder.load(train=train, cache_dir=cache), range(4)))
    assert len({data.fingerprint for data in found}) == 1
    assert len([*cache.iterdir()]) == 1


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_cache__damage_is_named(tmp_path, name, damage, classes, refused):
    train, cache = classes(tmp_path / "train"), tmp_path / "cache"
    folder.load(train=train, cache_dir=cache)
    (file,) = cache.glob(f"*/{name}")
    content = file.read_bytes()
    changed = {
        "flip": content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        "truncate": content[:-9],
        "empty": b"",
    }
    file.unlink()
    if damage != "remove":
        file.write_bytes(changed[damage])
    refused(
        f"cache file {file} is damaged .* delete the folder {file.parent} and run again",
        train=train,
        cache_dir=cache,
    )
    shutil.rmtree(file.parent)
    folder.load(train=train, cache_dir=cache)


def test_cache__foreign_digest(tmp_path, classes, refused):
    train, cache = classes(tmp_path / "train"), tmp_path / "cache"
    folder.load(train=train, cache_dir=cache)
    (entry,) = cache.iterdir()
    manifest = Manifest.read(entry)
    train_split = manifest.splits["train"]
    foreign = replace(train_split, digests=train_split.digests | {"labels": "0" * 64})
    replace(manifest, splits={"train": foreign}).write(entry)
    refused("labels.npy is damaged", train=train, cache_dir=cache)


def test_cache__cannot_be_written(tmp_path, classes, refused):
    train = classes(tmp_path / "train")
    (tmp_path / "file").write_text("in the way")
    refused(r"/file.*: Not a directory; put that", train=train, cache_dir=tmp_path / "file")


def test_cache__goes_on_where_a_killed_run_stopped(tmp_path, classes):
    """And leaves nothing but the entry behind."""
    train, cache = classes(tmp_path / "train", count=20), tmp_path / "cache"
    code = (
        "import os; from benchmark import folder; from benchmark.packs import journal, writer\n"
        "journal._CHUNK_IMAGES = 7; folder.num_cores = lambda: 1\n"
        "writer._Writer._tell = lambda *_: os.kill(os.getpid(), 9)\n"
        f"folder.load(train={str(train)!r}, cache_dir={str(cache)!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    (left,) = cache.iterdir()
    assert len((left / "journal.jsonl").read_text().splitlines()) == 1 + 1
    plain = folder.load(train=train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_CHUNK_IMAGES", 7)
        patch.setattr(folder, "num_cores", lambda: 1)
        reads, read = [], FileExamples.read
        patch.setattr(FileExamples, "read", lambda self, k: reads.append(k) or read(self, k))
        data = folder.load(train=train, cache_dir=cache)
    assert len(reads) == 40 - 7
    assert data.fingerprint == plain.fingerprint
    assert [len(entry.name) for entry in cache.iterdir()] == [16]
