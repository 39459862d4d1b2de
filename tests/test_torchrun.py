"""The command line in several processes: started by torchrun and by submitit, killed, failing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.run import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SMOKE = ("preset=smoke", "data.train_count=128", "data.test_count=64", "threads=1", "seed=0")
PLUGIN = '''
import os
from methods.random_patches import RandomPatches

class Failing(RandomPatches):
    """Fails in one process alone, amid training."""
    steps = 0

    def forward(self, batch):
        Failing.steps += 1
        if os.environ["RANK"] == "1" and Failing.steps == 4:
            raise OSError("no space left for process 1")
        return super().forward(batch)
'''


def start(*arguments: str, cwd: Path, count: int = 2) -> subprocess.Popen:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*torchrun, f"--nproc-per-node={count}", str(ROOT / "benchmark/run.py"), *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, cwd: Path, status: int = 0, count: int = 2) -> tuple[str, str]:
    process = start(*arguments, cwd=cwd, count=count)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, out + err
    return out, err


def run_folder(runs: Path, method: str) -> Path:
    (folder,) = runs.glob(f"scenes/{method}-*/seed0")
    return folder


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in found]


def test_run__two_processes_share_one_run(tmp_path: Path) -> None:
    line = (*SMOKE, "method=sequential", "precision=fp32", "task=[linear,mask_quality]")
    out, _ = run(*line, cwd=tmp_path)
    assert out.count("epoch 1/1") == out.count("] done") == 1  # one of them speaks
    assert "+ Sequential" in out
    assert "`torchrun --nproc-per-node=2 benchmark/run.py preset=smoke" in out
    folder = run_folder(tmp_path / "runs", "sequential")
    assert len(list(folder.glob("results/*/*.json"))) == 2
    (logged,) = lines(folder)
    assert logged["encoder_forwards"] == 2 * 64 * 2 * 5  # of both: 2 steps, 2 phases, 1 + 4 views
    (attempt,) = json.loads((folder / "provenance.json").read_text())["attempts"]
    assert attempt["machine"]["processes"] == 2

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.*") if p.name != ".lock"}
    out, _ = run(*line, "dry_run=true", cwd=tmp_path)
    assert out.count("left on this cpu device, one run at a time: 0 PFLOP") == 1
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_run__killed_and_resumed_equals_never_killed(tmp_path: Path) -> None:
    """With statistics of each share, which is where the processes differ from each other."""
    line = (*SMOKE, "method=adios", "task=[knn]", "epochs=5", "sync_batchnorm=false")
    line = (*line, "turns.encoder_mode=eval")
    run(*line, "runs_dir=whole", cwd=tmp_path)
    process = start(*line, "runs_dir=killed", "checkpoint_every_seconds=0", cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/scenes/*/seed0/checkpoints/*03-*.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for pid in (process.pid, *children(process.pid)):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    folder = run_folder(tmp_path / "killed", "adios")
    assert not (folder / "encoder.safetensors").exists()
    out, _ = run(*line, "runs_dir=killed", cwd=tmp_path)
    assert "epoch 1/5" not in out
    whole = run_folder(tmp_path / "whole", "adios")
    product = "encoder.safetensors"
    assert (folder / product).read_bytes() == (whole / product).read_bytes()
    assert lines(folder) == lines(whole)


def test_sweep__a_failed_run_is_a_cell_and_the_others_go_on(tmp_path: Path) -> None:
    line = ("-m", *SMOKE, "task=[knn]", "method=none", "encoder_optimiser.lr=1e30,2e-3")
    out, err = run(*line, "epochs=2", "controls=[untrained]", cwd=tmp_path, status=1)
    assert out.count("loss is nan; training stopped") == 1
    assert len(re.findall(r"none-\w+/seed0\] done", out)) == 1
    assert "/seed0 has no complete result" in err


def test_run__a_mistake_costs_one_sentence(tmp_path: Path) -> None:
    _, err = run(*SMOKE, "batch_size=51", cwd=tmp_path, status=1)
    assert re.findall("^error: .*", err, re.MULTILINE) == [
        "error: batch_size=51 cannot be shared out among 2 processes; choose a multiple of 2 from "
        "4 on"
    ]
    assert "exitcode  : 2" in err  # torchrun's own is 1
    assert "Traceback" not in err.split("torch/distributed")[0]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch):
    """Runs a job of two tasks to its end."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    submitit = pytest.importorskip("submitit")
    executor = submitit.LocalExecutor(folder=tmp_path / "log")
    executor.update_parameters(tasks_per_node=2, timeout_min=5)

    def job(*arguments: str):
        started = executor.submit(main, [*SMOKE, f"runs_dir={tmp_path}/runs", *arguments])
        started.wait()
        return started

    return job


def test_submitit__starts_it_too(submitted, tmp_path: Path) -> None:
    job = submitted("method=random", "task=[knn]", "processes=2")
    assert job.results() == [0, 0], job.stderr()
    folder = run_folder(tmp_path / "runs", "random")
    (attempt,) = json.loads((folder / "provenance.json").read_text())["attempts"]
    assert attempt["machine"]["processes"] == 2
    assert len(list(folder.glob("results/knn-*/seed0.json"))) == 1


def test_submitit__a_process_that_fails_alone_ends_all(submitted, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    started = time.monotonic()
    method = ("method=random", "method._target_=plugin.Failing")
    job = submitted(*method, "task=[knn]", "epochs=50")
    assert time.monotonic() - started < 120  # nobody waits for who is gone
    for task in range(2):
        assert job.task(task).exception() is not None
    folder = run_folder(tmp_path / "runs", "random")
    told = (folder / "error.txt").read_text()
    assert "OSError: no space left for process 1" in told
    assert "process 1 of 2" in told
    assert "failed (1 of 1)" in (tmp_path / "runs/tables/table1.md").read_text()
