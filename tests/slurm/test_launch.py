"""Sending and watching, without a cluster: what is noted, refused, cancelled and requeued."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.plan import Planned, Planner
from benchmark.state import RunState
from slurm import launch
from slurm.launch import note_jobs, noted_jobs, send, settings_of
from slurm.submit import Submitted

LINE = ("preset=smoke", "data.train_count=32", "data.test_count=16", "task=[]", "batch_size=16")


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Puts stand-ins for SLURM's commands on PATH, and tells how they were called."""
    log = tmp_path / "called"
    for name in ("sbatch", "srun", "scontrol", "scancel", "squeue"):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        note = "" if name == "squeue" else f'echo "{name} $*" >> {log}\n'
        script.write_text(f"#!/bin/sh\n{note}")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return lambda: log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Planned]:
    planner = Planner()

    def make(*overrides: str) -> Planned:
        line = (*LINE, "hydra/launcher=slurm", f"runs_dir={tmp_path / 'runs'}")
        return planner.plan([*line, *overrides])

    return make


def test_settings_of__runs_that_ask_for_different_things_are_no_array(plan) -> None:
    with pytest.raises(UserError, match=r"threads=1,2 or a key of slurm; send them apart"):
        settings_of([plan("threads=1"), plan("threads=2")])
    with pytest.raises(UserError, match="send them apart"):
        settings_of([plan(), plan("slurm.time=60")])
    assert settings_of([plan("threads=2"), plan("threads=2", "seed=1")]).cpus_per_task == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"run": 3}', '{"run": {"job": 3, "log": ""}}'])
def test_send__a_broken_note_is_named_before_anything_is_sent(content, plan, called) -> None:
    planned = plan()
    planned.run.folder.mkdir(parents=True)
    (planned.run.folder / "jobs.json").write_text(content)
    with pytest.raises(UserError, match=r"jobs\.json .*delete it"):
        send([planned], pytest.fail)
    assert not [line for line in called() if line.startswith("sbatch")]


def test_note_jobs__what_cannot_be_noted_is_cancelled(plan, called, tmp_path: Path) -> None:
    runs = [plan(f"seed={k}").run for k in range(3)]
    for run in runs:
        run.folder.mkdir(parents=True)
    (runs[1].folder / "jobs.json").mkdir()
    sent = [(run, "run", Submitted(f"5_{k}", tmp_path / "log")) for k, run in enumerate(runs)]
    with pytest.raises(OSError, match=r"jobs\.json"):
        note_jobs(sent)
    assert noted_jobs(runs[0]) == {"run": "5_0"}
    assert called() == ["scancel 5_1 5_2"]
    assert json.loads((runs[0].folder / "jobs.json").read_text())["run"]["job"] == "5_0"


def test_abandoned__only_a_heartbeat_that_stays_tells(plan, called, monkeypatch) -> None:
    """A job that starts again meets the lock of its last attempt, however old that is."""
    run = plan().run
    now = [1000.0]
    monkeypatch.setattr(launch.time, "monotonic", lambda: now[0])
    abandoned, told = launch._Abandoned(), []

    def look(left: float | None, seconds: float) -> list[str]:
        now[0] += seconds
        state = RunState(run.folder, "queued", "RUNNING, nobody", job="7", in_queue=True, left=left)
        abandoned.look(run, state, told.append)
        return called()

    assert not look(-1e6, 0)
    assert not look(-1e6, launch.ABANDONED_AFTER - 1)
    assert not look(None, 100)  # it works again
    assert not look(-1e5, launch.ABANDONED_AFTER + 1)
    assert look(-1e5, launch.ABANDONED_AFTER + 1) == ["scontrol requeuehold 7"]
    assert len(look(None, launch.HELD_FOR - 1)) == 1
    assert look(None, 2)[1:] == ["scontrol release 7"]
    assert len(look(-1e5, 10)) == 2
    assert len(look(-1e5, launch.ABANDONED_AFTER - 1)) == 2  # it has as long to start
    assert len(told) == 1
    look(-1e5, 2)
    abandoned.release()  # whoever watches leaves
    assert called()[2:] == ["scontrol requeuehold 7", "scontrol release 7"]
