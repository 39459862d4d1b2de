"""Sweeps on a real cluster, by the command line: told to make way, requeued, killed, in stages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmark.lock import read_owner
from benchmark.run import main
from slurm import launch

if TYPE_CHECKING:
    from tests.slurm.conftest import Cluster

ROOT = Path(__file__).parents[2]
TINY = ("preset=smoke", "data.train_count=128", "data.test_count=64", "log_every_steps=1")
SLURM = ("hydra/launcher=slurm", "slurm.partition=debug")

pytestmark = pytest.mark.slurm


class Commands:
    """The suite's commands in a folder, on the cluster."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=self.folder,
            env=self.cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str], status: int = 0) -> str:
        out, _ = process.communicate(timeout=400)
        assert process.returncode == status, out + self.logs()
        return out

    def run(self, script: str, *arguments: str, status: int = 0) -> str:
        return self.finish(self.start(script, *arguments), status)

    def sweep(self, *arguments: str, status: int = 0) -> str:
        return self.run("benchmark/run.py", "-m", *arguments, status=status)

    def status(self, runs: str = "runs") -> dict[str, dict[str, Any]]:
        """States by the name of the run; the command's exit status must fit them."""
        command = [sys.executable, str(ROOT / "slurm/status.py"), runs, "--json"]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.cluster.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.stderr
        return {run["run"]: run for run in json.loads(done.stdout)["runs"]}

    def jobs(self) -> list[str]:
        """Names of all jobs that were ever sent, a line for each of an array."""
        return self.cluster.call("squeue", "-h", "-r", "-t", "all", "-o", "%j").splitlines()

    def logs(self) -> str:
        return "".join(
            f"\n{path.name}:\n{path.read_text()}"
            for path in sorted(self.folder.glob("*/.slurm/*.out"))
        )


@pytest.fixture
def commands(cluster: Cluster, tmp_path: Path) -> Commands:
    yield Commands(cluster, tmp_path)
    cluster.call("scancel", "-u", str(os.getuid()))


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def seed(folder: Path, number: int) -> Path:
    (found,) = folder.glob(f"scenes/*/seed{number}")
    return found


def product(run: Path) -> tuple[bytes, list[dict[str, Any]], list[Any]]:
    """Encoder, metrics without times, and results."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    untimed = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    results = [json.loads(p.read_text())["metrics"] for p in sorted(run.glob("results/*/*.json"))]
    assert results
    return (run / "encoder.safetensors").read_bytes(), untimed, results


def log(run: Path) -> str:
    (noted,) = json.loads((run / "jobs.json").read_text()).values()
    return Path(noted["log"]).read_text()


def test_sweep__told_to_make_way_requeued_and_killed(commands: Commands) -> None:
    line = (*TINY, "method=none", "task=[knn]", "controls=[]", "epochs=40", "seed=0,1,2")
    sent = (*line, *SLURM, "checkpoint_every_seconds=1")
    commands.sweep(*line, "runs_dir=whole")
    process = commands.start("benchmark/run.py", "-m", *sent)
    runs = commands.folder / "runs"

    def training(number: int) -> bool:
        return any(runs.glob(f"scenes/*/seed{number}/checkpoints/step*.pt"))

    def job(number: int) -> str:
        noted: str = json.loads((seed(runs, number) / "jobs.json").read_text())["run"]["job"]
        return noted

    def worker(number: int) -> int:
        owner = read_owner(seed(runs, number))
        assert owner is not None
        assert owner.job is not None
        return owner.pid

    wait_for(lambda: training(0), process)
    commands.cluster.call("scancel", "--signal=USR2", job(0))
    wait_for(lambda: training(1), process)
    commands.cluster.call("scontrol", "requeue", job(1))
    wait_for(lambda: training(2), process)
    os.kill(worker(2), signal.SIGKILL)
    number = len(commands.jobs())
    second = commands.start("benchmark/run.py", "-m", *sent, "slurm.wait=false")
    assert "is job" in commands.finish(second)
    killed = len(commands.jobs()) - number  # if the second command came after the death of its job
    assert killed <= 1
    commands.finish(process, status=0 if killed else 1)
    commands.sweep(*sent)
    for k in range(3):
        assert product(seed(runs, k)) == product(seed(commands.folder / "whole", k)), k
    told = re.search(r"SIGUSR2 came: saved after step (\d+) of 80", log(seed(runs, 0)))
    assert told is not None
    assert f"goes on from step {told[1]} of 80" in log(seed(runs, 0))
    assert "goes on from step" in log(seed(runs, 1))
    assert {run["state"] for run in commands.status().values()} == {"done"}
    before = len(commands.jobs())
    assert "over n=3 seeds" in commands.sweep(*sent)
    assert len(commands.jobs()) == before  # everything is there


def test_sweep__a_job_whose_step_was_killed_is_requeued(
    in_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """SLURM goes on to call it running; nobody would ever look after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "ABANDONED_AFTER", 25.0)
    monkeypatch.setattr(launch, "HELD_FOR", 15.0)
    line = (*TINY, "method=none", "task=[knn]", "controls=[]", "epochs=20", "seed=0")
    assert main([*line, "runs_dir=whole"]) == 0
    runs = tmp_path / "runs"

    def kill_step() -> None:
        end = time.monotonic() + 60
        while not any(runs.glob("scenes/*/seed0/checkpoints/step*.pt")):
            assert time.monotonic() < end
            time.sleep(0.05)
        owner = read_owner(seed(runs, 0))
        assert owner is not None
        step = int(Path(f"/proc/{owner.pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert "slurmstepd" in Path(f"/proc/{step}/comm").read_text()
        os.kill(step, signal.SIGKILL)
        os.kill(owner.pid, signal.SIGKILL)

    def sent() -> int:
        return len(in_cluster.call("squeue", "-h", "-r", "-t", "all", "-o", "%i").splitlines())

    before = sent()
    killer = threading.Thread(target=kill_step)
    killer.start()
    assert main(["-m", *line, *SLURM, "checkpoint_every_seconds=0"]) == 0
    killer.join()
    assert "is requeued" in capfd.readouterr().out
    assert sent() == before + 1
    assert product(seed(runs, 0)) == product(seed(tmp_path / "whole", 0))


def test_sweep__at_its_time_limit_goes_on_in_the_next_one(commands: Commands) -> None:
    line = (*TINY, "method=none", "task=[knn]", "controls=[]", "epochs=400")
    whole = commands.start("benchmark/run.py", "-m", *line, "runs_dir=whole")
    out = commands.sweep(*line, *SLURM, "slurm.time=2", "slurm.signal_delay_s=50")
    assert "done" in out
    commands.finish(whole)
    run = seed(commands.folder / "runs", 0)
    told = re.findall(r"SIGUSR2 came: saved after step (\d+)", log(run))
    on = re.findall(r"goes on from step (\d+)", log(run))
    assert told, "the limit came too late: train for longer"
    assert on == told
    assert product(run) == product(seed(commands.folder / "whole", 0))


def test_sweep__processes_on_two_nodes_make_way_together(commands: Commands) -> None:
    line = (*TINY, "method=sequential", "task=[knn]", "controls=[]", "epochs=8", *SLURM)
    line = (*line, "slurm.nodes=2", "slurm.tasks_per_node=2", "sync_batchnorm=false")
    commands.sweep(*line, "runs_dir=whole")
    process = commands.start("benchmark/run.py", "-m", *line, "checkpoint_every_seconds=0.5")
    runs = commands.folder / "runs"
    wait_for(lambda: any(runs.glob("scenes/*/seed0/checkpoints/step*.pt")), process)
    noted = json.loads((seed(runs, 0) / "jobs.json").read_text())["run"]
    commands.cluster.call("scancel", "--signal=USR2", noted["job"])
    commands.finish(process)
    assert "goes on from step" in log(seed(runs, 0))
    assert product(seed(runs, 0)) == product(seed(commands.folder / "whole", 0))
    attempts = json.loads((seed(runs, 0) / "provenance.json").read_text())["attempts"]
    assert [attempt["machine"]["processes"] for attempt in attempts] == [4, 4]


def test_pipeline__stages_and_what_failed_alone_again(commands: Commands) -> None:
    line = (*TINY, "method=none", "task=[linear,knn]", "encoder_optimiser.lr=1e30,2e-3")
    line = (*line, "controls=[untrained]", "slurm.partition=debug")
    plan = commands.run("slurm/pipeline.py", *line, "dry_run=true")
    assert plan.count("#!/bin/bash") == 3
    assert "--dependency=afterany:ITS_PRETRAINING\n" in plan
    assert not (commands.folder / "runs").exists()
    commands.run("slurm/pipeline.py", *line)
    process = commands.start("slurm/status.py", "runs", "--watch", "--interval", "1")
    commands.finish(process, status=1)
    states = {name.split("-")[0]: [] for name in commands.status()}
    for name, run in commands.status().items():
        states[name.split("-")[0]].append(run["state"])
    assert states["scenes/untrained"] == ["done", "done"]
    assert sorted(states["scenes/none"]) == ["done", "failed"]
    report = commands.folder / "runs/tables/table1.md"
    wait_for_file(report)
    assert "failed (1 of 1)" in report.read_text()

    before = len(commands.jobs())
    commands.run("slurm/pipeline.py", *line)
    again = commands.jobs()[: len(commands.jobs()) - before]
    assert len(commands.jobs()) - before == 1 + 2 + 1, again  # one pretraining, two tasks, tables


def test_sweep__a_hundred_runs(commands: Commands) -> None:
    line = (*TINY, "data.train_count=32", "data.test_count=16", "method=none", "task=[knn]")
    line = (*line, "batch_size=16", "controls=[]", "seed=range(100)", *SLURM)
    before = len(commands.jobs())
    process = commands.start("benchmark/run.py", "-m", *line)
    wait_for(lambda: len(commands.jobs()) == before + 100, process)
    done: set[str] = set()
    looks = 0
    while process.poll() is None:
        states = {name: run["state"] for name, run in commands.status().items()}
        assert len(states) == 100
        assert not {"failed", "stale"} & set(states.values()), states
        now = {name for name, state in states.items() if state == "done"}
        assert done <= now  # what is done stays done
        assert list(states.values()).count("running") <= 8  # as many CPUs are there
        done, looks = now, looks + 1
        time.sleep(1)
    assert "over n=100 seeds" in commands.finish(process)
    assert looks > 20
    assert len(commands.jobs()) == before + 100
    assert {run["state"] for run in commands.status().values()} == {"done"}
    for record in (commands.folder / "runs").glob("scenes/*/seed*/provenance.json"):
        assert len(json.loads(record.read_text())["attempts"]) == 1, record  # none twice


def wait_for_file(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.2)
