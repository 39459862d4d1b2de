"""CLEVR with masks (Kabra et al. 2019): 100,000 rendered scenes of 3 to 10 objects.

The site distributes one TFRecord file, compressed as a whole. Its frame and its protocol buffers
are simple enough to be read here, without TensorFlow.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import rich.progress
from jaxtyping import Float32, Int64, UInt8
from rich.console import Console

from benchmark.errors import UserError
from benchmark.files import read_json, write_json
from benchmark.sources.checks import check_counts, wrong_layout
from benchmark.sources.examples import SCENE, SceneExamples
from benchmark.sources.source import Contents, Examples, Source
from benchmark.type_check import misfit

FILE = "clevr_with_masks_train.tfrecords"

_ENTITIES, _HEIGHT, _WIDTH = 11, 240, 320  # the first entity is the background
_CROP = (slice(29, 221), slice(64, 256))  # rows and columns, as this set is usually cut
_OBJECTS = range(3, 11)
_SHAPES = 3
_COUNT = 100_000
_LONGEST = 1 << 24  # bytes of a record, several times what a scene takes
_VAL, _TEST = 70, 85  # percent of the scenes before these splits, as in CLEVR itself


class CLEVR(Source):
    """Objects as segments, the shape of its object as the class of a pixel.

    The label is the number of objects in the scene, whether or not the crop shows them all, as in
    the VTAB task CLEVR-Count (Zhai et al. 2019). The file has no splits: the first 70% are train,
    the next 15% val and the last test, the proportions of CLEVR itself.
    """

    version: ClassVar[int] = 1
    expects: ClassVar[str] = f"DIR/{FILE}"

    def open(self, folder: Path, scratch: Path, *, trust: bool) -> Contents:
        """See the contract; ``scratch`` needs 15 GB, as the scenes are unpacked and cropped.

        What an earlier call has unpacked there of the same file is taken as it is.
        """
        if not (folder / FILE).is_file():
            raise wrong_layout(folder, self.expects)
        labels = _unpacked(folder / FILE, scratch / "scenes") - _OBJECTS[0]
        splits: dict[str, Examples] = {}
        published: dict[str, int] = {}
        shares = {"train": (0, _VAL), "val": (_VAL, _TEST), "test": (_TEST, 100)}
        for split, (first, last) in shares.items():
            start, stop = (len(labels) * share // 100 for share in (first, last))
            splits[split] = SceneExamples(
                folder / FILE, scratch / "scenes", start, {"objects": labels[start:stop]}
            )
            published[split] = _COUNT * (last - first) // 100
        check_counts(folder, splits, published, trust=trust)
        pixel_classes = ("background", *(f"shape {k + 1}" for k in range(_SHAPES)))
        names = tuple(str(number) for number in _OBJECTS)
        return Contents(splits, {"objects": names}, pixel_classes, files=[folder / FILE])


def _unpacked(source: Path, target: Path) -> Int64[np.ndarray, "n"]:
    """Have every scene in ``target`` and return how many objects each has."""
    stat = source.stat()
    made_of = {"size": stat.st_size, "time": stat.st_mtime_ns, "version": CLEVR.version}
    counts_file = target.with_name("counts.json")
    if counts_file.exists():
        found = read_json(counts_file)
        counts = found.pop("counts", None)
        if found == made_of and misfit(counts, list[int], "counts") is None:
            return np.array(counts, np.int64)
    for file in (counts_file, target):
        file.unlink(missing_ok=True)
    needed, free = _COUNT * SCENE.itemsize, shutil.disk_usage(target.parent).free
    if needed > free:
        raise UserError(
            f"{source.name} unpacks to {needed / 1e9:.1f} GB and the disk of {target.parent} has "
            f"{free / 1e9:.1f} GB left; free space there, or choose another data_dir."
        )
    counts = _unpack(source, target)
    write_json(counts_file, {**made_of, "counts": counts.tolist()})
    return counts


def _unpack(source: Path, target: Path) -> Int64[np.ndarray, "n"]:
    """Write every scene to ``target`` and return how many objects each has."""
    counts: list[int] = []
    console = Console(stderr=True)
    try:
        with (
            rich.progress.open(source, "rb", description=source.name, console=console) as packed,
            gzip.open(packed) as stream,
            target.open("wb") as file,
        ):
            for record in _records(stream):
                scene, count = _scene(_features(record))
                file.write(scene.tobytes())
                counts.append(count)
            os.fsync(file.fileno())
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError, KeyError) as error:
        raise UserError(
            f"{source} cannot be read at scene {len(counts)} ({type(error).__name__}: {error}); "
            "download it again."
        ) from error
    return np.array(counts, np.int64)


def _scene(features: dict[str, memoryview]) -> tuple[np.ndarray, int]:
    """One element of `SCENE` and its number of objects."""
    image = _single_bytes(features["image"]).reshape(_HEIGHT, _WIDTH, 3)
    masks = _single_bytes(features["mask"]).reshape(_ENTITIES, _HEIGHT, _WIDTH)
    shapes = _single_bytes(features["shape"]).reshape(_ENTITIES)
    there = _floats(features["visibility"]).reshape(_ENTITIES)[1:] > 0
    count = int(there.sum())
    if count not in _OBJECTS:
        raise ValueError(f"it has {count} objects where {_OBJECTS[0]} to {_OBJECTS[-1]} can be")
    wrong = [int(shape) for shape in shapes[1:][there] if not 1 <= shape <= _SHAPES]
    if wrong:
        raise ValueError(f"an object has the shape {wrong[0]} where 1 to {_SHAPES} can be")
    scene = np.zeros((), SCENE)
    scene["image"] = image[_CROP]
    for number in range(1, _ENTITIES):
        scene["segments"][masks[number][_CROP] > 0] = number
    scene["shapes"][1:][there] = shapes[1:][there]
    return scene, count


def _records(stream: gzip.GzipFile) -> Iterator[memoryview]:
    """The records of a TFRecord file: length, its checksum, data, theirs.

    The data's checksum is left alone, as the one of the compressed file covers them.
    """
    while head := stream.read(12):
        if len(head) == 12:
            length, checksum = struct.unpack("<QI", head)
            if checksum != masked_crc32c(head[:8]) or length > _LONGEST:
                raise ValueError("it is not a TFRecord file of such scenes")
            data = stream.read(length + 4)
        if len(head) < 12 or len(data) < length + 4:
            raise EOFError("its last record is cut off")
        yield memoryview(data)[:length]


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720), rotated and shifted as TFRecord files store it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _features(record: memoryview) -> dict[str, memoryview]:
    """The list of values of each feature of a `tf.train.Example`, by its name."""
    ((_, features),) = _fields(record)
    lists = {}
    for _, entry in _fields(features):
        name_and_feature = dict(_fields(entry))
        ((_, lists[bytes(name_and_feature[1]).decode()]),) = _fields(name_and_feature[2])
    return lists


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a protocol buffer; all here have a length."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        size, position = _varint(message, position)
        if tag & 7 != 2 or position + size > len(message):
            raise ValueError("a protocol buffer in it is damaged")
        yield tag >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and the position after it."""
    value = shift = 0
    while position < len(message):
        byte = message[position]
        value |= (byte & 127) << shift
        shift += 7
        position += 1
        if byte < 128:
            return value, position
    raise ValueError("a protocol buffer in it is damaged")


def _single_bytes(values: memoryview) -> UInt8[np.ndarray, "n"]:
    """A list of byte strings of one byte each, which is how the file stores pixels."""
    tags, lengths, content = (np.frombuffer(values, np.uint8)[k::3] for k in range(3))
    if len(values) % 3 or (tags != 0x0A).any() or (lengths != 1).any():
        raise ValueError("its bytes are not stored one by one")
    return content


def _floats(values: memoryview) -> Float32[np.ndarray, "n"]:
    ((_, packed),) = _fields(values)
    return np.frombuffer(packed, "<f4")
