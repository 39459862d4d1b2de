"""One process per folder: real processes, real kills, and another machine's heartbeat."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmark import lock
from benchmark.lock import LOCK, LockLostError, clear_dead, exclusive, read_owner

HOLD = """
import sys, time
from pathlib import Path
from benchmark.lock import exclusive
with exclusive(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def refuse(owner: object) -> None:
    pytest.fail(f"waits for {owner}")


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def elsewhere(folder: Path, **changes: object) -> Path:
    """The lock of a process on another machine."""
    with exclusive(folder, refuse):
        mine = read_owner(folder)
    file = folder / LOCK
    other = {"place": "another boot", "host": "n7", "pid": 12, "job": "34", "token": "x"}
    file.write_text(json.dumps(asdict(replace(mine, **other)) | changes))
    return file


def half_written(path: Path, pid: int) -> Path:
    """What a process leaves of a file if it is killed while it writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname().replace(".", "-")
    part = path.with_name(f".{path.name}.{host}.{pid}.part")
    part.write_text("half")
    return part


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_exclusive__tells_who_is_there_and_takes_over_from_the_dead(tmp_path, holder) -> None:
    owner = read_owner(tmp_path)
    assert (owner.pid, owner.dead()) == (holder.pid, False)
    half_written(tmp_path / "result.json", holder.pid)
    told, held = [], threading.Event()

    def second() -> None:
        with exclusive(tmp_path, told.append):
            held.set()

    thread = in_thread(second)
    assert not held.wait(1)
    assert told == [owner]
    assert len(list(tmp_path.iterdir())) == 2
    assert f"process {holder.pid} on " in str(owner)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert held.wait(10)
    thread.join()
    assert not list(tmp_path.iterdir())  # neither the lock nor what was half-written


def test_exclusive__a_stopped_process_is_not_dead(tmp_path, holder) -> None:
    holder.send_signal(signal.SIGSTOP)
    assert read_owner(tmp_path).dead() is False


def test_owner__a_later_process_with_the_same_number_is_another_one(tmp_path, holder) -> None:
    owner = read_owner(tmp_path)
    assert replace(owner, started=owner.started + 1).dead()


def test_exclusive__many_at_once_are_one_at_a_time(tmp_path: Path) -> None:
    inside, most, entered = [], [], []

    def enter() -> None:
        with exclusive(tmp_path / "a", lambda owner: None):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            entered.append(inside.pop())

    threads = [in_thread(enter) for _ in range(8)]
    for thread in threads:
        thread.join()
    assert len(entered) == 8
    assert set(most) == {1}


def test_exclusive__another_machine_is_dead_without_a_heartbeat(tmp_path, monkeypatch) -> None:
    file = elsewhere(tmp_path)
    monkeypatch.setattr(lock, "DEAD_AFTER", 1.0)
    waited = []
    beating = threading.Event()

    def beat() -> None:
        ahead = time.time() + 3600  # its clock is an hour ahead, and it jumps
        for i in range(8):
            os.utime(file, (ahead - 7200 * (i == 3) + i,) * 2)
            assert not beating.wait(0.25)

    thread = in_thread(beat)
    started = time.monotonic()
    with exclusive(tmp_path, waited.append):
        assert time.monotonic() - started > 2.5  # 8 beats, and a second without one
    thread.join()
    assert str(waited[0]).startswith("process 12 on n7, job 34 since ")


def test_exclusive__a_file_of_a_process_killed_while_it_made_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "DEAD_AFTER", 0.5)
    (tmp_path / LOCK).write_text("")
    waited = []
    with exclusive(tmp_path, waited.append):
        assert waited == [None]


def test_lock__beats(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    with exclusive(tmp_path, refuse):
        os.utime(tmp_path / LOCK, (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / LOCK).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_lock__lost_with_the_folder_or_to_another_process(tmp_path: Path) -> None:
    with exclusive(tmp_path / "a", refuse) as mine:
        mine.check()
        file = elsewhere(tmp_path / "b")
        file.rename(tmp_path / "a" / LOCK)
        with pytest.raises(LockLostError, match=r"no longer held .* process 12 on n7"):
            mine.check()
        (tmp_path / "a" / LOCK).unlink()
        with pytest.raises(LockLostError, match="but by nobody"):
            mine.check()
        (tmp_path / "a").rename(tmp_path / "c")
        with pytest.raises(LockLostError, match="was removed"):
            mine.check()
    assert not (tmp_path / "a").exists()


def test_break__gives_a_living_owners_lock_back(tmp_path: Path) -> None:
    """Two saw the same dead owner, and the other one was quicker."""
    file = elsewhere(tmp_path)
    dead = file.read_text()
    living = dead.replace('"x"', '"y"')
    file.write_text(living)
    lock._break(tmp_path, dead)
    assert file.read_text() == living
    lock._break(tmp_path, living)
    assert not list(tmp_path.iterdir())


def test_clear_dead__removes_a_dead_owners_lock_and_no_living_one_s(tmp_path, holder) -> None:
    clear_dead(tmp_path)
    assert read_owner(tmp_path).pid == holder.pid
    holder.kill()
    holder.wait()
    clear_dead(tmp_path)
    assert not list(tmp_path.iterdir())
    clear_dead(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_exclusive__leaves_alone_what_a_living_process_writes(tmp_path: Path, holder) -> None:
    """Some files are written by others than the holder: plans, jobs, results in a subfolder."""
    part = half_written(tmp_path / "a" / "results" / "seed0.json", holder.pid)
    with exclusive(tmp_path / "a", refuse):
        assert part.exists()
    elsewhere = part.rename(part.with_name(".seed0.json.n7.1.part"))
    with exclusive(tmp_path / "a", refuse):
        assert elsewhere.exists()
    os.utime(elsewhere, (time.time() - 100,) * 2)
    with exclusive(tmp_path / "a", refuse):
        assert not elsewhere.exists()


def test_exclusive__where_the_working_folder_is_gone(tmp_path: Path, monkeypatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError), exclusive(Path("runs"), refuse):
        pass


def test_exclusive__a_full_disk_leaves_no_lock(tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="No space"), exclusive(tmp_path, refuse):
        pass
    assert not list(tmp_path.iterdir())
