"""Opening packs: what comes out is what went in, and what does not fit is refused."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.data import channel_statistics, digests, fingerprint
from benchmark.dataset import Split
from benchmark.packs.arrays import ArrayFile
from benchmark.packs.manifest import Manifest, Stored


def test_load__gives_back_what_was_packed(fakes):
    source = fakes.source(truth=("pixel_labels", "segments"))
    fakes.pack(source)
    data = fakes.load(source)
    assert torch.equal(data.train.images, fakes.stored(0, 6))
    assert torch.equal(data.test.images, fakes.stored(2, 4))
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.train.labels.dtype == torch.int64
    assert data.class_names == fakes.classes["fine"]
    assert data.pixel_class_names == ("sky", "road")
    for index in range(4):
        sample = fakes.sample(2, index, ("pixel_labels", "segments"))
        assert np.array_equal(data.test.pixel_labels[index], sample.pixel_labels)
        assert np.array_equal(data.test.segments[index], sample.segments)
    assert (data.mean, data.std) == channel_statistics(fakes.stored(0, 6))
    assert (data.pretrain, data.view_size, data.image_size) == (None, None, 8)


def test_load__fingerprints_are_those_of_the_arrays(fakes):
    fakes.pack(fakes.source())
    data = fakes.load(fakes.source())

    def hashed(pixels, labels):
        arrays = {"images": pixels.numpy(), "labels": np.array(labels, np.int64)}
        heads = {name: f"{a.dtype.str} {a.shape} ".encode() for name, a in arrays.items()}
        return {n: sha256(heads[n] + a.tobytes()).hexdigest() for n, a in arrays.items()}

    train, test = (
        hashed(fakes.stored(0, 6), [0, 1, 2] * 2),
        hashed(fakes.stored(2, 4), [0, 1, 2, 0]),
    )
    parts = ["images", fakes.classes["fine"], train, test]
    assert data.fingerprint == sha256(json.dumps(parts).encode()).hexdigest()
    parts[3] = None
    assert data.train_fingerprint == sha256(json.dumps(parts).encode()).hexdigest()
    alone = fakes.load(fakes.source(), test=None)
    assert alone.test is None
    assert alone.fingerprint == alone.train_fingerprint == data.train_fingerprint


def test_load__joins_neighbours_without_a_copy(fakes):
    fakes.pack(fakes.source())
    data = fakes.load(fakes.source(), pretrain=["train", "extra"])
    both = torch.cat([fakes.stored(0, 6), fakes.stored(1, 5)])
    assert torch.equal(data.pretraining.images, both)
    assert data.pretraining.labels.tolist() == [0, 1, 2, 0, 1, 2] + [-1] * 5
    assert len(data.train) == 6
    assert (data.mean, data.std) == channel_statistics(both)
    first, second = (
        digests(fakes.load(fakes.source()).train),
        digests(Split(fakes.stored(1, 5), torch.full((5,), -1))),
    )
    joined = {name: [first[name], second[name]] for name in first}
    assert data.train_fingerprint == fingerprint("images", fakes.classes["fine"], joined)
    plain = fakes.load(fakes.source())
    assert data.fingerprint not in (plain.fingerprint, data.train_fingerprint)
    same = fakes.load(fakes.source(), pretrain=["train"])
    assert (same.pretrain, same.fingerprint) == (None, plain.fingerprint)


def test_load__truth_only_where_every_split_has_it(fakes):
    source = fakes.source(truth=("segments",))
    fakes.pack(source)
    data = fakes.load(source, pretrain=["train", "extra"])
    assert data.train.segments is not None
    assert data.pretraining.segments is None


def test_load__splits_that_do_not_fit(fakes):
    fakes.pack(fakes.source())
    fakes.refused(
        r"data.train=\[train, test\] are no neighbours in .*/fake; .* of train, extra, test, val,",
        fakes.source(),
        train=["train", "test"],
    )
    fakes.refused("are no neighbours", fakes.source(), train=["extra", "train"])
    fakes.refused("are no neighbours", fakes.source(), train=[])
    fakes.refused(
        "names the split 'dev', which .* choose of train, extra", fakes.source(), test="dev"
    )
    fakes.refused(
        r"data.train=\[train, extra\] has 5 images without a class",
        fakes.source(),
        train=["train", "extra"],
    )
    fakes.refused(r"data.test=\[val\] has 1 images without a class", fakes.source(), test=["val"])
    assert fakes.load(fakes.source(), test="extra").test.labels is None


def test_load__chooses_a_label_set(fakes):
    source = fakes.source(sets=("fine", "coarse"))
    folder = fakes.pack(source)
    assert {file.name for file in folder.iterdir()} == {
        "images.npy", "labels_fine.npy", "labels_coarse.npy", "manifest.json",
    }  # fmt: skip
    coarse = fakes.load(source, labels="coarse")
    assert coarse.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert coarse.class_names == fakes.classes["coarse"]
    assert coarse.fingerprint != fakes.load(source, labels="fine").fingerprint
    fakes.refused("labels=None is none of the label sets .* one of fine, coarse", source)
    fakes.refused("labels=family is none of", source, labels="family")


def test_load__without_labels(fakes):
    fakes.pack(fakes.source(sets=()))
    data = fakes.load(fakes.source(sets=()))
    assert (data.train.labels, data.class_names) == (None, ())
    fakes.refused(
        "labels=fine is none of .* choose one of null", fakes.source(sets=()), labels="fine"
    )


def test_load__view_enters_the_fingerprint_where_it_differs(fakes):
    fakes.pack(fakes.source())
    plain = fakes.load(fakes.source())
    assert fakes.load(fakes.source(), image_size=8, view="centre").fingerprint == plain.fingerprint
    views = [fakes.load(fakes.source(), image_size=6, view=view) for view in ("whole", "centre")]
    assert len({plain.fingerprint, *(view.fingerprint for view in views)}) == 3
    assert {view.train_fingerprint for view in views} == {plain.train_fingerprint}
    assert [view.image_size for view in views] == [6, 6]
    assert fakes.load(fakes.source(), image_size=12).image_size == 12
    fakes.refused(
        "image_size=12 must lie between 1 and the stored 8",
        fakes.source(),
        image_size=12,
        view="centre",
    )
    fakes.refused("image_size=0 must lie", fakes.source(), image_size=0)


def test_load__arrays_are_copied_on_write(fakes):
    fakes.pack(fakes.source())
    fakes.load(fakes.source()).train.images.fill_(0)
    assert torch.equal(fakes.load(fakes.source()).train.images, fakes.stored(0, 6))


def test_load__missing(fakes):
    fakes.refused(
        f"data=fake is not prepared, there is no {fakes.data_dir}/fake/manifest.json; run python "
        f"benchmark/prepare.py data=fake source=DIR .*data_dir={fakes.data_dir}, .* DIR/fake.tar",
        fakes.source(),
    )
    fakes.refused("data=images source=DIR data.name=fake", fakes.source(), option="images")


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ({}, {"stored_size": 4}, "data.stored_size=8 where 4"),
        ({}, {"fit": "pad"}, "data.fit=crop where pad"),
        ({"truth": ["segments"]}, {}, r"data.source.truth=\[\] where \[segments\]"),
        ({"sets": ["fine", "coarse"]}, {}, r"data.source.sets=\[fine\] where \[fine,coarse\]"),
    ],
)
def test_load__made_with_other_settings(fakes, arguments, settings, message):
    fakes.pack(fakes.source())
    message = f"fake was made with {message} is asked for; change that, .* replace=true"
    fakes.refused(message, fakes.source(**arguments), **settings)


def test_load__shares_the_pack_of_another_name(fakes):
    fakes.pack(fakes.source())
    own = fakes.load(fakes.source())
    data = fakes.load(fakes.source(), name="cropped", pack="fake", image_size=4)
    assert data.name == "cropped"
    assert data.train_fingerprint == own.train_fingerprint
    fakes.refused("data=cropped is not prepared", fakes.source(), name="cropped")


def test_load__made_by_another_version_of_the_source(fakes, monkeypatch):
    fakes.pack(fakes.source())
    monkeypatch.setattr(fakes.source, "version", 2)
    fakes.refused("data.source.version=1 where 2 is asked for", fakes.source())


def test_load__no_name_or_no_size(fakes):
    fakes.refused("data.name='../x' cannot be a folder's name", fakes.source(), name="../x")
    fakes.refused("data.stored_size=0 is not a size", fakes.source(), stored_size=0)


def test_load__a_pack_larger_than_memory_opens_at_once(fakes):
    folder = fakes.pack(fakes.source())
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
    data = fakes.load(fakes.source(), test=None)
    taken = time.perf_counter() - started
    assert len(data.train) == count
    data.train.images[-1].fill_(7)
    assert data.train.images[-2:].float().mean() == 3.5
    assert taken < 0.2


def physical_memory():
    (line,) = [x for x in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in x]
    return int(line.split()[1]) * 1024
