"""TensorBoard and Weights & Biases: what they are told, once each, however training went."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from benchmark import trackers
from benchmark.errors import UserError
from benchmark.trackers import TensorBoard, Trackers, WeightsAndBiases, check_wandb, flat

ROOT = Path(__file__).parents[2]
LINE = (
    "preset=smoke",
    "data.train_count=128",
    "data.test_count=12",
    "batch_size=32",
    "encoder.width=8",
    "method=sequential",
    "task=[]",
    "seed=0",
    "log_every_steps=1",
)
BLACK = np.zeros((4, 6, 3), np.uint8)


def read_back(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], list[int]]:
    """Each scalar's steps and values, and the steps of the pictures, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"scalars": 0, "images": 0}).Reload()
    tags = events.Tags()
    scalars = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in tags["scalars"]
    }
    pictures = [event.step for name in tags["images"] for event in events.Images(name)]
    return scalars, pictures


def noted(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of metrics.jsonl."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for name, value in flat(line).items():
            found.setdefault(name, []).append((line["step"], pytest.approx(value)))
    return found


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "benchmark" / "run.py"), *LINE, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> Path:
    out, _ = process.communicate(timeout=120)
    (run,) = Path(process.args[-1].partition("=")[2]).glob("scenes/*/seed0")
    assert (run / "encoder.safetensors").exists(), out
    return run


def test_flat__names_the_numbers_of_lists() -> None:
    line = {"step": 3, "epoch": 1, "slot_area": [0.5, 0.25], "loss": 2, "update": "simultaneous"}
    assert flat(line) == {"epoch": 1.0, "slot_area/1": 0.5, "slot_area/2": 0.25, "loss": 2.0}


def test_trackers__draw_no_picture_for_nobody() -> None:
    trackers = Trackers()
    trackers.open(0)
    trackers.picture(0, lambda: pytest.fail("drawn"))
    trackers.line({"step": 0})
    trackers.close()


def test_tensorboard__forgets_the_steps_that_come_again(tmp_path: Path) -> None:
    for done in (0, 2, 0, 3):
        board = TensorBoard(tmp_path, done)
        board.picture(done, BLACK)
        for step in range(done, 5):
            board.scalars(step, {"loss": 10.0 * done + step})
        board.close()
    scalars, pictures = read_back(tmp_path)
    assert scalars == {"loss": [(0, 0.0), (1, 1.0), (2, 2.0), (3, 33.0), (4, 34.0)]}
    assert pictures == [0, 3]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Inside, no file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_tensorboard__tells_that_it_cannot_write(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda failure: None)  # which tells it too
    board = TensorBoard(tmp_path / "full", 0)
    with full_disk(200):
        with pytest.raises(OSError, match="File too large"):
            for step in range(5):
                board.scalars(step, {"loss": 0.0})
        with pytest.raises(OSError, match="File too large"):
            board.close()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        TensorBoard(tmp_path / "file", 0)


@pytest.mark.proof
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_tensorboard__has_every_step_once_after_a_stop(tmp_path: Path, stop) -> None:
    """SIGTERM goes on after the last step, SIGKILL from the last checkpoint."""
    line = ("tensorboard=true", "epochs=6", f"runs_dir={tmp_path}")
    seconds = "checkpoint_every_seconds=1"
    process = start(seconds, *line, cwd=tmp_path)
    end = time.monotonic() + 120
    while not any(
        metrics.read_text().count("\n") > 8 for metrics in tmp_path.glob("*/*/*/metrics.jsonl")
    ):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(stop)
    process.communicate(timeout=120)
    run = finish(start(seconds, *line, cwd=tmp_path))
    assert len(list((run / "tensorboard").iterdir())) == 2
    assert len(noted(run)["loss"]) == 24
    scalars, pictures = read_back(run / "tensorboard")
    assert scalars == noted(run)
    assert {"lr/2", "slot_area/4", "penalty/overlap", "mask_loss"} < scalars.keys()
    assert pictures == list(range(0, 25, 3))
    assert len(list((run / "masks/steps").iterdir())) == 9


def records(file: Path) -> Iterator[object]:
    """What a file of Weights & Biases holds: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, whole = file.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if (left := 2**15 - position % 2**15) < 7:  # no place for a header in this block
            position += left
            continue
        size, kind = int.from_bytes(content[position + 4 : position + 6], "little"), position + 6
        whole += content[position + 7 : position + 7 + size]
        position += 7 + size
        if content[kind] in (1, 4):  # the whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def history(run: Path) -> tuple[dict[str, list[tuple[int, float]]], list[int]]:
    """As `read_back`, from the offline files of one run in the order in which they were made."""
    scalars: dict[str, list[tuple[int, float]]] = {}
    pictures = []
    for file in sorted(run.glob("wandb/offline-run-*/run-*.wandb")):
        for record in records(file):
            if record.WhichOneof("record_type") != "history":
                continue
            step = record.history.step.num
            for item in record.history.item:
                keys = [item.key] if item.key else list(item.nested_key)
                if keys[0] == "masks":
                    pictures += [step] if keys[1] == "path" else []
                elif not keys[0].startswith("_"):
                    scalars.setdefault(keys[0], []).append((step, json.loads(item.value_json)))
    return scalars, pictures


@pytest.mark.proof
def test_wandb__holds_every_step_in_one_run_and_changes_nothing(tmp_path: Path) -> None:
    line = ("wandb.enabled=true", "wandb.project=masks")
    run = finish(start(*line, f"runs_dir={tmp_path / 'with'}", cwd=tmp_path))
    scalars, pictures = history(run)
    assert scalars == noted(run)
    assert pictures == [0, 1, 2, 3, 4]
    (folder,) = run.glob("wandb/offline-run-*")
    hash8 = run.parent.name.rpartition("-")[2]
    assert folder.name.endswith(f"-{hash8}-seed0")
    assert len(list(folder.glob("files/media/images/*.png"))) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"with"}
    plain = finish(start(f"runs_dir={tmp_path / 'without'}", cwd=tmp_path))
    assert plain.parent.name == run.parent.name
    for name in ("encoder.safetensors", "masks/test.npz", "masks/steps/step00000004.npz"):
        assert (plain / name).read_bytes() == (run / name).read_bytes()


def open_wandb(folder: Path, done: int = 0) -> WeightsAndBiases:
    return WeightsAndBiases(
        folder,
        done,
        project="maskbench",
        entity=None,
        mode="offline",
        identity="0123abcd-seed0",
        name="random-0123abcd/seed0",
        config={"seed": 0},
    )


def test_wandb__goes_on_in_the_same_run(tmp_path: Path, capfd) -> None:
    for done in (0, 2):
        run = open_wandb(tmp_path, done)
        run.picture(done, BLACK)
        run.scalars(done, {"loss": 1.0 + done})
        run.close()
    scalars, pictures = history(tmp_path)
    assert scalars == {"loss": [(0, 1.0), (2, 3.0)]}
    assert pictures == [0, 2]
    assert {file.name for file in tmp_path.glob("wandb/*/*.wandb")} == {"run-0123abcd-seed0.wandb"}
    assert "".join(capfd.readouterr()) == ""


def test_wandb__tells_that_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "wandb").touch()
    with pytest.raises(OSError, match="wandb"):
        open_wandb(tmp_path)


def refused(message: str, **changes: object) -> None:
    settings = {"enabled": True, "mode": "offline", "project": "maskbench"}
    with pytest.raises(UserError, match=message):
        check_wandb(**(settings | changes))


@pytest.mark.parametrize("found", [None, ModuleSpec("wandb", None)])  # nowhere; a folder wandb/
def test_check_wandb__missing_library_names_the_remedy(monkeypatch, found) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: found)
    check_wandb(enabled=False, mode="offline", project="maskbench")
    refused("wandb.enabled=true, but wandb is not installed; pip install wandb")


def test_check_wandb__refuses_what_wandb_would() -> None:
    check_wandb(enabled=True, mode="online", project="my masks")
    refused("wandb.mode=disabled is not one of offline, online", mode="disabled")
    for project in ("", "a/b", "x" * 129):
        refused("wandb.project=.* must be a name", project=project)


@pytest.mark.parametrize("option", ["wandb.mode=dryrun", "wandb.project=a/b", "mask_snapshots=-1"])
def test_plan__refuses_settings_of_trackers(option: str, tmp_path: Path, monkeypatch) -> None:
    from benchmark.plan import Planner

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=option.partition("=")[0]):
        Planner().plan([*LINE, option])


def test_plan__trackers_change_no_hash(tmp_path: Path, monkeypatch) -> None:
    from benchmark.plan import Planner

    monkeypatch.chdir(tmp_path)
    plan: Callable = Planner().plan
    options = ["mask_snapshots=0", "tensorboard=true", "wandb.enabled=true", "wandb.project=other"]
    assert plan([*LINE, *options]).run.hash8 == plan([*LINE]).run.hash8
