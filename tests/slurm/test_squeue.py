"""What is made of squeue's answers; the tests marked slurm ask a real one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm import squeue
from slurm.squeue import read_queue

Fake = Callable[[str], None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a script in the place of squeue."""

    def make(script: str) -> None:
        file = tmp_path / "squeue"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


def refused() -> str:
    """Why SLURM could not be asked."""
    reasons: list[str] = []
    assert read_queue(reasons.append) is None
    (reason,) = reasons
    return reason


def test_read_queue__jobs_by_number(fake: Fake) -> None:
    lines = ("14_0|RUNNING|None", "14_1|PENDING|Nodes a|b, reserved", "19|COMPLETING|None")
    fake("\n".join(f"echo '{line}'" for line in lines))
    assert read_queue() == {
        "14_0": "RUNNING",
        "14_1": "PENDING Nodes a|b, reserved",
        "19": "COMPLETING",
    }


def test_read_queue__an_empty_queue_is_an_answer(fake: Fake) -> None:
    fake("exit 0")
    assert read_queue() == {}


def test_read_queue__a_warning_beside_an_answer_is_passed_over(fake: Fake) -> None:
    fake("echo 'squeue: warning' >&2; echo '19|RUNNING|None'")
    assert read_queue() == {"19": "RUNNING"}


def test_read_queue__settings_of_the_user_hide_no_job(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    fake('echo "19|${SQUEUE_STATES:-RUNNING}|None"')
    assert read_queue() == {"19": "RUNNING"}


def test_read_queue__no_squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refused() == "squeue cannot be started: No such file or directory"


def test_read_queue__it_fails(fake: Fake) -> None:
    fake("echo '14_0|RUNNING|None'; echo 'slurm_load_jobs error: no controller' >&2; exit 1")
    assert refused() == "squeue fails with exit status 1: slurm_load_jobs error: no controller"
    fake("echo 'squeue: error: Invalid user: 7' >&2")
    assert refused() == "squeue fails with exit status 0: squeue: error: Invalid user: 7"
    fake("kill -9 $$")
    assert refused() == "squeue fails with exit status -9"


def test_read_queue__it_hangs_and_nothing_of_it_is_left(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squeue, "_SECONDS", 1.0)
    # A child that holds the pipe open.
    fake(f"sleep 600 & echo $! > {tmp_path}/child; wait")
    assert refused() == "squeue does not answer within 1 s"
    stat = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().rpartition(") ")[2][0] in "ZX"


@pytest.mark.parametrize("answer", ["14_0", "14_0|RUNNING", "CLUSTER: other", "\\377"])
def test_read_queue__another_answer_is_none(fake: Fake, answer: str) -> None:
    fake(f"printf '14_1|RUNNING|None\\n{answer}\\n'")
    assert "number|state|reason" in refused()
