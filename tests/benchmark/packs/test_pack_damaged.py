"""Packs that are not as they were made."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmark.packs.arrays import ArrayFile
from benchmark.packs.pack import Pack


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
def test_load__damaged_array_file(fakes, name, how):
    folder = fakes.pack(source := fakes.source(truth=["segments"]))
    damage(folder / name, how)
    message = f"{folder / name} cannot be used because it .*; run .* data=fake .* replace=true"
    fakes.refused(message, source)


def test_load__array_of_another_shape(fakes):
    folder = fakes.pack(fakes.source())
    np.save(folder / "labels.npy", np.zeros(17, np.int32))
    fakes.refused(r"labels.npy cannot .* it holds <i4 \(17,\) where <i8 \(17,\)", fakes.source())


def edited(folder, **changes):
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_load__manifest_that_is_not_as_written(fakes):
    folder = fakes.pack(fakes.source())
    whole = (folder / "manifest.json").read_text()
    edited(folder, stored_size=16)
    fakes.refused("manifest.json cannot .* has been changed since", fakes.source(), stored_size=16)
    (folder / "manifest.json").write_text(whole.replace('"ant"', '"bug"'))
    fakes.refused("manifest.json cannot .* has been changed since", fakes.source())
    (folder / "manifest.json").write_text(whole[:-20])
    fakes.refused("manifest.json cannot be used because it is no JSON", fakes.source())
    (folder / "manifest.json").write_text("[]")
    fakes.refused("is of format None where 1 is expected", fakes.source())
    (folder / "manifest.json").write_text(whole)
    edited(folder, format=2)
    fakes.refused("manifest.json .* is of format 2 where 1 is expected; run", fakes.source())


def test_changes__name_file_and_split(fakes):
    folder = fakes.pack(source := fakes.source(truth=["segments"]))
    assert [*Pack(folder).changes()] == []
    damage(folder / "images.npy", "flip")  # 50 bytes from the end: the last image
    fakes.load(source)  # opening reads no pixel
    (change,) = Pack(folder).changes()
    assert change.file == folder / "images.npy"
    assert change.problem == "split val has changed since it was packed"


@pytest.mark.parametrize("row", [0, 5, 6, 10, 11, 14])
def test_changes__every_row_counts(fakes, row):
    folder = fakes.pack(fakes.source())
    file = ArrayFile.open(folder / "images.npy")
    rows = file.map()[row : row + 1]
    rows[0, 2, 7, 7] ^= 1
    file.write(row, rows)
    (change,) = Pack(folder).changes()
    split = "train" if row < 6 else "extra" if row < 11 else "test"
    assert change.problem == f"split {split} has changed since it was packed"
