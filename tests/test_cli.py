"""The command line as a user types it, on the embedded data: real runs, real kills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
CIFAR = ROOT.parent / "shared/data/cifar10-images.tar.xz"
SMOKE = ("preset=smoke", "data.train_count=128", "data.test_count=64")
LINEAR_ONLY = tuple(f"tasks.{t}=null" for t in ("finetune", "knn", "transfer", "segmentation"))


def start(*arguments: str, cwd: Path, **options: bool) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "benchmark" / "run.py"), *arguments]
    return subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell has it ignored in what it starts in the background, these tests for instance.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def run(*arguments: str, cwd: Path, status: int = 0) -> tuple[str, str]:
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, out + err
    return out, err


def run_folder(runs: Path, method: str, seed: int = 0) -> Path:
    (folder,) = runs.glob(f"scenes/{method}-*/seed{seed}")
    return folder


def metrics(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("results/*/*.json"))
    assert files
    return {f.parent.name: json.dumps(json.loads(f.read_text())["metrics"]) for f in files}


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def alive(group: int) -> list[str]:
    """Command lines of the processes of a group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgrp = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                found.append((folder / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_run__files_tables_reuse_and_recomputation(tmp_path: Path) -> None:
    line = (*SMOKE, "method=sequential")
    out, _ = run(*line, cwd=tmp_path)
    assert "no seed given: seed=0" in out
    assert "epoch 1/1" in out
    assert "+ Sequential" in out
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}  # nothing stray beside it
    folder = run_folder(tmp_path / "runs", "sequential")
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "provenance.json",
        "pretraining.json",
        "metrics.jsonl",
        "encoder.safetensors",
        "masks/gallery.png",
        "masks/test.npz",
        "plan.json",
        "progress.json",
    } < written
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert checkpoint.name.startswith("step00000002-")
    assert sum(name.startswith("results/") for name in written) == 2 * 5
    tables = tmp_path / "runs" / "tables"
    names = {path.name for path in tables.iterdir()}
    assert {"table1.md", "table1.tex", "table1.csv", "table2.md", "cost.md", "claims.md"} <= names
    assert not names & {"report.html", "figures"}  # which are of sweeps
    assert "\\toprule" in (tables / "table1.tex").read_text()
    line_1 = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert len(line_1["slot_area"]) == len(line_1["slot_loss"]) == len(line_1["slot_overlap"]) == 4
    assert line_1["flops"] > 0
    assert line_1["encoder_forwards"] == 2 * 64 * 2 * 5  # 2 steps, 2 phases, clean + 4 masks

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.*") if p.name != ".lock"}
    out, _ = run(*line, "seed=0", cwd=tmp_path)
    assert "reused pretraining, linear, finetune, knn, segmentation, transfer" in out
    assert "epoch" not in out.split("**Table")[0]
    assert before == {p: p.stat().st_mtime_ns for p in before}

    (deleted,) = folder.glob("results/knn-*/seed0.json")
    content = json.loads(deleted.read_text())
    deleted.unlink()
    out, _ = run(*line, "seed=0", cwd=tmp_path)
    assert "reused pretraining, linear, finetune, segmentation, transfer" in out
    assert json.loads(deleted.read_text())["metrics"] == content["metrics"]
    del before[deleted], before[deleted.with_suffix(".npz")]
    assert before == {p: p.stat().st_mtime_ns for p in before}

    masks = folder / "masks" / "test.npz"
    whole = masks.read_bytes()
    masks.unlink()
    run(*line, "seed=0", cwd=tmp_path)
    assert masks.read_bytes() == whole  # made from the last checkpoint


def test_run__same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    folders = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(*SMOKE, "method=superpixel_budget", f"seed={seed}", f"runs_dir={name}", cwd=tmp_path)
        folders.append(run_folder(tmp_path / name, "superpixel_budget", seed))
    first, again, other = (f / "encoder.safetensors" for f in folders)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()
    assert metrics(folders[0]) == metrics(folders[1])


def test_sweep__a_failed_run_is_a_cell_and_the_others_go_on(tmp_path: Path) -> None:
    out, err = run(
        "-m",
        *SMOKE,
        *LINEAR_ONLY,
        "method=none",
        "seed=0,1",
        "encoder_optimiser.lr=1e30,2e-3",
        "controls=[untrained]",
        cwd=tmp_path,
        status=1,
    )
    assert "FAILED: step" in out
    assert "loss is nan; training stopped" in out
    assert "Traceback" not in out + err
    assert "/seed0 has no complete result" in err
    table = pd.read_csv(tmp_path / "runs/tables/table1.csv", dtype={"hash8": str})
    plain = table[table["label"].str.startswith("SimCLR")].set_index("failed")
    assert plain.loc[2, "n"] == 0
    assert plain.loc[0, "n"] == 2
    assert "failed (2 of 2)" in (tmp_path / "runs/tables/table1.md").read_text()
    assert table["label"].str.startswith("Untrained").any()


def test_sweep__a_killed_worker_is_a_failed_run(tmp_path: Path) -> None:
    line = ("-m", *SMOKE, *LINEAR_ONLY, "method=random", "controls=[]", "seed=0,1", "jobs=1")
    process = start(*line, "epochs=40", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/scenes/*/seed0/metrics.jsonl")), process)
    servers = children(process.pid)
    (worker,) = [pid for server in servers for pid in children(server)]
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    assert "killed by signal 9" in out
    assert re.search(r"\[random-\w+/seed1\] done", out)
    assert "(n=1, 1 failed)" in (tmp_path / "runs/tables/table1.md").read_text()
    run(*line, "epochs=40", cwd=tmp_path)  # the same line goes on and mends it
    assert "failed" not in (tmp_path / "runs/tables/table1.md").read_text()


def test_sweep__interrupted_leaves_tables_and_no_process(tmp_path: Path) -> None:
    line = ("-m", *SMOKE, *LINEAR_ONLY, "method=random", "controls=[]", "seed=0,1", "epochs=500")
    process = start(*line, cwd=tmp_path, start_new_session=True)
    wait_for(lambda: list(tmp_path.glob("runs/scenes/*/seed1/metrics.jsonl")), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "the same line goes on from here" in out
    assert "Traceback" not in out + err
    assert "not run (2 of 2)" in (tmp_path / "runs/tables/table1.md").read_text()
    deadline = time.monotonic() + 30
    while group := alive(process.pid):
        assert time.monotonic() < deadline, group
        time.sleep(0.1)


def test_run__killed_and_resumed_equals_never_killed(tmp_path: Path) -> None:
    line = (*SMOKE, *LINEAR_ONLY, "method=adios", "seed=0", "epochs=12")
    run(*line, "runs_dir=whole", cwd=tmp_path)
    process = start(*line, "runs_dir=killed", "checkpoint_every_seconds=0", cwd=tmp_path)
    # Of the second epoch's two steps the first one.
    wait_for(lambda: list(tmp_path.glob("killed/scenes/*/seed0/checkpoints/*03-*.pt")), process)
    process.kill()
    process.communicate()
    folder = run_folder(tmp_path / "killed", "adios")
    assert not (folder / "encoder.safetensors").exists()
    out, _ = run(*line, "runs_dir=killed", cwd=tmp_path)
    assert "epoch 1/12" not in out
    whole = run_folder(tmp_path / "whole", "adios")
    assert (folder / "encoder.safetensors").read_bytes() == (
        whole / "encoder.safetensors"
    ).read_bytes()

    def steps(run_dir: Path) -> list[dict]:
        lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in x.items() if k != "seconds"} for x in lines]

    assert steps(folder) == steps(whole)
    assert metrics(folder) == metrics(whole)
    assert len(list((folder / "checkpoints").glob("step*.pt"))) == 2


def test_run__two_at_once_share_one_folder(tmp_path: Path) -> None:
    line = (*SMOKE, *LINEAR_ONLY, "method=random", "seed=0", "epochs=10")
    both = [start(*line, cwd=tmp_path) for _ in range(2)]
    outputs = [p.communicate(timeout=300) for p in both]
    assert [p.returncode for p in both] == [0, 0], outputs
    trained = [out for out, _ in outputs if "epoch 10/10" in out]
    assert len(trained) == 1
    (other,) = [out for out, _ in outputs if "epoch 10/10" not in out]
    assert "reused pretraining" in other


def test_run__a_broken_or_foreign_output_is_named(tmp_path: Path) -> None:
    line = (*SMOKE, *LINEAR_ONLY, "method=none", "seed=0")
    run(*line, cwd=tmp_path)
    folder = run_folder(tmp_path / "runs", "none")
    (result,) = folder.glob("results/linear-*/seed0.json")
    whole = result.read_text()
    result.write_text(whole[:40])
    out, _ = run(*line, cwd=tmp_path, status=1)
    assert f"{result.name} is broken" in out
    result.write_text(whole.replace('"encoder_sha256": "', '"encoder_sha256": "0'))
    out, _ = run(*line, cwd=tmp_path, status=1)
    assert "was made from something else (encoder_sha256 0" in out
    result.write_text(whole)
    encoder = folder / "encoder.safetensors"
    encoder.write_bytes(encoder.read_bytes()[:-1] + b"\0")
    out, _ = run(*line, cwd=tmp_path, status=1)
    assert "encoder.safetensors is not the encoder" in out


def test_run__unlabelled_folder_pretrains(tmp_path: Path) -> None:
    from PIL import Image

    from benchmark import scenes

    (tmp_path / "images").mkdir()
    data = scenes.load(train_count=64, test_count=2)
    for i, pixels in enumerate(data.train.images):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"images/{i:03d}.png")
    out, _ = run(
        "-m",
        "preset=smoke",
        "data=folder",
        "data.train=images",
        "method=random",
        "seed=0",
        "tasks.transfer=null",
        cwd=tmp_path,
    )
    assert "not evaluated: linear: folder has no test split" in out
    assert "the data has no labels: no supervised control" in out
    assert list(tmp_path.glob("runs/folder/random-*/seed0/encoder.safetensors"))


@pytest.mark.skipif(not CIFAR.exists(), reason=f"real images are missing: {CIFAR}")
def test_sweep__real_cifar_images(tmp_path: Path) -> None:
    taken: dict[str, int] = {}
    with tarfile.open(CIFAR) as archive:
        for member in archive:
            label = Path(member.name).parent.name
            if not member.isfile() or taken.get(label, 0) == 25:
                continue
            taken[label] = taken.get(label, 0) + 1
            split = "train" if taken[label] <= 20 else "test"
            target = tmp_path / split / label / Path(member.name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extractfile(member).read())
            if len(taken) == 10 and min(taken.values()) == 25:
                break
    line = ("-m", "preset=smoke", "data=folder", "data.train=train", "data.test=test")
    out, _ = run(*line, "method=sequential", "seed=0", cwd=tmp_path)
    assert "segmentation: folder has no pixel labels" in out
    table = pd.read_csv(tmp_path / "runs/tables/table1.csv")
    assert set(table["label"]) == {
        "+ Sequential (smoke)",
        "Untrained (smoke)",
        "Supervised (smoke)",
    }
    assert set(table["task"]) == {"linear", "finetune", "knn"}
    assert table["mean"].between(0, 100).all()
    assert list(tmp_path.glob("runs/.cache/*/*.npy"))
