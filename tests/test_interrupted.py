"""What ends a run in the middle: signals, a removed folder, a full disk, a dead parent."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmark.failure import note_failure
from benchmark.lock import LOCK, LockLostError, read_owner

ROOT = Path(__file__).parents[1]
LINE = (
    "preset=smoke",
    "data.train_count=128",
    "data.test_count=64",
    "method=random",
    "task=[knn]",
    "seed=0",
)
LONG = "epochs=2000"


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "benchmark" / "run.py"), *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell has it ignored in what it starts in the background, these tests for instance.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str], status: int) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == status, out
    assert "Traceback" not in out
    return out


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def training(folder: Path) -> Callable[[], bool]:
    """Whether a step has been made, which progress.json tells."""
    return lambda: any(folder.glob("runs/scenes/*/seed0/progress.json"))


@pytest.mark.proof
def test_run__told_to_stop_saves_its_step_and_goes_on_there(tmp_path: Path) -> None:
    process = start(*LINE, LONG, cwd=tmp_path)
    wait_for(training(tmp_path), process)
    process.send_signal(signal.SIGTERM)
    out = finish(process, 143)
    step = re.search(r"SIGTERM came: saved after step (\d+) of 4000", out)
    assert step is not None, out
    (run,) = tmp_path.glob("runs/scenes/*/seed0")
    assert not (run / LOCK).exists()
    assert not (run / "error.txt").exists()
    (run / "progress.json").unlink()

    process = start(*LINE, LONG, cwd=tmp_path)
    wait_for(training(tmp_path), process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # in whichever moment: saved or not, it leaves
    out = finish(process, 130)
    assert f"goes on from step {step[1]} of 4000" in out
    assert not (run / LOCK).exists()


@pytest.mark.proof
def test_run__a_folder_that_is_removed_is_not_made_again(tmp_path: Path) -> None:
    process = start(*LINE, LONG, "checkpoint_every_seconds=0.5", cwd=tmp_path)
    wait_for(training(tmp_path), process)
    (run,) = tmp_path.glob("runs/scenes/*/seed0")
    run.rename(tmp_path / "moved")  # in one step, as a removal is not
    out = finish(process, 1)
    assert re.search(r"FAILED: \S+seed0 was removed while a process worked in it", out)
    assert not run.exists()


@pytest.mark.proof
def test_run__a_folder_removed_during_evaluation_is_not_made_again(tmp_path: Path) -> None:
    tasks = ("task=[linear,knn]", "tasks.linear.epochs=3000")
    process = start(*LINE, *tasks, "epochs=1", cwd=tmp_path)
    wait_for(lambda: any(tmp_path.glob(f"runs/scenes/*/seed0/results/linear-*/{LOCK}")), process)
    (run,) = tmp_path.glob("runs/scenes/*/seed0")
    run.rename(tmp_path / "moved")
    out = finish(process, 1)
    assert "was removed while a process worked in it" in out
    assert not run.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 20 MB, on which one checkpoint fits and not two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.proof
def test_run__a_full_disk_leaves_the_last_good_state(small_disk: Path) -> None:
    line = (*LINE, "epochs=3", "checkpoint_every_seconds=0")
    out = finish(start(*line, cwd=small_disk), 1)
    assert "FAILED: [Errno 28] No space left on device" in out
    (run,) = small_disk.glob("runs/scenes/*/seed0")
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert checkpoint.name.startswith("step00000001-")  # and nothing half-written
    assert not (run / "encoder.safetensors").exists()
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    out = finish(start(*line, cwd=small_disk), 0)
    assert "goes on from step 1 of 6" in out
    assert not (run / "error.txt").exists()


@pytest.mark.proof
def test_sweep__workers_of_a_killed_parent_save_and_leave(tmp_path: Path) -> None:
    process = start("-m", *LINE, LONG, "controls=[]", cwd=tmp_path)
    wait_for(training(tmp_path), process)
    (run,) = tmp_path.glob("runs/scenes/*/seed0")
    owner = read_owner(run)
    assert owner is not None
    assert owner.pid != process.pid
    process.kill()
    end = time.monotonic() + 60
    while (run / LOCK).exists():
        assert time.monotonic() < end, "the worker goes on alone"
        time.sleep(0.05)
    assert any((run / "checkpoints").glob("step*.pt"))
    process.communicate()


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_note_failure__a_full_device_names_the_remedy(tmp_path: Path) -> None:
    error = raised(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nGPU 0 has"))
    words = note_failure(error, tmp_path / "error.txt")
    assert words.startswith("FAILED: the device's memory is full (CUDA out of memory. Tried")
    assert "choose update=low_memory, trainer.branches=loop or a smaller batch_size" in words
    assert (tmp_path / "error.txt").read_text().splitlines()[-1] in words


def test_note_failure__a_lost_folder_gets_no_file(tmp_path: Path) -> None:
    words = note_failure(raised(LockLostError("it was removed")), tmp_path / "gone" / "error.txt")
    assert words == "FAILED: it was removed"
    assert not (tmp_path / "gone").exists()


def test_note_failure__tells_the_trace_where_it_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = note_failure(raised(ValueError("odd")), tmp_path / "file" / "error.txt")
    assert re.match(r"FAILED: odd; \S+ could not be written \(\w[\w ]+\):\nTraceback", words)
