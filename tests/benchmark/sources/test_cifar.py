"""CIFAR: the pickles as Python 2 wrote them, and trees of image files."""

import io
import pickle
import re
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5

from benchmark.errors import UserError
from benchmark.sources import cifar

REAL = Path(__file__).parents[4] / "shared/data/cifar10-images.tar.xz"
NAMES10 = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
]  # fmt: skip
BATCHES = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]


class Python2Pickler(pickle._Pickler):
    """Writes bytes as the strings of Python 2, as the distributed files have them."""

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_bytes}  # noqa: RUF012


def dump(path, content):
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(content)


def batch(rng, count, classes, key=b"labels"):
    return {
        b"data": rng.integers(0, 256, (count, 3072), np.uint8),
        key: rng.integers(0, classes, count).tolist(),
        b"filenames": [b"x.png"] * count,
    }


def cifar10(root):
    """Three images per batch; returns pixels (n 3 32 32) and labels of both splits."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    batches = {name: batch(rng, 3, 10) for name in BATCHES}
    for name, content in batches.items():
        dump(folder / name, content)
    meta = {b"label_names": [name.encode() for name in NAMES10], b"num_vis": 3072}
    dump(folder / "batches.meta", meta)
    train = [batches[name] for name in BATCHES[:5]]
    return {"train": joined(train, b"labels"), "test": joined([batches["test_batch"]], b"labels")}


def joined(batches, key):
    pixels = np.concatenate([content[b"data"] for content in batches]).reshape(-1, 3, 32, 32)
    return pixels, [label for content in batches for label in content[key]]


def check(contents, expected):
    assert [*contents.splits] == ["train", "test"]
    for split, (pixels, labels) in expected.items():
        examples = pickle.loads(pickle.dumps(contents.splits[split]))
        assert examples.labels["class"].tolist() == labels
        assert len(examples) == len(labels)
        for k in range(len(labels)):
            assert np.array_equal(np.asarray(examples.read(k).image), pixels[k].transpose(1, 2, 0))


def opened(source, folder, trust=True):
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return source.open(folder, scratch, trust=trust)


def refused(message, source, folder, **arguments):
    with pytest.raises(UserError) as caught:
        opened(source, folder, **arguments)
    text = str(caught.value)
    assert re.search(message, text), text
    assert text.endswith(".")
    assert "\n" not in text


def publish(monkeypatch, folder):
    """Make the tiny files the published ones."""
    for attribute in ("train_list", "test_list"):
        names = [name for name, _ in getattr(datasets.CIFAR10, attribute)]
        lists = [[name, calculate_md5(folder / name)] for name in names]
        monkeypatch.setattr(datasets.CIFAR10, attribute, lists)
    meta = {**datasets.CIFAR10.meta, "md5": calculate_md5(folder / "batches.meta")}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    monkeypatch.setattr(cifar, "_COUNTS", {"train": 15, "test": 3})


def test_cifar10__pickles_pixel_by_pixel(tmp_path, monkeypatch):
    expected = cifar10(tmp_path / "a")
    publish(monkeypatch, tmp_path / "a/cifar-10-batches-py")
    contents = opened(cifar.CIFAR10(), tmp_path / "a", trust=False)
    check(contents, expected)
    assert contents.class_names == {"class": tuple(NAMES10)}
    md5 = calculate_md5(tmp_path / "a/cifar-10-batches-py/data_batch_2")
    assert contents.checksums["cifar-10-batches-py/data_batch_2"] == f"md5:{md5}"
    assert contents.splits["train"].origin(4).endswith("cifar-10-batches-py, split train, image 4")
    inner = opened(cifar.CIFAR10(), tmp_path / "a/cifar-10-batches-py", trust=False)
    check(inner, expected)
    assert inner.checksums["data_batch_2"] == f"md5:{md5}"


def test_cifar10__archive(tmp_path):
    expected = cifar10(tmp_path / "made")
    folder = tmp_path / "a"
    folder.mkdir()
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made/cifar-10-batches-py", "cifar-10-batches-py")
    check(opened(cifar.CIFAR10(), folder), expected)
    assert [path.name for path in folder.iterdir()] == ["cifar-10-python.tar.gz"]
    refused(r"cifar-10-python\.tar\.gz has the MD5", cifar.CIFAR10(), folder, trust=False)


def test_cifar100__fine_labels(tmp_path):
    folder = tmp_path / "a/cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    made = {split: batch(rng, 4, 100, b"fine_labels") for split in ("train", "test")}
    for split, content in made.items():
        dump(folder / split, {**content, b"coarse_labels": [0] * 4})
    names = [f"fine{k:02}" for k in range(100)]
    fine = [name.encode() for name in names]
    dump(folder / "meta", {b"fine_label_names": fine, b"coarse_label_names": [b"x"] * 20})
    contents = opened(cifar.CIFAR100(), tmp_path / "a")
    check(contents, {split: joined([made[split]], b"fine_labels") for split in made})
    assert contents.class_names == {"class": tuple(names)}
    check(opened(cifar.CIFAR100(), folder), {s: joined([made[s]], b"fine_labels") for s in made})


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_cifar10__no_pickle_executes_code(tmp_path, name, monkeypatch):
    folder = tmp_path / "a/cifar-10-batches-py"
    cifar10(tmp_path / "a")
    publish(monkeypatch, folder)
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"), protocol=2)
    (folder / name).write_bytes(bomb)
    message = f"{folder / name} has the MD5 .* is published; .* or set trust=true"
    refused(message, cifar.CIFAR10(), tmp_path / "a", trust=False)
    message = f"{folder / name} cannot be read .*it names [a-z_.]+, which is no data"
    refused(message, cifar.CIFAR10(), tmp_path / "a", trust=True)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)
    assert (tmp_path / "exploded").exists()  # so it was a live one


def test_cifar10__pickles_of_later_versions(tmp_path):
    expected = cifar10(tmp_path / "a")
    for name in [*BATCHES, "batches.meta"]:
        path = tmp_path / "a/cifar-10-batches-py" / name
        content = pickle.loads(path.read_bytes(), encoding="latin1")
        path.write_bytes(pickle.dumps(content, protocol=2 + len(name) % 3))
    check(opened(cifar.CIFAR10(), tmp_path / "a"), expected)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        # BUILD with the state (None, {"__call__": None}), which sets attributes of most objects.
        (b"cnumpy\ndtype\nN}U\x08__call__Ns\x86b.", "it changes a function"),
        (b"cnumpy\nndarray\n)\x81.", "cannot be read"),  # NEWOBJ, of a class alone
        (b"cbuiltins\neval\nU\x011\x85R.", "it names builtins.eval, which is no data"),
        (b"(ibuiltins\neval\n.", "it names builtins.eval"),  # INST
        (b"}.", "it lacks labels"),
        (b"K\x01.", "it is 1 where an object"),
    ],
)
def test_cifar10__programs_of_a_pickle(tmp_path, program, message):
    cifar10(tmp_path / "a")
    path = tmp_path / "a/cifar-10-batches-py/data_batch_1"
    path.write_bytes(b"\x80\x02" + program)
    refused(f"data_batch_1 .*{message}", cifar.CIFAR10(), tmp_path / "a")
    expected = cifar10(tmp_path / "b")  # is read as ever
    check(opened(cifar.CIFAR10(), tmp_path / "b"), expected)


def test_cifar10__truncated_pickle_is_named(tmp_path):
    cifar10(tmp_path / "a")
    path = tmp_path / "a/cifar-10-batches-py/data_batch_4"
    path.write_bytes(path.read_bytes()[:5000])
    refused(f"{path} .*cannot be read", cifar.CIFAR10(), tmp_path / "a")
    path.write_bytes(b"")
    refused(f"{path} .*cannot be read .EOFError", cifar.CIFAR10(), tmp_path / "a")


def test_cifar10__missing_pickle_is_named(tmp_path):
    cifar10(tmp_path / "a")
    (tmp_path / "a/cifar-10-batches-py/data_batch_4").unlink()
    refused(r"lacks cifar-10-batches-py/data_batch_4;", cifar.CIFAR10(), tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"labels": [0, 1, 10]}, "the label 10 where 0 to 9 are expected"),
        ({b"labels": [0, 1]}, "3 images and 2 labels"),
        ({b"data": np.zeros((3, 3072), np.float32)}, "cannot be read .*not of uint8"),
        ({b"data": np.zeros((3, 3000), np.uint8)}, "cannot be read"),
        ({b"data": np.array([None] * 3072)}, "cannot be read .*not of uint8"),
        ({b"data": [0] * 3072}, "cannot be read"),
        ({b"labels": "012"}, "cannot be read .*labels is '012' where a list"),
        ({b"labels": [0, True, 2]}, r"cannot be read .*labels\[1\] is True where"),
    ],
)
def test_cifar10__contents_that_do_not_fit(tmp_path, change, message):
    cifar10(tmp_path / "a")
    content = {**batch(np.random.default_rng(0), 3, 10), **change}
    dump(tmp_path / "a/cifar-10-batches-py/data_batch_1", content)
    refused(f"data_batch_1 .*{message}", cifar.CIFAR10(), tmp_path / "a")


def test_cifar10__wrong_count(tmp_path, monkeypatch):
    cifar10(tmp_path / "a")
    publish(monkeypatch, tmp_path / "a/cifar-10-batches-py")
    monkeypatch.setattr(cifar, "_COUNTS", {"train": 50_000, "test": 3})
    message = "has 15 images in split train where 50,000 are published"
    refused(message, cifar.CIFAR10(), tmp_path / "a", trust=False)


def test_cifar10__wrong_layout(tmp_path):
    refused(r"a is not a folder; give one that holds DIR/cifar-10", cifar.CIFAR10(), tmp_path / "a")
    (tmp_path / "a").mkdir()
    refused(r"holds nothing where DIR/cifar-10-python\.tar\.gz, ", cifar.CIFAR10(), tmp_path / "a")
    (tmp_path / "a/train").mkdir()
    for k in range(7):
        (tmp_path / f"a/file{k}").touch()
    message = r"holds file0, file1, file2, file3, file4 and 3 more where"
    refused(message, cifar.CIFAR10(), tmp_path / "a")


def tree(root, names, count=2):
    paths = [
        root / s / n / f"{k}.png" for s in ("train", "test") for n in names for k in range(count)
    ]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(path)


def test_cifar10__tree(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    tree(folder, NAMES10)
    (folder / "train/cat/.hidden.png").touch()
    (folder / "train/.cache").mkdir()
    contents = opened(cifar.CIFAR10(), folder)
    assert contents.class_names == {"class": tuple(NAMES10)}
    assert contents.checksums == {}
    for split, examples in contents.splits.items():
        paths = sorted((folder / split).glob("*/[!.]*.png"))
        assert [examples.origin(k) for k in range(len(examples))] == [*map(str, paths)]
        assert examples.labels["class"].tolist() == [NAMES10.index(p.parent.name) for p in paths]
        for k, path in enumerate(paths):
            assert np.array_equal(np.asarray(examples.read(k).image), np.asarray(Image.open(path)))
    refused("20 images in split train where 50,000", cifar.CIFAR10(), folder, trust=False)
    monkeypatch.setattr(cifar, "_COUNTS", {"train": 20, "test": 20})
    opened(cifar.CIFAR10(), folder, trust=False)


def test_cifar10__tree_of_other_classes(tmp_path):
    folder = tmp_path / "a"
    tree(folder, NAMES10)
    shutil.rmtree(folder / "test/dog")
    refused(r"a/test lacks images .* of the classes dog;", cifar.CIFAR10(), folder)
    shutil.rmtree(folder / "train/dog")
    shutil.rmtree(folder / "test/cat", ignore_errors=True)
    shutil.copytree(folder / "train/cat", folder / "test/cat")
    refused(r"has the classes airplane, .* and 4 more where CIFAR-10 has", cifar.CIFAR10(), folder)
    refused(r"has 9 classes where CIFAR-100 has 100", cifar.CIFAR100(), folder)


def test_cifar100__tree(tmp_path):
    names = [f"fine{k:02}" for k in range(100)]
    tree(tmp_path / "a", names, count=1)
    contents = opened(cifar.CIFAR100(), tmp_path / "a")
    assert contents.splits["test"].labels["class"].tolist() == [*range(100)]
    assert contents.class_names == {"class": tuple(names)}


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is missing")
def test_cifar10__real_tree(tmp_path):
    folder = tmp_path / "a"
    taken = {}
    with tarfile.open(REAL) as archive:
        for member in archive:
            label = Path(member.name).parent.name
            if member.isfile() and member.name.startswith("test/") and taken.get(label, 0) < 2:
                archive.extract(member, folder, filter="data")
                taken[label] = taken.get(label, 0) + 1
            if len(taken) == 10 and min(taken.values()) == 2:
                break
    shutil.copytree(folder / "test", folder / "train")
    contents = opened(cifar.CIFAR10(), folder)
    examples = contents.splits["test"]
    assert examples.labels["class"].tolist() == [label for label in range(10) for _ in range(2)]
    for k in range(len(examples)):
        image = examples.read(k).image
        direct = Image.open(io.BytesIO(Path(examples.origin(k)).read_bytes()))
        assert image.size == (32, 32)
        assert np.array_equal(np.asarray(image), np.asarray(direct))
