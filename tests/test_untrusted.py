"""Files that somebody else may have written: none executes code, and each is named when refused."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import pickle
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import array_file
from benchmark.checkpoint import load_encoder
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.foreign import FORMATS, load_foreign
from benchmark.gallery import load_masks
from benchmark.packs.manifest import DamagedPackError, Recipe
from benchmark.packs.opened import Pack
from benchmark.packs.packing import prepare
from benchmark.run import main
from benchmark.runs import PlannedTask, finished_beside
from benchmark.sources.archives import unpack
from benchmark.sources.clevr import CLEVR, FILE, masked_crc32c
from benchmark.sources.examples import read_image
from benchmark.sources.folder import Folder
from benchmark.sources.inaturalist import INaturalist2021
from reports import masks
from reports.results.mask_runs import find

ROOT = Path(__file__).parents[1]
LINE = ("preset=smoke", "data.train_count=128", "data.test_count=64", "task=[knn,mask_quality]")
DEEP = "[" * 100_000


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path: Path):
    """The file that malicious ones touch; the test fails if one did, or could not have."""
    file = tmp_path / "executed"
    yield file
    assert not file.exists()
    pickle.loads(pickle.dumps(Payload(file)))
    assert file.exists()


@pytest.fixture
def payload(marker: Path) -> Payload:
    return Payload(marker)


def saved(content: Any, *, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


MALICIOUS: dict[str, Callable[[Any], bytes]] = {
    "zip": lambda content: saved(content, zipped=True),
    "legacy": lambda content: saved(content, zipped=False),
    "pickle": lambda content: pickle.dumps(content, protocol=2),
}


# A run and its files -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs, seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*LINE, "method=random", "seed=0"]) == 0
        assert main([*LINE, "method=random", "seed=1"]) == 0
    return folder


@pytest.fixture
def runs(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them, in the current folder."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    (folder,) = Path("runs/scenes").iterdir()
    return folder


def told(capfd, *, status: int, seed: int = 0) -> str:
    capfd.readouterr()
    assert main([*LINE, "method=random", f"seed={seed}"]) == status
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    return str(out + err)


def test_run__result_of_another_configuration(runs: Path, capfd) -> None:
    (file,) = runs.glob("seed0/results/knn-*/seed0.json")
    whole = file.read_text()
    changes = {"hash8": "01234567", "metrics": {"accuracy": 77.75}}
    file.write_text(json.dumps(json.loads(whole) | changes))
    for seed in (0, 1):  # it is planned; it lies beside what is planned
        text = told(capfd, status=1, seed=seed)
        assert re.search(rf"error: {file} was made from something else \(hash8 01234567 in", text)
        tables = "".join(path.read_text() for path in Path("runs/tables").iterdir())
        assert "(n=1, 1 invalid)" in tables
        assert "77.7" not in tables
    file.write_text(whole)
    told(capfd, status=0)
    table = Path("runs/tables/table1.md").read_text()
    assert "over n=2 seeds" in table
    assert "invalid" not in table


def test_run__files_of_a_run_beside(runs: Path, capfd, marker: Path) -> None:
    record, config = (runs / "seed1" / name for name in ("pretraining.json", "config.yaml"))
    shutil.copytree(runs / "seed1", runs / "seed2")  # its config.yaml tells that it is a copy
    whole = record.read_text()
    record.write_text(DEEP)
    text = told(capfd, status=1)
    assert f"error: {record} is broken (it is nested too deeply)" in text
    assert "(n=1, 1 invalid)" in text
    record.write_text(whole)
    config.write_text(f"run: !!python/object/apply:pathlib.Path.touch [{marker}]")
    (runs / "seed0/plan.json").write_bytes(b"\xff")  # is written anew
    text = told(capfd, status=0)
    assert ": one seed, in percent" in text
    assert "invalid" not in text


@pytest.mark.parametrize(
    "content", ["[" * 2000, "\0", "- 1", "run: [1]", "a: &a [*a]", "a: !!python/name:os.system"]
)
def test_finished_beside__passes_over_what_is_no_configuration(runs: Path, content: str) -> None:
    (run,) = (masked.run for c in find([runs / "seed0"]).configurations for masked in c.runs)
    planned = replace(
        run, tasks=(PlannedTask("knn", "scenes", "", 0, run.folder / "results/x.json", ""),)
    )
    (runs / "seed1/results/x.json").write_text("{}")
    assert [one.seed for one in finished_beside([planned])] == [1]
    (runs / "seed1/config.yaml").write_text(content)
    assert list(finished_beside([planned])) == []


@pytest.mark.parametrize("kind", ["zip", "pickle"])
def test_run__malicious_checkpoint(runs: Path, capfd, payload: Payload, kind: str) -> None:
    (runs / "seed0/encoder.safetensors").unlink()
    (old,) = runs.glob("seed0/checkpoints/*.pt")
    content = MALICIOUS[kind]({"owner": "random/seed0", "step": 2, "state": payload})
    file = old.with_name(f"step00000009-{hashlib.sha256(content).hexdigest()[:16]}.pt")
    file.write_bytes(content)
    assert f"FAILED: {file} cannot be used" in told(capfd, status=1)


def test_run__malicious_encoder(runs: Path, capfd, payload: Payload) -> None:
    file, record = (runs / "seed0" / name for name in ("encoder.safetensors", "pretraining.json"))
    file.write_bytes(saved({"conv1.weight": payload}, zipped=True))
    assert f"{file} is not the encoder" in told(capfd, status=1)
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    record.write_text(json.dumps(json.loads(record.read_text()) | {"encoder_sha256": checksum}))
    shutil.rmtree(runs / "seed0/results")
    assert f"{file} cannot be loaded" in told(capfd, status=1)


@pytest.mark.parametrize(
    "content",
    [
        lambda payload: pickle.dumps(payload, protocol=2),
        lambda payload: saved({"conv1.weight": payload}, zipped=False),
        lambda _: struct.pack("<Q", 2**63) + b"{}",  # length of the header
        lambda _: struct.pack("<Q", 100_000) + DEEP.encode(),
        lambda _: struct.pack("<Q", 2) + b"{}",
        lambda _: struct.pack("<Q", 4) + b"null",
    ],
)
def test_load_encoder__malicious(tmp_path: Path, payload: Payload, content) -> None:
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(content(payload))
    with pytest.raises(ValueError, match=f"{file} cannot be loaded"):
        load_encoder(file, ResNet(18, 8))


def member(content: bytes) -> bytes:
    """An .npz file with the masks as they are given."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("masks.npy", content)
        archive.writestr("images.npy", content)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        lambda payload: member(npy(np.array([payload]))),
        lambda payload: member(pickle.dumps(payload)),
        lambda payload: pickle.dumps(payload),
        lambda _: member(header("{'descr': '|u1', 'fortran_order': False, 'shape': (9" + "0" * 99)),
        lambda _: member(header(f"{{'descr': '|u1', 'shape': {'(' * 9000}")),
        lambda _: member(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1)),
        lambda _: member(npy(np.zeros(3))),
    ],
)
def test_load_masks__malicious(tmp_path: Path, payload: Payload, content) -> None:
    (tmp_path / "test.npz").write_bytes(content(payload))
    with pytest.raises(ValueError, match=rf"{tmp_path}/test\.npz is broken"):
        load_masks(tmp_path, "fingerprint")


def test_run__malicious_masks(runs: Path, capfd, payload: Payload) -> None:
    file = runs / "seed0/masks/test.npz"
    file.write_bytes(member(npy(np.array([payload]))))
    (result,) = runs.glob("seed0/results/mask_quality-*/seed0.json")
    result.unlink()
    assert f"{file} is broken" in told(capfd, status=1)
    found = find([Path("runs")])
    assert len(found.configurations[0].runs) == 1  # the other seed
    assert [problem.split(" is broken")[0] for problem in found.problems] == [str(file)]


def test_masks__python_tags_in_a_configuration(runs: Path, capfd, marker: Path) -> None:
    file = runs / "seed0/config.yaml"
    file.write_text(f"run: !!python/object/apply:pathlib.Path.touch [{marker}]\n")
    assert masks.main(["runs", "--out", "masks"]) == 1
    error = capfd.readouterr().err
    assert error.startswith(f"error: {file} is not the configuration of a run")
    assert error.count("\n") == 1


def test_read_arrays__refuses_what_unfolds_to_too_much(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(array_file, "_LARGEST", 10_000)
    np.savez_compressed(tmp_path / "a.npz", masks=np.zeros(20_000, np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 1_000
    with pytest.raises(ValueError, match=r"a\.npz is broken .*it unfolds to 20,\d+ bytes"):
        array_file.read_arrays(tmp_path / "a.npz")


# Somebody else's checkpoints and data ------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", MALICIOUS)
def test_load_foreign__malicious(
    tmp_path: Path, payload: Payload, kind: str, format: str, suffix: str
) -> None:
    file = tmp_path / f"theirs{suffix}"
    file.write_bytes(MALICIOUS[kind]({"state_dict": {"conv1.weight": payload}}))
    with pytest.raises(UserError, match=str(file)) as caught:
        load_foreign(file, format, ResNet(18, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: weight.to_sparse(), "torch.sparse_coo"),
        (lambda weight: weight.to("meta"), "on meta"),
        (lambda weight: weight.to(torch.complex64), "torch.complex64"),
        (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "torch.qint8"),
        (lambda weight: weight > 0, "torch.bool"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of torch, on what it still saves
def test_load_foreign__tensors_that_are_no_weights(tmp_path: Path, change, said: str) -> None:
    encoder, file = ResNet(18, 8), tmp_path / "theirs.pth"
    weights = encoder.state_dict()
    torch.save(weights | {"conv1.weight": change(weights["conv1.weight"])}, file)
    with pytest.raises(UserError, match=f"{file} has conv1.weight as .*{said}.*; save the state"):
        load_foreign(file, "torchvision", encoder)


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("inside/link", tarfile.SYMTYPE, "../../outside"),
        ("inside/link", tarfile.SYMTYPE, "/etc"),
        ("inside/link", tarfile.SYMTYPE, "first"),  # not even within the folder
        ("inside/link", tarfile.LNKTYPE, "inside/first"),
        ("inside/link", tarfile.LNKTYPE, "../outside"),
        ("inside/pipe", tarfile.FIFOTYPE, ""),
        ("inside/device", tarfile.CHRTYPE, ""),
        ("inside/\0", tarfile.REGTYPE, ""),
    ],
)
def test_unpack__what_is_neither_file_nor_folder(tmp_path: Path, name, kind, target) -> None:
    archive, scratch = tmp_path / "a.tar", tmp_path / "scratch"
    scratch.mkdir()
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("inside/first"))
        info = tarfile.TarInfo("inside/x")
        info.pax_headers = {"path": name}
        info.type, info.linkname = kind, target
        tar.addfile(info)
        through = tarfile.TarInfo(f"{name}/file".replace("\0", ""))
        tar.addfile(through)
    with pytest.raises(UserError, match=f"{archive} cannot be unpacked"):
        unpack(archive, scratch)
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert there <= {"a.tar", "scratch"} | {
        f"scratch/a.tar{p}" for p in ("", "/inside", "/inside/first")
    }


def test_unpack__absolute_names_stay_inside(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo()
        info.name = str(tmp_path / "outside")
        tar.addfile(info)
    folder = unpack(tmp_path / "a.tar", tmp_path / "scratch")
    assert not (tmp_path / "outside").exists()
    assert (folder / str(tmp_path / "outside").lstrip("/")).exists()


def test_read_image__executes_no_postscript(tmp_path: Path, marker: Path, monkeypatch) -> None:
    interpreter = tmp_path / "bin" / "gs"  # which Pillow would call
    interpreter.parent.mkdir()
    interpreter.write_text(f"#!/bin/sh\ntouch {marker}\n")
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", str(interpreter.parent), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    file = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(file, "EPS")
    with pytest.raises(OSError, match=f"cannot identify image file .*{file}"):
        read_image(file)


def test_read_image__refuses_a_bomb(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(Image.DecompressionBombError):
        read_image(file)


def test_clevr__a_record_of_any_length(tmp_path: Path) -> None:
    import gzip

    length = struct.pack("<Q", 2**64 - 8)
    head = length + struct.pack("<I", masked_crc32c(length))
    (tmp_path / FILE).write_bytes(gzip.compress(head + bytes(100)))
    (tmp_path / "scratch").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.sources.clevr._COUNT", 1)
        with pytest.raises(UserError, match=f"{FILE} cannot be read at scene 0"):
            CLEVR().open(tmp_path, tmp_path / "scratch", trust=True)


def test_inaturalist__a_listing_nested_too_deeply(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.json").write_text(DEEP)
    with pytest.raises(UserError, match=r"train\.json cannot be read as a listing"):
        INaturalist2021().open(tmp_path, tmp_path, trust=True)


# Packs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    for k in range(4):
        file = folder / "source/train" / ("cat", "dog")[k % 2] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (k, k, k)).save(file)
    recipe = Recipe("pets", folder, Folder(["train"]), 8)
    prepare(recipe, folder / "source", workers=1, trust=False, replace=False, emit=lambda _: None)
    return recipe.folder


@pytest.fixture
def pack(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "pets"))


def damaged(folder: Path, name: str) -> str:
    """What is wrong with a file of a pack."""
    with pytest.raises(DamagedPackError) as caught:
        Pack(folder)
    assert caught.value.file == folder / name
    return caught.value.problem


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
@pytest.mark.parametrize(
    "content",
    [
        lambda payload: npy(np.array([payload] * 4)),
        lambda payload: pickle.dumps(payload),
        lambda _: header("{'descr': '|O', 'fortran_order': False, 'shape': (4,)}\n") + bytes(32),
        lambda _: header("{'descr': '|u1', 'fortran_order': False, 'shape': (9" + "0" * 99),
        lambda _: header("(" * 9000),
        lambda _: (
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (-4, -4)}\n") + bytes(16)
        ),
    ],
)
def test_pack__malicious_array(pack: Path, payload: Payload, name: str, content) -> None:
    (pack / name).write_bytes(content(payload))
    damaged(pack, name)


def forge(folder: Path, **changes: Any) -> None:
    """Change a manifest, and its checksum with it."""
    file = folder / "manifest.json"
    content = {**json.loads(file.read_text()), **changes}
    del content["sha256"]
    text = json.dumps(content, sort_keys=True)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps({**content, "sha256": checksum}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arrays": []}, "it.arrays is of type list where an object"),
        ({"arrays": {}}, "of 0"),
        ({"arrays": {"images": ["|u1", [4, 3, 8, 8]]}}, "an array 'labels', which is not there"),
        ({"arrays": {"images": ["|u1", [-4, 3, 8, 8]]}}, "the shape"),
        ({"arrays": {"images": ["|u1", [4, 3, 8, "8"]]}}, "is '8' where a whole number"),
        ({"arrays": {"images": ["|u1"]}}, "has 1 parts where 2"),
        ({"stored_size": 8.0}, "it.stored_size is 8.0 where a whole number"),
        ({"stored_size": 16}, "array 'images' is |u1 (4, 3, 8, 8) where |u1 (4, 3, 16, 16)"),
        ({"class_names": {"class": "ab"}}, "it.class_names.class is 'ab' where a list"),
        ({"class_names": {"class": ["a", "\x1b[2J"]}}, "printable text"),
        ({"class_names": {"a": ["x"], "b": ["y"]}}, "array 'labels'"),
        ({"splits": {"train": {}}}, "it.splits.train lacks start"),
        ({"surplus": 1}, "it has the key 'surplus', which is not known"),
        ({"pillow": None}, "it.pillow is None where"),
    ],
)  # fmt: skip
def test_pack__forged_manifest(pack: Path, changes: dict[str, Any], says: str) -> None:
    forge(pack, **changes)
    assert says in damaged(pack, "manifest.json")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stop": 5}, "rows 0 to 5 of 4"),
        ({"start": -1}, "rows -1 to 4"),
        ({"start": True}, "it.splits.train.start is True where a whole number"),
        ({"digests": {"more": "0"}}, "'more', which is not there"),
        ({"counts": [[1]]}, "does not count 256 values"),
        ({"skipped": [3]}, "it.splits.train.skipped[0] is 3 where"),
    ],
)
def test_pack__forged_split(pack: Path, changes: dict[str, Any], says: str) -> None:
    whole = json.loads((pack / "manifest.json").read_text())["splits"]["train"]
    forge(pack, splits={"train": whole | changes})
    assert says in damaged(pack, "manifest.json")


def test_pack__forged_arrays(pack: Path) -> None:
    arrays = json.loads((pack / "manifest.json").read_text())["arrays"]
    np.save(pack.parent / "outside.npy", np.zeros(4, np.uint8))
    forge(pack, arrays={**arrays, "../outside": ["|u1", [4]]})
    assert "array '../outside' is |u1 (4,) where nothing" in damaged(pack, "manifest.json")
    forge(pack, arrays={**arrays, "labels": ["<f8", [4]]})
    np.save(pack / "labels.npy", np.zeros(4))
    assert "array 'labels' is <f8 (4,) where <i8 (4,)" in damaged(pack, "manifest.json")


def test_pack__manifest_that_is_no_json(pack: Path, payload: Payload) -> None:
    for content in (DEEP.encode(), b'{"format": NaN}', pickle.dumps(payload), b"\xff"):
        (pack / "manifest.json").write_bytes(content)
        assert damaged(pack, "manifest.json").startswith("it is no JSON")


# All of the code ---------------------------------------------------------------------------------

# Jobs of SLURM, which submitit pickles, are programs of the user's own.
_NEVER = ("eval", "exec", "pickle.load", "pickle.loads", "marshal.load", "marshal.loads")
_NEVER += ("yaml.unsafe_load", "yaml.full_load", "shelve.open", "joblib.load")
_LOADER = "getattr(yaml, 'CSafeLoader', yaml.SafeLoader)"


def test_code__reads_no_file_that_could_execute_it() -> None:
    calls = 0
    for package in ("benchmark", "methods", "tasks", "reports"):
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text())
            for call in ast.walk(tree):
                if not isinstance(call, ast.Call):
                    continue
                name, where = ast.unparse(call.func), f"{file}:{call.lineno}"
                keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
                assert name not in _NEVER, where
                assert keywords.get("allow_pickle", "False") == "False", where
                if name == "torch.load":
                    assert keywords["weights_only"] == "True", where
                    calls += 1
                if name == "yaml.load":
                    assert f"{ast.unparse(call.args[1])} = {_LOADER}" in ast.unparse(tree), where
    assert calls  # so that the names are right
