"""Work in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.errors import UserError
from reports.meanwhile import meanwhile


def test_meanwhile__another_process_hands_its_result_back() -> None:
    here = {"known": 1}

    def work() -> tuple[int, int]:
        here["known"] += 1
        return os.getpid(), here["known"]

    with meanwhile(work) as result:
        pid, known = result()
    assert pid != os.getpid()
    assert (known, here["known"]) == (2, 1)


@pytest.mark.parametrize("error", [ValueError("it is broken"), OSError(28, "full"), UserError("x")])
def test_meanwhile__an_exception_is_raised_here(error: Exception) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)) as raised, meanwhile(work) as result:
        result()
    assert raised.value.args == error.args


def test_meanwhile__a_process_that_is_killed_is_no_result() -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildProcessError, match="killed, as happens"), meanwhile(work) as result:
        result()


def test_meanwhile__a_mistake_in_the_work_is_printed(capfd) -> None:
    def work() -> None:
        raise KeyError("slots")

    with (
        pytest.raises(ChildProcessError, match="mistake is told"),
        meanwhile(work) as result,
    ):
        result()
    assert "KeyError: 'slots'" in capfd.readouterr().err


@pytest.mark.parametrize("size", [1, 1 << 20])  # the larger one than a pipe holds
def test_meanwhile__the_work_is_awaited_where_this_process_fails(
    tmp_path: Path, size: int, capfd
) -> None:
    def work() -> bytes:
        time.sleep(0.2)
        (tmp_path / "done").touch()
        return bytes(size)

    with pytest.raises(KeyError), meanwhile(work):
        raise KeyError("here")
    assert (tmp_path / "done").exists()
    assert capfd.readouterr().err == ""


def test_meanwhile__ends_with_its_parent(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = (
        "import os, time, pathlib\n"
        "from reports.meanwhile import meanwhile\n"
        "def work():\n"
        f"    pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "with meanwhile(work) as result:\n"
        "    result()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 30
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    while Path(f"/proc/{pid.read_text()}/stat").exists():
        state = Path(f"/proc/{pid.read_text()}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":  # ended; a container may lack who collects it
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
