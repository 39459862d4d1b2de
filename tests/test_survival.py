"""Runs that are killed at any moment, and go on to the bytes of one that never was.

Every method is trained, evaluated and tabulated by the command line, by a process that gets SIGKILL
at moments spread over all it does, or before one of its writes, and is started again, until it
comes to its end.
"""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing as mp
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from benchmark.lock import LOCK

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.stem for path in (ROOT / "benchmark/conf/method").glob("*.yaml"))
LINE = (
    "preset=smoke",
    "seed=0",
    "task=[linear,knn]",
    "epochs=2",
    "batch_size=16",
    "log_every_steps=1",
    "checkpoint_every_seconds=0",
)
SCENES = ("data.train_count=64", "data.test_count=32")
KILLS = 3  # of each method

pytestmark = pytest.mark.proof


class Fatal(NamedTuple):
    """The write that kills a process before it is done.

    A write is what others can see: a file that is renamed into place, a lock made or removed.
    """

    where: str  # the end of the path of its folder, with wildcards
    number: int  # of the writes there, from 1


def attempt(folder: Path, line: tuple[str, ...], fatal: Fatal | None) -> None:
    """One start of the command line, in a process of its own."""
    from benchmark.run import main

    os.chdir(folder)
    if fatal is not None:
        sys.addaudithook(killer(folder, fatal))
    words = io.StringIO()
    with redirect_stdout(words), redirect_stderr(words):
        status = main(line)
    (folder / "words.txt").write_text(words.getvalue())
    sys.exit(status)


def killer(folder: Path, fatal: Fatal) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that kills its process."""
    writes = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        of_lock = event == "os.remove" or (event == "open" and arguments[1] is None)  # by os.open
        if event == "os.rename" or (of_lock and Path(os.fsdecode(arguments[0])).name == LOCK):
            place = Path(os.fsdecode(arguments[0])).absolute().parent
            there = place.is_relative_to(folder) and place.match(fatal.where)
            if there and next(writes) == fatal.number:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def start(
    folder: Path, line: tuple[str, ...], fatal: Fatal | None = None
) -> mp.process.BaseProcess:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["benchmark.job", "benchmark.run", "reports.build"])
    process = context.Process(target=attempt, args=(folder, line, fatal))
    process.start()
    return process


def finish(folder: Path, line: tuple[str, ...]) -> float:
    """Let it come to its end; returns the seconds that took."""
    started = time.monotonic()
    process = start(folder, line)
    process.join()
    words = folder / "words.txt"
    assert process.exitcode == 0, words.read_text() if words.exists() else process.exitcode
    return time.monotonic() - started


def kill(folder: Path, line: tuple[str, ...], when: Callable[[], bool]) -> bool:
    """Start, and kill as soon as ``when`` says so; False if the end came first."""
    process = start(folder, line)
    while not when():
        if process.exitcode is not None:
            return False
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def killed_at(folder: Path, line: tuple[str, ...], fatal: Fatal) -> bool:
    """Start, and tell whether that write killed it; else it came to its end with fewer."""
    process = start(folder, line, fatal)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


UNALIKE = ("seconds", "time", "dirty", "memory")


def untimed(value: Any) -> Any:
    """Without what differs from run to run."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in UNALIKE}
    return value


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves behind, by its path."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".npz" or path.name in (
            "metrics.jsonl",
            "encoder.safetensors",
            "gallery.png",
        ):
            content: Any = path.read_bytes()
            if path.name == "metrics.jsonl":
                content = [untimed(json.loads(line)) for line in content.splitlines()]
            found[name] = content
        elif path.parent.name == "tables" and path.stem != "cost":  # which tells seconds
            found[name] = path.read_text()
        elif "results" in path.parts and path.is_file():
            found[name] = untimed(json.loads(path.read_text()))
        elif path.is_file() and path.name.startswith("."):
            found[name] = "left over"
    return found


def lines() -> list[tuple[str, ...]]:
    return [(f"method={method}", *SCENES, *LINE) for method in METHODS]


@pytest.mark.parametrize("line", lines(), ids=METHODS)
def test_run__killed_and_resumed_equals_never_killed(line, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    seconds = finish(tmp_path / "whole", line)
    expected = outcome(tmp_path / "whole")
    assert len(expected) >= 6  # encoder, two results, three tables
    assert "left over" not in expected.values()

    killed = tmp_path / "killed"
    killed.mkdir()
    chance = random.Random(line[0])
    for moment in range(KILLS):
        wait = (moment + chance.random()) / KILLS * seconds
        while not kill(killed, line, after(wait)):  # it came to its end, so there is less to do
            wait /= 2
    finish(killed, line)
    assert outcome(killed) == expected


def test_run__killed_before_each_of_its_writes(tmp_path: Path) -> None:
    line = ("method=untrained", *SCENES, *LINE)  # whose writes are not lost among checkpoints
    (tmp_path / "whole").mkdir()
    finish(tmp_path / "whole", line)
    expected = outcome(tmp_path / "whole")
    for number in itertools.count(1):
        killed = tmp_path / str(number)
        killed.mkdir()
        if not killed_at(killed, line, Fatal("*", number)):
            break
        finish(killed, line)
        assert outcome(killed) == expected, number
    assert number > 20


@pytest.mark.parametrize(
    "where",
    ["runs/*/*/seed0", "runs/*/*/seed0/checkpoints", "runs/*/*/seed0/results/*", "runs/tables"],
)
def test_run__killed_before_a_file_is_in_place(where: str, tmp_path: Path) -> None:
    line = ("method=sequential", *SCENES, *LINE)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    finish(tmp_path / "whole", line)
    assert killed_at(tmp_path / "killed", line, Fatal(where, 3))  # the first may be of a lock
    assert any((tmp_path / "killed").glob(f"{where}/.*.part"))
    finish(tmp_path / "killed", line)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_run__killed_while_it_packs_a_folder_of_images(tmp_path: Path) -> None:
    for k in range(600):
        path = tmp_path / "images" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    images = str(tmp_path / "images")
    line = ("method=random", "data=folder", f"data.train={images}", f"data.test={images}", *LINE)
    line = (*line[:-1], "epochs=1")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    finish(tmp_path / "whole", line)
    packing = lambda: any((tmp_path / "killed").glob("runs/.cache/**/scratch"))  # noqa: E731
    assert kill(tmp_path / "killed", line, packing)
    finish(tmp_path / "killed", line)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
