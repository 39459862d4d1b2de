"""CLEVR with masks: TFRecords written byte by byte from the format's definition."""

import gzip
import os
import pickle
import re
import shutil
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.sources import clevr

COUNTS = [3, 10, 4, 5, 3, 7, 6]  # objects of each scene


def varint(number):
    content = bytearray()
    while number > 127:
        content.append(number & 127 | 128)
        number >>= 7
    return bytes([*content, number])


def field(number, content):
    """A field of a protocol buffer with a length, wire type 2."""
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def feature(name, values):
    """An entry of the map in `tf.train.Features`."""
    if values.dtype == np.float32:
        inner = field(2, field(1, values.astype("<f4").tobytes()))
    else:  # a list of strings of one byte
        triples = np.empty((values.size, 3), np.uint8)
        triples[:] = (0x0A, 1, 0)
        triples[:, 2] = values.reshape(-1)
        inner = field(1, triples.tobytes())
    return field(1, field(1, name.encode()) + field(2, inner))


def record(features):
    data = field(1, b"".join(feature(name, values) for name, values in features.items()))
    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", clevr.masked_crc32c(length)), b"\0\0\0\0"]  # the second unread
    return length + checksums[0] + data + checksums[1]


def scene(rng, count):
    """Features as the site describes them, objects as overlapping boxes."""
    owner = np.zeros((240, 320), np.uint8)
    for k in range(1, count + 1):
        top, left = rng.integers(0, 180), rng.integers(0, 260)
        owner[top : top + 50, left : left + 50] = k
    there = np.arange(11) <= count
    attributes = {
        name: np.where(there, rng.integers(1, 3, 11), 0).astype(np.uint8)
        for name in ("size", "material", "color", "shape")
    }
    for values in attributes.values():
        values[0] = 0
    return {
        "image": rng.integers(0, 256, (240, 320, 3), np.uint8),
        "mask": ((owner == np.arange(11)[:, None, None]) * 255).astype(np.uint8),
        "x": rng.normal(size=11).astype(np.float32),
        "visibility": there.astype(np.float32),
        **attributes,
    }


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [scene(rng, count) for count in COUNTS]


@pytest.fixture(autouse=True)
def roomy(monkeypatch):
    """These scenes are few, and the disk need not have room for all that are published."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e12))


def write(folder, scenes):
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / clevr.FILE, "wb", compresslevel=1) as file:
        for features in scenes:
            file.write(record(features))
    return folder


def opened(folder, trust=True):
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return clevr.CLEVR().open(folder, scratch, trust=trust)


def refused(message, folder, **arguments):
    with pytest.raises(UserError) as caught:
        opened(folder, **arguments)
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text


def test_clevr__pixel_by_pixel(tmp_path, scenes):
    contents = opened(write(tmp_path / "a", scenes))
    assert {split: len(examples) for split, examples in contents.splits.items()} == {
        "train": 4,
        "val": 1,
        "test": 2,
    }
    assert contents.class_names == {"objects": ("3", "4", "5", "6", "7", "8", "9", "10")}
    position = 0
    for examples in contents.splits.values():
        copy = pickle.loads(pickle.dumps(examples))
        assert copy.truth == ("pixel_labels", "segments")
        for k in range(len(copy)):
            sample, features = copy.read(k), scenes[position]
            cropped = features["image"][29:221, 64:256]
            assert np.array_equal(np.asarray(sample.image), cropped)
            for row, column in np.random.default_rng(k).integers(0, 192, (500, 2)):
                (owner,) = np.flatnonzero(features["mask"][:, 29 + row, 64 + column])
                assert sample.segments[row, column] == owner
                assert sample.pixel_labels[row, column] == features["shape"][owner]
            assert examples.labels["objects"][k] == COUNTS[position] - 3
            assert copy.origin(k).endswith(f"{clevr.FILE}, scene {position}")
            position += 1


def test_clevr__unpacked_once(tmp_path, scenes, monkeypatch):
    folder = write(tmp_path / "a", scenes[:4])
    first = opened(folder)
    with monkeypatch.context() as patch:
        patch.setattr(clevr, "_unpack", None)  # nothing is decompressed any more
        second = opened(folder)
    for split, examples in first.splits.items():
        assert np.array_equal(examples.labels["objects"], second.splits[split].labels["objects"])
        for k in range(len(examples)):
            assert np.array_equal(examples.read(k).segments, second.splits[split].read(k).segments)
    write(folder, scenes)
    assert sum(map(len, opened(folder).splits.values())) == len(scenes)


def test_clevr__interrupted_unpacking_is_not_relied_on(tmp_path, scenes, monkeypatch):
    folder = write(tmp_path / "a", scenes[:4])
    content, times = (folder / clevr.FILE).read_bytes(), (folder / clevr.FILE).stat()
    opened(folder)
    write(folder, scenes)

    def stop(source, target):
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clevr, "_unpack", stop)
        with pytest.raises(KeyboardInterrupt):
            opened(folder)
    (folder / clevr.FILE).write_bytes(content)  # the first file, as it was
    os.utime(folder / clevr.FILE, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert opened(folder).splits["test"].read(0).image.size == (192, 192)


def test_clevr__too_little_room(tmp_path, scenes, monkeypatch):
    folder = write(tmp_path / "a", scenes[:4])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=14e9))
    message = "unpacks to 14.7 GB and the disk of .*/scratch has 14.0 GB left; free space there"
    refused(message, folder)
    assert [*(tmp_path / "scratch").iterdir()] == []


def test_clevr__wrong_count(tmp_path, scenes):
    folder = write(tmp_path / "a", scenes)
    message = "has 4 images in split train where 70,000 are published"
    refused(message, folder, trust=False)


def test_clevr__truncated_file_is_named(tmp_path, scenes):
    folder = write(tmp_path / "a", scenes[:2])
    path = folder / clevr.FILE
    content, whole = path.read_bytes(), gzip.decompress(path.read_bytes())
    path.write_bytes(content[: len(content) * 3 // 4])
    refused(f"{path} cannot be read at scene 1 .EOFError", folder)
    for end in (-1, -len(whole) // 2 + 6):  # the compressed file is whole, what it holds is not
        path.write_bytes(gzip.compress(whole[:end], 1))
        refused(f"{path} cannot be read at scene 1 .EOFError: its last record is cut off", folder)


def test_clevr__damaged_file_is_named(tmp_path, scenes):
    folder = write(tmp_path / "a", scenes[:1])
    path = folder / clevr.FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(f"{path} cannot be read at scene [01]", folder)


def test_clevr__not_such_a_file(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    refused(f"holds nothing where DIR/{clevr.FILE} is expected", folder)
    (folder / clevr.FILE).write_bytes(b"plain")
    refused("cannot be read at scene 0 .BadGzipFile", folder)
    (folder / clevr.FILE).write_bytes(gzip.compress(b"something else"))
    refused("cannot be read at scene 0 .*not a TFRecord file", folder)
    (folder / clevr.FILE).write_bytes(gzip.compress(b""))
    refused("has no images in split train", folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visibility": np.ones(11, np.float32)[:5]}, "ValueError"),
        ({"visibility": (np.arange(11) < 3).astype(np.float32)}, "2 objects where 3 to 10"),
        ({"shape": np.full(11, 4, np.uint8)}, "an object has the shape 4 where 1 to 3"),
        ({"shape": np.zeros(11, np.uint8)}, "an object has the shape 0 where 1 to 3"),
        ({"image": np.zeros((240, 320), np.uint8)}, "ValueError"),
        ({"image": np.zeros(57600, np.float32)}, "not stored one by one"),
    ],
)
def test_clevr__contents_that_do_not_fit(tmp_path, scenes, change, message):
    refused(f"at scene 0 .*{message}", write(tmp_path / "a", [{**scenes[0], **change}]))


def test_clevr__missing_feature(tmp_path, scenes):
    less = {name: values for name, values in scenes[0].items() if name != "mask"}
    refused("at scene 0 .KeyError: 'mask'", write(tmp_path / "a", [less]))


def test_masked_crc32c__published_values():
    # RFC 3720, B.4: 32 bytes of zeros and of ones; the mask is the rotation that TensorFlow states.
    for content, crc in ((bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)):
        rotated = (crc >> 15) | (crc << 17) & 0xFFFFFFFF
        assert clevr.masked_crc32c(content) == (rotated + 0xA282EAD8) % 2**32
