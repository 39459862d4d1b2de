"""Work in a process of its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

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


def test_meanwhile__an_exception_is_raised_here() -> None:
    def work() -> None:
        raise ValueError("file.npz is broken")

    with pytest.raises(ValueError, match=r"file\.npz is broken"), meanwhile(work) as result:
        result()


def test_meanwhile__a_process_that_is_killed_is_no_result() -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildProcessError, match="was killed"), meanwhile(work) as result:
        result()


def test_meanwhile__the_work_is_awaited_where_this_process_fails(tmp_path: Path) -> None:
    def work() -> None:
        time.sleep(0.2)
        (tmp_path / "done").touch()

    with pytest.raises(KeyError), meanwhile(work):
        raise KeyError("here")
    assert (tmp_path / "done").exists()
