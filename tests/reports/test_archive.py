import errno
import gzip
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmark.lock import exclusive
from benchmark.runs import PlannedTask, Run, identity, note_plans
from reports.archive import main
from reports.build import build
from reports.results.found import find
from reports.sets import archive_file, merging
from reports.sets.archive_file import read_manifest
from reports.sets.merging import import_archive

ROOT = Path(__file__).parents[2]
TASKS = ("linear", "knn")
HOST = "node17.lab.example.org"
RUN = "scenes/adios-0123abcd/seed0"
LINEAR = "results/linear-scenes-00000000/seed0.json"


def lay_out(
    runs: Path, method: str = "adios", seed: int = 0, *, hash8: str = "0123abcd", score: float = 40
) -> Path:
    """A finished run as `benchmark.job` leaves it, with what no archive holds."""
    folder = runs / "scenes" / f"{method}-{hash8}" / f"seed{seed}"
    tasks = tuple(
        PlannedTask(
            name,
            "scenes",
            "f0",
            0,
            folder / f"results/{name}-scenes-00000000/seed0.json",
            f"{name}-1-p0",
        )
        for name in TASKS
    )
    run = Run(
        method, "simclr", "resnet18", "scenes", "demo", seed, None, "f0", hash8, "s0", folder, tasks
    )
    note_plans([run])
    weights = f"weights {method} {seed}".encode()
    (folder / "encoder.safetensors").write_bytes(weights)
    checksum = hashlib.sha256(weights).hexdigest()
    for number, task in enumerate(tasks):
        images = task.result.with_suffix(".npz")
        images.parent.mkdir(parents=True)
        np.savez(images, score=np.full(4, score + number))
        result = {
            "task": task.name,
            "data": "scenes",
            "protocol": "How top-1/top-5 are scored.",
            "protocol_id": task.protocol_id,
            "version": 1,
            "hash8": hash8,
            "pretrain_seed": seed,
            "eval_seed": 0,
            "metrics": {"accuracy": score + number},
            "details": {"warning": "no cache in\n/home/jane/cache"} if number else {},
            "cost": {"seconds": 1.5},
            "inputs": {"encoder_sha256": checksum, "data_fingerprint": "f0"},
            "commit": "a" * 40,
            "dirty": False,
            "encoder_commit": "a" * 40,
            "encoder_dirty": False,
            "per_image": {
                "file": "seed0.npz",
                "sha256": hashlib.sha256(images.read_bytes()).hexdigest(),
            },
        }
        task.result.write_text(json.dumps(result))
    record = {"encoder_sha256": checksum, "commit": "a" * 40, "dirty": False}
    (folder / "pretraining.json").write_text(json.dumps(record))
    config = {
        "run": identity(run),
        "method": {"_target_": f"methods.{method}"},
        "data": {"_target_": "benchmark.pack", "data_dir": "/home/jane doe/sets", "split": "train"},
        "slurm": {"mail": "jane@lab.example.org"},
        "runs_dir": "/home/jane/runs",
        "data_dir": "~jane/datasets",
        "tables_dir": "../jane/tables",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    attempt = {
        "commit": "a" * 40,
        "command": [
            "/home/jane/maskbench/benchmark/run.py",
            "runs_dir=/home/jane/runs",
            "slurm.mail=jane@lab.example.org",
            "seed=0,1",
        ],
        "machine": {"host": HOST, "device": "cpu"},
    }
    (folder / "provenance.json").write_text(json.dumps({"attempts": [attempt]}))
    (folder / "metrics.jsonl").write_text('{"epoch": 0, "step": 1, "loss": 2.5}\n')
    (folder / "masks/steps").mkdir(parents=True)
    np.savez(folder / "masks/test.npz", masks=np.zeros(3, np.uint8))
    np.savez(folder / "masks/steps/step00000000.npz", masks=np.zeros(3, np.uint8))
    for name in (
        "checkpoints/step00000004-0.pt",
        "jobs.json",
        "error.txt",
        "progress.json",
        "tensorboard/events.out.tfevents.1",
        "wandb/run-1/run.log",
        "logs/0.out",
        "masks/gallery.png",
        "results/linear-scenes-00000000/seed0.error.txt",
    ):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(f"/home/jane on {HOST}")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two methods, one with two seeds, in a folder; and an archive of them."""
    folder = tmp_path_factory.mktemp("made")
    for method, hash8, seed in (("adios", "0123abcd", 0), ("adios", "0123abcd", 1)):
        lay_out(folder / "runs", method, seed, hash8=hash8, score=40 + seed)
    lay_out(folder / "runs", "none", hash8="fedc9876")
    assert main(["export", str(folder / "runs"), "--out", str(folder / "results.tar.gz")]) == 0
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "runs", tmp_path / "theirs")


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made / "results.tar.gz", tmp_path))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "not there yet" / "ours"


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def table1(runs: Path, out: Path) -> bytes:
    found = find([runs])
    build(found.runs, found.configs, out, command="", commit=None, page=False)
    return (out / "table1.csv").read_bytes()


# Export


def test_export__holds_what_reports_read(archive: Path) -> None:
    found = members(archive)
    assert next(iter(found)) == "MANIFEST.json"
    prefix = f"maskbench-results/{RUN}/"
    assert {name.removeprefix(prefix) for name in found if name.startswith(prefix)} == {
        "plan.json",
        "config.yaml",
        "provenance.json",
        "pretraining.json",
        "metrics.jsonl",
        "masks/test.npz",
        "masks/steps/step00000000.npz",
        *(f"results/{t}-scenes-00000000/seed0.{end}" for t in TASKS for end in ("json", "npz")),
    }


def test_export__manifest(archive: Path) -> None:
    found = members(archive)
    manifest = json.loads(found.pop("MANIFEST.json"))
    assert (manifest["version"], manifest["runs"], manifest["anonymous"]) == (1, 3, False)
    assert manifest["members"] == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in found.items()
    }


def test_export__same_folders_same_bytes(runs: Path, archive: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(runs, tmp_path / "copy", copy_function=shutil.copyfile)
    (copied / RUN / "plan.json").chmod(0o600)
    assert main(["export", str(copied), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again").read_bytes() == archive.read_bytes()
    with tarfile.open(archive) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "", 0o644)}


@pytest.mark.parametrize(
    ("option", "name", "there"),
    [
        ("--no-masks", "masks/test.npz", False),
        ("--no-masks", "masks/steps/step00000000.npz", False),
        ("--encoders", "encoder.safetensors", True),
        ("--encoders", "masks/test.npz", True),
    ],
)
def test_export__options(runs: Path, tmp_path: Path, option: str, name: str, there: bool) -> None:
    assert main(["export", str(runs), "--out", str(tmp_path / "x"), option]) == 0
    assert (f"maskbench-results/{RUN}/{name}" in members(tmp_path / "x")) is there


def test_export__names_what_it_leaves_out(runs: Path, tmp_path: Path, capsys) -> None:
    (runs / RUN / "plan.json").write_text("{")
    assert main(["export", str(runs), "--out", str(tmp_path / "x")]) == 1
    assert f"left out: {runs / RUN}/plan.json is broken" in capsys.readouterr().err
    assert len(read_manifest(tmp_path / "x").runs) == 2


def test_export__unfinished_runs_too(runs: Path, tmp_path: Path, out: Path) -> None:
    for name in ("pretraining.json", "error.txt"):
        (runs / RUN / name).unlink()
    shutil.rmtree(runs / RUN / "results")
    assert main(["export", str(runs), "--out", str(tmp_path / "x")]) == 0
    assert len(import_archive(tmp_path / "x", out).added) == 3
    assert table1(out, tmp_path / "1") == table1(runs, tmp_path / "2")


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_export__no_runs(tmp_path: Path, capsys, place: str) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["export", str(tmp_path / place), "--out", str(tmp_path / "x")]) == 2
    assert place in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_export__file_that_changes_is_no_archive(runs: Path, tmp_path: Path, monkeypatch) -> None:
    written = archive_file._add

    def change(*arguments: Any) -> None:
        (runs / RUN / "plan.json").write_bytes((runs / RUN / "plan.json").read_bytes()[:-1] + b" ")
        written(*arguments)

    monkeypatch.setattr(archive_file, "_add", change)
    assert main(["export", str(runs), "--out", str(tmp_path / "x")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_export__anonymous_tells_no_host_and_no_path(runs: Path, tmp_path: Path) -> None:
    assert main(["export", str(runs), "--out", str(tmp_path / "x"), "--anonymous"]) == 0
    content = gzip.decompress((tmp_path / "x").read_bytes())
    for word in (HOST, "jane", "lab.example", str(tmp_path), "/home", "/root", os.uname().nodename):
        assert word.encode() not in content or len(word) < 4, word
    texts = {k: v for k, v in members(tmp_path / "x").items() if not k.endswith(".npz")}
    for name, text in texts.items():
        for line in text.decode().splitlines():
            assert not any(word.startswith(("/", "~", "../")) for word in line.split('"')), name
    command = json.loads(texts[f"maskbench-results/{RUN}/provenance.json"])["attempts"][0]
    assert command["command"] == ["run.py", "runs_dir=PATH", "seed=0,1"]
    assert command["machine"] == {"host": "", "device": "cpu"}
    result = texts[f"maskbench-results/{RUN}/{LINEAR}"]
    assert result == (runs / RUN / LINEAR).read_bytes(), "nothing was to be taken out"


def test_export__anonymous_gives_the_same_table(runs: Path, tmp_path: Path, out: Path) -> None:
    assert main(["export", str(runs), "--out", str(tmp_path / "x"), "--anonymous"]) == 0
    import_archive(tmp_path / "x", out)
    assert table1(out, tmp_path / "1") == table1(runs, tmp_path / "2")


# Import


def test_import__same_files_and_table(runs: Path, archive: Path, out: Path, tmp_path: Path) -> None:
    assert main(["import", str(archive), "--out", str(out)]) == 0
    packed = {k: v for k, v in members(archive).items() if k != "MANIFEST.json"}
    assert files(out) == {k.removeprefix("maskbench-results/"): v for k, v in packed.items()}
    assert [path.name for path in out.iterdir()] == ["scenes"]
    assert table1(out, tmp_path / "1") == table1(runs, tmp_path / "2")


def test_import__again_changes_nothing(archive: Path, out: Path) -> None:
    import_archive(archive, out)
    before = files(out)
    done = import_archive(archive, out)
    assert (len(done.unchanged), done.added, done.completed, done.conflicts) == (3, [], {}, [])
    assert files(out) == before


def test_import__completes_a_run_of_the_same_encoder(archive: Path, out: Path, runs: Path) -> None:
    import_archive(archive, out)
    shutil.rmtree((out / RUN / LINEAR).parent)
    (out / RUN / LINEAR).parent.mkdir()
    (out / RUN / LINEAR).with_suffix(".error.txt").write_text("Traceback")
    (out / RUN / "masks/test.npz").unlink()
    done = import_archive(archive, out)
    assert done.completed == {RUN: 3}
    assert not (out / RUN / LINEAR).with_suffix(".error.txt").exists()
    assert (out / RUN / LINEAR).read_bytes() == (runs / RUN / LINEAR).read_bytes()
    assert import_archive(archive, out).completed == {}


def test_import__into_a_run_that_is_only_planned(archive: Path, out: Path, runs: Path) -> None:
    (out / RUN).mkdir(parents=True)
    shutil.copy(runs / RUN / "plan.json", out / RUN)
    assert list(import_archive(archive, out).completed) == [RUN]
    assert (out / RUN / "pretraining.json").exists()


def test_import__result_with_other_content_is_a_conflict(archive: Path, out: Path, capsys) -> None:
    import_archive(archive, out)
    (out / RUN / LINEAR).write_text("{}")
    shutil.rmtree((out / RUN / LINEAR).parents[1] / "knn-scenes-00000000")
    assert main(["import", str(archive), "--out", str(out)]) == 1
    told = capsys.readouterr()
    assert f"conflict: {RUN}: {LINEAR} is another one here" in told.err
    assert f"{RUN} got 2 files" in told.out
    assert (out / RUN / LINEAR).read_text() == "{}"


def unfinished(folder: Path) -> None:
    (folder / "pretraining.json").unlink()


def other_encoder(folder: Path) -> None:
    record = {"encoder_sha256": "0" * 64, "commit": None, "dirty": False}
    (folder / "pretraining.json").write_text(json.dumps(record))


def broken(folder: Path) -> None:
    (folder / "pretraining.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (unfinished, "not finished"),
        (other_encoder, "another encoder"),
        (broken, "is broken"),
    ],
)
def test_import__other_pretraining_is_a_conflict(
    archive: Path, out: Path, capsys, change: Callable[[Path], None], words: str
) -> None:
    import_archive(archive, out)
    shutil.rmtree(out / "scenes/none-fedc9876")
    change(out / RUN)
    (out / RUN / LINEAR).unlink()
    before = files(out / RUN)
    assert main(["import", str(archive), "--out", str(out)]) == 1
    told = capsys.readouterr()
    assert words in told.err
    assert "1 runs added, 0 completed, 1 already there, 1 conflicts" in told.out
    assert files(out / RUN) == before


@pytest.mark.parametrize("place", [".", str(Path(LINEAR).parent)])
def test_import__folder_at_work_is_left_alone(archive: Path, out: Path, place: str) -> None:
    import_archive(archive, out)
    (out / RUN / LINEAR).unlink()
    with exclusive(out / RUN / place, lambda owner: None):
        done = import_archive(archive, out)
    assert len(done.unchanged) == 2
    assert "is at work in it" in done.conflicts[0]
    assert RUN in done.conflicts[0]
    assert not (out / RUN / LINEAR).exists()
    assert import_archive(archive, out).completed == {RUN: 1}


def test_import__two_at_once(archive: Path, out: Path) -> None:
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: import_archive(archive, out), range(2)))
    assert sorted(len(done.added) for done in both) == [0, 3]
    assert [done.conflicts for done in both] == [[], []]
    assert [path.name for path in out.iterdir()] == ["scenes"]


def test_import__encoder_is_the_one_described(runs: Path, tmp_path: Path, out: Path) -> None:
    (runs / RUN / "encoder.safetensors").write_bytes(b"another")
    assert main(["export", str(runs), "--out", str(tmp_path / "x"), "--encoders"]) == 0
    done = import_archive(tmp_path / "x", out)
    assert "its encoder is not the one" in done.conflicts[0]
    assert not (out / RUN).exists()
    assert len(done.added) == 2


# What goes wrong in between


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_import__full_disk_leaves_nothing(
    archive: Path, out: Path, monkeypatch, capsys, number: int
) -> None:
    def full(name: str, folder: Path) -> Any:
        if "none" in name:
            raise OSError(number, os.strerror(number), str(folder / name))
        return written(name, folder)

    written = archive_file._sink
    monkeypatch.setattr(archive_file, "_sink", full)
    assert main(["import", str(archive), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert os.strerror(number) in told
    assert not out.parent.exists()


def test_import__no_room_for_what_the_manifest_says(
    archive: Path, out: Path, monkeypatch, capsys
) -> None:
    usage = shutil.disk_usage(archive.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert main(["import", str(archive), "--out", str(out)]) == 2
    assert "has room for 1,000" in capsys.readouterr().err
    assert not out.parent.exists()


@pytest.mark.parametrize("after", ["unpack", "find"])
def test_import__interrupted_leaves_nothing(
    archive: Path, out: Path, monkeypatch, after: str
) -> None:
    whole = getattr(merging, after)

    def interrupted(*arguments: Any) -> None:
        whole(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(merging, after, interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_archive(archive, out)
    assert not out.parent.exists()


def test_import__interrupted_between_runs_leaves_whole_ones(
    archive: Path, out: Path, monkeypatch
) -> None:
    moved = merging._rename

    def interrupted(source: Path, target: Path) -> None:
        if target.name == "seed1":
            raise KeyboardInterrupt
        moved(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(merging, "_rename", interrupted)
        import_archive(archive, out)
    whole = {k for k in members(archive) if f"/{RUN}/" in k}
    assert files(out).keys() == {name.removeprefix("maskbench-results/") for name in whole}
    assert len(import_archive(archive, out).added) == 2


def test_import__interrupted_while_it_completes_leaves_no_result_without_images(
    archive: Path, out: Path, monkeypatch
) -> None:
    import_archive(archive, out)
    shutil.rmtree((out / RUN / LINEAR).parent)
    written = merging.write_atomically

    def interrupted(path: Path, write: Callable[[Path], object]) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        written(path, write)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(merging, "write_atomically", interrupted)
        import_archive(archive, out)
    assert [path.name for path in (out / RUN / LINEAR).parent.iterdir()] == ["seed0.npz"]
    assert import_archive(archive, out).completed == {RUN: 1}


def test_import__clears_away_what_a_killed_one_left(archive: Path, out: Path) -> None:
    (out / ".import/new/maskbench-results").mkdir(parents=True)
    (out / ".import/new/maskbench-results/half").write_text("half")
    import_archive(archive, out)
    assert [path.name for path in out.iterdir()] == ["scenes"]


# Archives of somebody who means harm

Members = list[tuple[tarfile.TarInfo, bytes]]
LOG = f"maskbench-results/{RUN}/metrics.jsonl"
PLAN = f"maskbench-results/{RUN}/plan.json"


def forged(path: Path, found: Members, tail: bytes = b"") -> Path:
    """Write a tar of any members."""
    with gzip.open(path, "wb", compresslevel=1) as packed:
        with tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
            for info, content in found:
                tar.addfile(info, io.BytesIO(content))
        packed.write(tail)
    return path


def taken_apart(archive: Path) -> Members:
    with tarfile.open(archive) as tar:
        return [(m, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def remade(found: Members, change: Callable[[dict[str, Any]], object]) -> Members:
    """With another manifest."""
    manifest = json.loads(found[0][1])
    change(manifest)
    return [member("MANIFEST.json", json.dumps(manifest).encode()), *found[1:]]


def renamed(name: str) -> Callable[[Members], Members]:
    """The last member under another name, also in the manifest."""

    def change(found: Members) -> Members:
        old, content = found[-1]

        def rename(manifest: dict[str, Any]) -> None:
            manifest["members"][name] = manifest["members"].pop(old.name)

        return [*remade(found, rename)[:-1], member(name, content)]

    return change


def noting(**changes: Any) -> Callable[[Members], Members]:
    return lambda found: remade(found, lambda manifest: manifest.update(changes))


def noting_of_plan(**changes: Any) -> Callable[[Members], Members]:
    return lambda found: remade(found, lambda manifest: manifest["members"][PLAN].update(changes))


def replaced(kind: bytes, link: str = "") -> Callable[[Members], Members]:
    return lambda found: [
        member(PLAN, b"", kind, link) if info.name == PLAN else (info, content)
        for info, content in found
    ]


def other_plan(content: bytes) -> Callable[[Members], Members]:
    """The plan of a run, with the checksum that it then has."""

    def change(found: Members) -> Members:
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return [
            member(PLAN, content) if info.name == PLAN else (info, old)
            for info, old in noting_of_plan(**entry)(found)
        ]

    return change


HOSTILE: Mapping[str, tuple[Callable[[Members], Members], str]] = {
    "symbolic link": (replaced(tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
    "hard link": (replaced(tarfile.LNKTYPE, "MANIFEST.json"), "is a link"),
    "folder": (replaced(tarfile.DIRTYPE), "is a folder"),
    "character device": (replaced(tarfile.CHRTYPE), "is a device"),
    "block device": (replaced(tarfile.BLKTYPE), "is a device"),
    "pipe": (replaced(tarfile.FIFOTYPE), "is a pipe"),
    "sparse file": (replaced(tarfile.GNUTYPE_SPARSE), "no regular file"),
    "extended header": (replaced(tarfile.XHDTYPE), "no regular file"),
    "long name": (replaced(tarfile.GNUTYPE_LONGNAME), "no regular file"),
    "absolute": (renamed("/evil.json"), "is no file of a run"),
    "upwards": (renamed("maskbench-results/../../evil.json"), "is no file of a run"),
    "upwards as data": (renamed("maskbench-results/../x-0123abcd/seed0/plan.json"), "no file"),
    "upwards as result": (renamed(f"maskbench-results/{RUN}/results/../seed0.json"), "no file"),
    "new line": (renamed(f"{PLAN}\n"), "is no file of a run"),
    "escape codes": (renamed(f"maskbench-results/{RUN}/results/\x1b[2J/seed0.json"), "printable"),
    "checkpoint": (renamed(f"maskbench-results/{RUN}/checkpoints/step0.pt"), "no file of a run"),
    "lock": (renamed(f"maskbench-results/{RUN}/.lock"), "is no file of a run"),
    "hidden": (renamed("maskbench-results/.x/a-0123abcd/seed0/plan.json"), "is no file of a run"),
    "other root": (renamed(f"elsewhere/{RUN}/plan.json"), "is no file of a run"),
    "twice": (lambda found: [*found, found[-1]], "there twice"),
    "extra": (lambda found: [*found, member("evil.py", b"x")], "not in its manifest"),
    "missing": (lambda found: found[:-1], "it lacks"),
    "manifest twice": (lambda found: [*found, found[0]], "not in its manifest"),
    "manifest later": (lambda found: [found[1], found[0], *found[2:]], "in place of MANIFEST.json"),
    "no manifest": (lambda found: found[1:], "in place of MANIFEST.json"),
    "nothing": (lambda found: [], "in place of MANIFEST.json"),
    "other version": (noting(version=2), "version is 2"),
    "other count": (noting(runs=4), "names 3 runs and says 4"),
    "members as list": (noting(members=[]), "an object is expected"),
    "odd commit": (noting(commit="HEAD"), "its commit"),
    "no JSON": (lambda found: [member("MANIFEST.json", b"{"), *found[1:]], "manifest is none"),
    "no text": (lambda found: [member("MANIFEST.json", b"\xff\xfe"), *found[1:]], "is none"),
    "deep JSON": (lambda f: [member("MANIFEST.json", b"[" * 99999), *f[1:]], "too deeply"),
    "wrong checksum": (noting_of_plan(sha256="0" * 64), "another checksum"),
    "no checksum": (noting_of_plan(sha256="0"), "the checksum"),
    "larger than said": (noting_of_plan(size=3), "in place of 3"),
    "smaller than said": (noting_of_plan(size=5000), "in place of 5,000"),
    "negative": (noting_of_plan(size=-1), "the size -1"),
    "text that fills the memory": (noting_of_plan(size=10**9), "are read"),
    "more than the disk": (
        lambda found: remade(found, lambda m: m["members"][LOG].update(size=10**17)),
        "has room for",
    ),
    "no run": (other_plan(b"{}"), "holds what is no run"),
}  # fmt: skip


def refused(archive: Path, out: Path, capsys, words: str) -> None:
    """One sentence, exit status 2, and nothing is left behind."""
    before = files(archive.parent)
    assert main(["import", str(archive), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert told.strip().isprintable()
    assert words in told
    assert not out.parent.exists()
    assert files(archive.parent) == before


@pytest.mark.parametrize("case", HOSTILE)
def test_import__hostile(archive: Path, out: Path, capsys, case: str) -> None:
    change, words = HOSTILE[case]
    refused(forged(archive, change(taken_apart(archive))), out, capsys, words)


def test_import__forged_is_sound_if_nothing_is_changed(archive: Path, out: Path) -> None:
    assert len(import_archive(forged(archive, taken_apart(archive)), out).added) == 3


def test_import__something_after_the_end(archive: Path, out: Path, capsys) -> None:
    refused(forged(archive, taken_apart(archive), b"x"), out, capsys, "something follows")
    zeros = bytes(tarfile.RECORDSIZE)
    sound = taken_apart(archive)
    refused(forged(archive, sound, zeros), out, capsys, "something follows")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no archive", id="text"),
        pytest.param(gzip.compress(b"no archive", mtime=0), id="gzip"),
    ],
)
def test_import__no_archive(tmp_path: Path, out: Path, capsys, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    refused(tmp_path / "x", out, capsys, "no sound archive")


@pytest.mark.parametrize("name", ["nothing", "."])
def test_import__no_file(tmp_path: Path, out: Path, capsys, name: str) -> None:
    assert main(["import", str(tmp_path / name), "--out", str(out)]) == 2
    assert "is no file" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_import__truncated(archive: Path, out: Path, capsys, share: float) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    refused(archive, out, capsys, "no sound archive")


def test_verify__any_byte_that_is_changed(archive: Path, capsys) -> None:
    content = archive.read_bytes()
    numbers = random.Random(0)
    for _ in range(60):
        place = numbers.randrange(10, len(content))  # gzip's header has no checksum
        changed = content[place] ^ numbers.randrange(1, 256)
        archive.write_bytes(content[:place] + bytes([changed]) + content[place + 1 :])
        assert main(["verify", str(archive)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def zeros(count: int) -> bytes:
    """A gigabyte of zeros or so, packed in no time: gzip files may follow each other."""
    return gzip.compress(bytes(1 << 24), 1) * (count >> 24)


@pytest.mark.parametrize("kind", ["member", "hidden behind a small one", "manifest", "header"])
def test_import__bomb(archive: Path, out: Path, capsys, kind: str) -> None:
    found = taken_apart(archive)
    size = 1 << 30
    declared = {"member": size, "manifest": size, "header": size}.get(kind, 8)
    name, type_ = {
        "manifest": ("MANIFEST.json", tarfile.REGTYPE),
        "header": (PLAN, tarfile.XHDTYPE),
    }.get(kind, (PLAN, tarfile.REGTYPE))
    info = tarfile.TarInfo(name)
    info.size, info.type = declared, type_
    found = noting_of_plan(size=8, sha256=hashlib.sha256(bytes(8)).hexdigest())(found)
    manifest, content = found[0]
    blocks = b"" if kind == "manifest" else manifest.tobuf(tarfile.USTAR_FORMAT) + content
    blocks += bytes(-len(blocks) % 512) + info.tobuf(tarfile.USTAR_FORMAT)
    archive.write_bytes(gzip.compress(blocks) + zeros(size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(archive, out, capsys, "no sound archive")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kilobytes


# What is told


def test_list__runs(archive: Path, capsys) -> None:
    assert main(["list", str(archive)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith(f"{archive}: 3 runs of 33 files")
    assert lines[0] == f"{RUN}  2 results"


def test_verify__sound(archive: Path, capsys) -> None:
    assert main(["verify", str(archive)]) == 0
    assert capsys.readouterr().out.startswith(f"{archive} is sound: 3 runs of 33 files")


@pytest.mark.parametrize("action", ["list", "verify"])
def test_reader_that_leaves_early(archive: Path, action: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    line = [sys.executable, str(ROOT / "reports/archive.py"), action, str(archive)]
    done = subprocess.run(line, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")  # 141 in a shell
