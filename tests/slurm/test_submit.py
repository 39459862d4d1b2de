"""Calls as jobs of a real cluster: told to make way, killed, failing, refused."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmark.config import SlurmConfig, compose
from benchmark.errors import UserError
from benchmark.resolve import typed
from slurm.entry import Entry
from slurm.settings import checked
from slurm.submit import script, submit

if TYPE_CHECKING:
    from tests.slurm.conftest import Cluster

# What jobs call: a module that only the submitting process can import.
WORK = '''
import os, signal, sys, time
from pathlib import Path

def note(file, *words):
    rank = os.environ["SLURM_PROCID"]
    line = " ".join([f"{rank}:{os.environ.get('SLURM_RESTART_COUNT', '0')}", *words])
    with Path(file).open("a") as opened:
        opened.write(line + "\\n")

def succeed(file):
    note(file, "done", os.environ["SRUN_CPUS_PER_TASK"])

def fail(file):
    note(file, "failed")
    return False

def crash(file):
    raise RuntimeError("out of order")

def wait(file):
    """Until it has made way, which it does after the step it is in; then done."""
    from benchmark import interruption
    if "SLURM_RESTART_COUNT" not in os.environ:
        note(file, "began")
        with interruption.deferred():
            while interruption.asked() is None:
                time.sleep(0.05)
                if interruption.asked_to_save():
                    note(file, "saved")
            note(file, "made way")
    note(file, "done")

def lose_a_rank(file):
    if os.environ["SLURM_PROCID"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(300)

def not_requeued(text, file):
    note(file, text)
'''


@pytest.fixture(scope="session")
def settings() -> SlurmConfig:
    return checked(typed(compose([])).slurm, threads=1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """For jobs, with ``work.py`` that they can import."""
    plugins = tmp_path / "plug ins"
    plugins.mkdir()
    (plugins / "work.py").write_text(WORK)
    monkeypatch.syspath_prepend(plugins)
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("work", None)


def call(function: str, file: Path) -> Entry:
    return Entry(f"work:{function}", str(file), failed="work:not_requeued")


def send(function: str, folder: Path, settings: SlurmConfig, after: tuple[str, ...] = ()) -> str:
    (job,) = submit(
        [call(function, folder / "notes")], settings, folder, name=function, after=after
    )
    return job.job_id


def notes(folder: Path) -> list[str]:
    file = folder / "notes"
    return file.read_text().splitlines() if file.exists() else []


def wait_for_notes(folder: Path, count: int) -> None:
    end = time.monotonic() + 60
    while len(notes(folder)) < count:
        assert time.monotonic() < end, [f.read_text() for f in folder.glob("*.out")]
        time.sleep(0.1)


@pytest.mark.slurm
def test_submit__states_tell_success_from_failure(
    in_cluster: Cluster, folder: Path, settings: SlurmConfig
) -> None:
    functions = ("succeed", "fail", "crash")
    jobs = submit([call(f, folder / "notes") for f in functions], settings, folder, name="three")
    array = jobs[0].job_id.split("_")[0]
    assert [job.job_id for job in jobs] == [f"{array}_{i}" for i in range(3)]
    ends = [in_cluster.wait(job.job_id, "COMPLETED", "FAILED") for job in jobs]
    assert ends == ["COMPLETED", "FAILED", "FAILED"]
    assert sorted(notes(folder)) == ["0:0 done 1", "0:0 failed"]
    assert "RuntimeError: out of order" in jobs[2].log.read_text()


@pytest.mark.slurm
def test_signal__job_makes_way_and_is_called_again(
    in_cluster: Cluster, folder: Path, settings: SlurmConfig
) -> None:
    four = replace(settings, nodes=2, tasks_per_node=2)
    job = send("wait", folder, four)
    after = send("succeed", folder, settings, after=(job,))
    wait_for_notes(folder, 4)
    in_cluster.call("scancel", "--signal=USR2", job)
    # What waits for a job's end is not let in while the job is being requeued.
    while in_cluster.state(job) != "COMPLETED":
        assert in_cluster.state(after) == "PENDING" or in_cluster.state(job) == "COMPLETED"
        time.sleep(0.1)
    in_cluster.wait(after, "COMPLETED")
    # Being requeued sends SIGTERM, perhaps before a process has made way.
    told = [note for note in notes(folder) if not note.endswith("saved")]
    expected = [f"{r}:0 {w}" for r in range(4) for w in ("began", "made way")]
    expected += [f"{r}:1 done" for r in range(4)] + ["0:0 done 1"]
    assert sorted(told) == sorted(expected)
    assert told[-1] == "0:0 done 1"
    log = (folder / f"{job}_0_log.out").read_text()
    assert log.count("Starting with JobEnvironment") == 2  # the first turn's log is kept


@pytest.mark.slurm
def test_time_limit__job_makes_way_and_is_called_again(
    in_cluster: Cluster, folder: Path, settings: SlurmConfig
) -> None:
    short = replace(settings, time=1, signal_delay_s=20)  # shorter than users may ask for
    job = send("wait", folder, short)
    in_cluster.wait(job, "COMPLETED", seconds=150)
    assert notes(folder) == ["0:0 began", "0:0 made way", "0:1 done"]


@pytest.mark.slurm
def test_time_limit__too_often(in_cluster: Cluster, folder: Path, settings: SlurmConfig) -> None:
    # With so little time submitit takes every such signal for a time limit.
    job = send("wait", folder, replace(settings, time=10, max_timeouts=0))
    wait_for_notes(folder, 1)
    in_cluster.call("scancel", "--signal=USR2", job)
    in_cluster.wait(job, "FAILED")
    why = "Job not requeued because: timed-out too many times."
    assert notes(folder) == ["0:0 began", "0:0 made way", f"0:0 {why}"]


@pytest.mark.slurm
def test_signal__before_python_listens_is_survived(
    in_cluster: Cluster, folder: Path, settings: SlurmConfig
) -> None:
    slow = folder / "slow"
    slow.mkdir()
    code = "import time; open({!r}, 'w').close(); time.sleep(3)"
    (slow / "sitecustomize.py").write_text(code.format(str(folder / "starting")))
    job = send("succeed", folder, replace(settings, setup=[f"export PYTHONPATH='{slow}'"]))
    end = time.monotonic() + 60
    while not (folder / "starting").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    in_cluster.call("scancel", "--signal=USR2", job)
    in_cluster.wait(job, "COMPLETED", "FAILED")
    assert notes(folder) == ["0:0 done 1"]


@pytest.mark.slurm
def test_requeue__by_an_administrator_asks_to_save(
    in_cluster: Cluster, folder: Path, settings: SlurmConfig
) -> None:
    job = send("wait", folder, settings)
    wait_for_notes(folder, 1)
    in_cluster.call("scontrol", "requeue", job)
    in_cluster.wait(job, "COMPLETED")
    # SIGTERM may come twice.
    assert list(dict.fromkeys(notes(folder))) == ["0:0 began", "0:0 saved", "0:1 done"]


@pytest.mark.slurm
def test_kill__of_one_process_ends_its_job_and_lets_others_in(
    in_cluster: Cluster, folder: Path, settings: SlurmConfig
) -> None:
    job = send("lose_a_rank", folder, replace(settings, nodes=2))
    after = send("succeed", folder, settings, after=(job,))
    in_cluster.wait(job, "FAILED")
    in_cluster.wait(after, "COMPLETED")
    assert notes(folder) == ["0:0 done 1"]


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"partition": "nope"}, "invalid partition specified: nope"),
        ({"gpus_per_node": 1}, "Invalid generic resource"),
        ({"mem_gb": 1e4}, "Memory specification can not be satisfied"),
        ({"additional": {"colour": "red"}}, "unrecognized option '--colour=red'"),
    ],
)
def test_submit__refused_in_sbatchs_own_words(
    in_cluster: Cluster,
    folder: Path,
    settings: SlurmConfig,
    wrong: dict,
    words: str,
    capfd: pytest.CaptureFixture,
) -> None:
    with pytest.raises(UserError, match="SLURM refuses succeed: ") as refused:
        send("succeed", folder, replace(settings, **wrong))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""


@pytest.mark.slurm
def test_submit__all_or_none(
    in_cluster: Cluster, folder: Path, settings: SlurmConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.submit._LARGEST_ARRAY", 2)
    held = replace(settings, additional={"hold": True})
    work = call("succeed", folder / "notes")
    first, second, third = submit([work] * 3, held, folder, name="three")
    assert first.job_id.replace("_0", "_1") == second.job_id
    assert "_" not in third.job_id  # alone, hence no array
    in_cluster.call("scancel", first.job_id.split("_")[0], third.job_id)
    with pytest.raises(TypeError, match="pickle"):
        submit([work, work, partial(next, iter_forever())], held, folder, name="broken")
    states = in_cluster.call("squeue", "-h", "-t", "all", "-n", "broken", "-o", "%T")
    assert states == "CANCELLED"  # the array that was there already


def iter_forever() -> Iterator[int]:
    while True:
        yield 0


def test_script__needs_no_slurm(
    folder: Path, settings: SlurmConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    text = script(
        1500,
        replace(settings, partition="gpu", modules=["cuda/12", "python"], container="box run"),
        folder,
        name="sweep",
        after=("14_0", "15"),
    )
    lines = text.splitlines()
    assert "#SBATCH --partition=gpu" in lines
    assert "#SBATCH --dependency=afterany:14_0:15" in lines
    assert "#SBATCH --requeue" in lines
    assert "#SBATCH --signal=USR2@120" in lines
    assert "#SBATCH --open-mode=append" in lines
    assert "module load cuda/12 python || exit 1" in lines
    assert any(' box run sh -c \'trap "" USR2; exec' in line for line in lines)
    assert not any("gpus" in line for line in lines)
    with pytest.raises(UserError, match="this machine has no sbatch"):
        send("succeed", folder, settings)
