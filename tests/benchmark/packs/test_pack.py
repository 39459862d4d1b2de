"""Opening packs: what comes out is what went in, and what does not fit is refused."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.contracts import Split, UserError
from benchmark.data import channel_statistics, digests, fingerprint
from benchmark.packs.arrays import ArrayFile
from benchmark.packs.manifest import Manifest, Recipe, Stored
from benchmark.packs.pack import Pack
from benchmark.packs.pack import load as load_pack
from benchmark.packs.packing import prepare
from benchmark.sources.source import Contents, Examples, Sample, Source

CLASSES = {"fine": ("ant", "bee", "cat"), "coarse": ("insect", "other")}


@dataclass(frozen=True)
class Drawn(Examples):
    seed: int
    count: int
    truth: tuple[str, ...] = ()
    labels: dict = field(default_factory=dict)

    def __len__(self):
        return self.count

    def read(self, index):
        draw = np.random.default_rng([self.seed, index])
        image = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
        return Sample(image, **{n: draw.integers(0, 9, (8, 8), np.uint8) for n in self.truth})

    def origin(self, index):
        return f"drawing {index}"


class Fake(Source):
    """Splits train, extra (without labels), test and val."""

    version: ClassVar[int] = 1
    expects: ClassVar[str] = "DIR/fake.tar"

    def __init__(self, sets=("fine",), truth=()):
        self.sets = list(sets)
        self.truth = list(truth)

    def open(self, folder, scratch, *, trust):
        truth = tuple(self.truth)

        def labelled(count):
            return {s: np.arange(count) % len(CLASSES[s]) for s in self.sets}

        partly = {s: np.array([0, -1]) for s in self.sets}
        splits = {
            "train": Drawn(0, 6, truth, labelled(6)),
            "extra": Drawn(1, 5),
            "test": Drawn(2, 4, truth, labelled(4)),
            "val": Drawn(3, 2, truth, partly),
        }
        names = {s: CLASSES[s] for s in self.sets}
        pixel_names = ("sky", "road") if truth else ()
        return Contents(splits, names, pixel_names, {"fake.tar": "md5:0"})


def pack(data_dir, source, **settings):
    recipe = Recipe("fake", data_dir, source, **{"stored_size": 8, **settings})
    prepare(recipe, data_dir, workers=1, trust=False, replace=True, emit=lambda event: None)
    return recipe.folder


def load(data_dir, source, **settings):
    wanted = {"name": "fake", "stored_size": 8, "train": ["train"], "test": ["test"]}
    return load_pack(data_dir=str(data_dir), source=source, **{**wanted, **settings})


def refused(message, *arguments, **settings):
    with pytest.raises(UserError) as caught:
        load(*arguments, **settings)
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text


def stored(seed, count):
    images = [np.asarray(Drawn(seed, count).read(k).image) for k in range(count)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def test_load__gives_back_what_was_packed(tmp_path):
    source = Fake(truth=("pixel_labels", "segments"))
    pack(tmp_path, source)
    data = load(tmp_path, source)
    assert torch.equal(data.train.images, stored(0, 6))
    assert torch.equal(data.test.images, stored(2, 4))
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.train.labels.dtype == torch.int64
    assert data.class_names == CLASSES["fine"]
    assert data.pixel_class_names == ("sky", "road")
    for index in range(4):
        sample = Drawn(2, 4, ("pixel_labels", "segments")).read(index)
        assert np.array_equal(data.test.pixel_labels[index], sample.pixel_labels)
        assert np.array_equal(data.test.segments[index], sample.segments)
    assert (data.mean, data.std) == channel_statistics(stored(0, 6))
    assert (data.pretrain, data.view_size, data.image_size) == (None, None, 8)


def test_load__fingerprints_are_those_of_the_arrays(tmp_path):
    pack(tmp_path, Fake())
    data = load(tmp_path, Fake())

    def hashed(pixels, labels):
        arrays = {"images": pixels.numpy(), "labels": np.array(labels, np.int64)}
        heads = {name: f"{a.dtype.str} {a.shape} ".encode() for name, a in arrays.items()}
        return {n: sha256(heads[n] + a.tobytes()).hexdigest() for n, a in arrays.items()}

    train, test = hashed(stored(0, 6), [0, 1, 2] * 2), hashed(stored(2, 4), [0, 1, 2, 0])
    parts = ["images", CLASSES["fine"], train, test]
    assert data.fingerprint == sha256(json.dumps(parts).encode()).hexdigest()
    parts[3] = None
    assert data.train_fingerprint == sha256(json.dumps(parts).encode()).hexdigest()
    alone = load(tmp_path, Fake(), test=None)
    assert alone.test is None
    assert alone.fingerprint == alone.train_fingerprint == data.train_fingerprint


def test_load__joins_neighbours_without_a_copy(tmp_path):
    pack(tmp_path, Fake())
    data = load(tmp_path, Fake(), pretrain=["train", "extra"])
    both = torch.cat([stored(0, 6), stored(1, 5)])
    assert torch.equal(data.pretraining.images, both)
    assert data.pretraining.labels.tolist() == [0, 1, 2, 0, 1, 2] + [-1] * 5
    assert len(data.train) == 6
    assert (data.mean, data.std) == channel_statistics(both)
    first, second = (
        digests(load(tmp_path, Fake()).train),
        digests(Split(stored(1, 5), torch.full((5,), -1))),
    )
    joined = {name: [first[name], second[name]] for name in first}
    assert data.train_fingerprint == fingerprint("images", CLASSES["fine"], joined)
    plain = load(tmp_path, Fake())
    assert data.fingerprint not in (plain.fingerprint, data.train_fingerprint)
    same = load(tmp_path, Fake(), pretrain=["train"])
    assert (same.pretrain, same.fingerprint) == (None, plain.fingerprint)


def test_load__truth_only_where_every_split_has_it(tmp_path):
    source = Fake(truth=("segments",))
    pack(tmp_path, source)
    data = load(tmp_path, source, pretrain=["train", "extra"])
    assert data.train.segments is not None
    assert data.pretraining.segments is None


def test_load__splits_that_do_not_fit(tmp_path):
    pack(tmp_path, Fake())
    refused(
        r"data.train=\[train, test\] are no neighbours in .*/fake; .* of train, extra, test, val,",
        tmp_path,
        Fake(),
        train=["train", "test"],
    )
    refused("are no neighbours", tmp_path, Fake(), train=["extra", "train"])
    refused("are no neighbours", tmp_path, Fake(), train=[])
    refused("names the split 'dev', which .* choose of train, extra", tmp_path, Fake(), test="dev")
    refused(
        r"data.train=\[train, extra\] has 5 images without a class",
        tmp_path,
        Fake(),
        train=["train", "extra"],
    )
    refused(r"data.test=\[val\] has 1 images without a class", tmp_path, Fake(), test=["val"])
    assert load(tmp_path, Fake(), test="extra").test.labels is None


def test_load__chooses_a_label_set(tmp_path):
    source = Fake(sets=("fine", "coarse"))
    folder = pack(tmp_path, source)
    assert {file.name for file in folder.iterdir()} == {
        "images.npy", "labels_fine.npy", "labels_coarse.npy", "manifest.json",
    }  # fmt: skip
    coarse = load(tmp_path, source, labels="coarse")
    assert coarse.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert coarse.class_names == CLASSES["coarse"]
    assert coarse.fingerprint != load(tmp_path, source, labels="fine").fingerprint
    refused("labels=None is none of the label sets .* one of fine, coarse", tmp_path, source)
    refused("labels=family is none of", tmp_path, source, labels="family")


def test_load__without_labels(tmp_path):
    pack(tmp_path, Fake(sets=()))
    data = load(tmp_path, Fake(sets=()))
    assert (data.train.labels, data.class_names) == (None, ())
    refused("labels=fine is none of .* choose one of null", tmp_path, Fake(sets=()), labels="fine")


def test_load__view_enters_the_fingerprint_where_it_differs(tmp_path):
    pack(tmp_path, Fake())
    plain = load(tmp_path, Fake())
    assert load(tmp_path, Fake(), image_size=8, view="centre").fingerprint == plain.fingerprint
    views = [load(tmp_path, Fake(), image_size=6, view=view) for view in ("whole", "centre")]
    assert len({plain.fingerprint, *(view.fingerprint for view in views)}) == 3
    assert {view.train_fingerprint for view in views} == {plain.train_fingerprint}
    assert [view.image_size for view in views] == [6, 6]
    assert load(tmp_path, Fake(), image_size=12).image_size == 12
    refused(
        "image_size=12 must lie between 1 and the stored 8",
        tmp_path,
        Fake(),
        image_size=12,
        view="centre",
    )
    refused("image_size=0 must lie", tmp_path, Fake(), image_size=0)


def test_load__arrays_are_copied_on_write(tmp_path):
    pack(tmp_path, Fake())
    load(tmp_path, Fake()).train.images.fill_(0)
    assert torch.equal(load(tmp_path, Fake()).train.images, stored(0, 6))


def test_load__missing(tmp_path):
    refused(
        f"data=fake is not prepared, there is no {tmp_path}/fake/manifest.json; run python "
        f"benchmark/prepare.py data=fake source=DIR data_dir={tmp_path} .* DIR/fake.tar",
        tmp_path,
        Fake(),
    )
    refused("data=images source=DIR data.name=fake", tmp_path, Fake(), option="images")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stored_size": 4}, "data.stored_size=8 and this run asks for 4"),
        ({"fit": "pad"}, "data.fit=crop and this run asks for pad"),
        ({"source": Fake(truth=["segments"])}, r'data.source.truth=\[\] and .* \["segments"\]'),
        ({"source": Fake(sets=["coarse"])}, r"data.source.sets="),
    ],
)
def test_load__made_with_other_settings(tmp_path, settings, message):
    pack(tmp_path, Fake())
    refused(f"{message}.*replace=true", tmp_path, **{"source": Fake(), **settings})


def test_load__made_by_another_version_of_the_source(tmp_path, monkeypatch):
    pack(tmp_path, Fake())
    monkeypatch.setattr(Fake, "version", 2)
    refused("data.source.version=1 and this run asks for 2", tmp_path, Fake())


def test_load__no_name_or_no_size(tmp_path):
    refused("data.name='../x' cannot be a folder's name", tmp_path, Fake(), name="../x")
    refused("data.stored_size=0 is not a size", tmp_path, Fake(), stored_size=0)


def damage(file, how):
    content = file.read_bytes()
    middle = len(content) - 50
    changed = {
        "truncate": content[:-9],
        "extend": content + b"\0",
        "empty": b"",
        "header": content[:60] + b"x" + content[61:],
        "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }
    file.unlink()
    if how != "remove":
        file.write_bytes(changed[how])


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "segments.npy"])
@pytest.mark.parametrize("how", ["truncate", "extend", "empty", "header", "remove"])
def test_load__damaged_array_file(tmp_path, name, how):
    folder = pack(tmp_path, source := Fake(truth=["segments"]))
    damage(folder / name, how)
    message = f"{folder / name} cannot be used because it .*; run .* data=fake .* replace=true"
    refused(message, tmp_path, source)


def test_load__array_of_another_shape(tmp_path):
    folder = pack(tmp_path, Fake())
    np.save(folder / "labels.npy", np.zeros(17, np.int32))
    refused(r"labels.npy cannot .* it holds <i4 \(17,\) where <i8 \(17,\)", tmp_path, Fake())


def edited(folder, **changes):
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_load__manifest_that_is_not_as_written(tmp_path):
    folder = pack(tmp_path, Fake())
    whole = (folder / "manifest.json").read_text()
    edited(folder, stored_size=16)
    refused("manifest.json cannot .* has been changed since", tmp_path, Fake(), stored_size=16)
    (folder / "manifest.json").write_text(whole.replace('"ant"', '"bug"'))
    refused("manifest.json cannot .* has been changed since", tmp_path, Fake())
    (folder / "manifest.json").write_text(whole[:-20])
    refused("manifest.json cannot be used because it is no JSON", tmp_path, Fake())
    (folder / "manifest.json").write_text("[]")
    refused("is of format None where 1 is expected", tmp_path, Fake())
    (folder / "manifest.json").write_text(whole)
    edited(folder, format=2)
    refused("manifest.json .* is of format 2 where 1 is expected; run", tmp_path, Fake())


def test_changes__name_file_and_split(tmp_path):
    folder = pack(tmp_path, source := Fake(truth=["segments"]))
    assert [*Pack(folder).changes()] == []
    damage(folder / "images.npy", "flip")  # 50 bytes from the end: the last image
    load(tmp_path, source)  # opening reads no pixel
    (change,) = Pack(folder).changes()
    assert change.file == folder / "images.npy"
    assert change.problem == "split val has changed since it was packed"


@pytest.mark.parametrize("row", [0, 5, 6, 10, 11, 14])
def test_changes__every_row_counts(tmp_path, row):
    folder = pack(tmp_path, Fake())
    file = ArrayFile.open(folder / "images.npy")
    rows = file.map()[row : row + 1]
    rows[0, 2, 7, 7] ^= 1
    file.write(row, rows)
    (change,) = Pack(folder).changes()
    split = "train" if row < 6 else "extra" if row < 11 else "test"
    assert change.problem == f"split {split} has changed since it was packed"


def test_load__a_pack_larger_than_memory_opens_at_once(tmp_path):
    folder = pack(tmp_path, Fake())
    count = 50_000_000  # 9.6 GB at 8 px
    count *= 1 + 2 * physical_memory() // (count * 192)
    (folder / "images.npy").unlink()
    (folder / "labels.npy").unlink()
    images = ArrayFile.create(folder / "images.npy", "|u1", (count, 3, 8, 8))
    labels = ArrayFile.create(folder / "labels.npy", "<i8", (count,))
    manifest = Manifest.read(folder)
    arrays = {file.path.stem: (file.dtype.str, file.shape) for file in (images, labels)}
    whole = Stored(0, count, dict.fromkeys(arrays, "0" * 64), {}, [[1] * 256] * 3, [])
    replace(manifest, arrays=arrays, splits={"train": whole}).write(folder)
    started = time.perf_counter()
    data = load(tmp_path, Fake(), test=None)
    taken = time.perf_counter() - started
    assert len(data.train) == count
    data.train.images[-1].fill_(7)
    assert data.train.images[-2:].float().mean() == 3.5
    assert taken < 0.2


def physical_memory():
    (line,) = [x for x in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in x]
    return int(line.split()[1]) * 1024
