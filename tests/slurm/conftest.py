"""A real cluster of two nodes on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "slurm" / "cluster.sh"


@dataclass(frozen=True)
class Cluster:
    """Two nodes, n1 and n2, of four CPUs each.

    Attributes:
        environment: of processes that are to find it.
        folder: with its logs in ``log/``.
    """

    environment: dict[str, str]
    folder: Path

    def call(self, *command: str) -> str:
        """What a command prints, with the cluster as its own; it must succeed."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """SLURM's state of a job: PENDING, RUNNING, COMPLETED, FAILED ..."""
        return self.call("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")

    def wait(self, job: str, *states: str, seconds: float = 90) -> str:
        """Wait until a job is in one of the states, which is returned."""
        end = time.monotonic() + seconds
        while (state := self.state(job)) not in states:
            assert time.monotonic() < end, f"{job} is {state}, not {' or '.join(states)}"
            time.sleep(0.2)
        return state


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where the tests must run, a skipped one has failed."""
    report = yield
    if report.skipped and os.environ.get("MASKBENCH_NEED_SLURM"):
        report.outcome, report.longrepr = "failed", f"must not be skipped: {report.longrepr}"
    return report


@contextmanager
def running_cluster(accounting: str) -> Iterator[Cluster]:
    if missing := [tool for tool in ("slurmctld", "slurmd", "munged") if not shutil.which(tool)]:
        pytest.skip(f"{missing[0]} is not installed: apt-get install slurm-wlm munge")
    # munged wants a folder that everybody may enter, so pytest's own will not do.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        up = subprocess.run(
            [SCRIPT, "up", folder],
            env=os.environ | {"ACCT": accounting},
            stdout=subprocess.DEVNULL,  # the daemons keep what they inherit open
            stderr=(folder / "up.err").open("w"),
            check=False,
        )
        if up.returncode != 0:
            pytest.skip(f"SLURM does not start: {(folder / 'up.err').read_text()}")
        words = f". {folder}/env.sh && echo $SLURM_CONF && echo $PATH"
        conf, path = subprocess.check_output(["bash", "-c", words], text=True).splitlines()
        # Nothing of a job in which the tests may run themselves.
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
        yield Cluster(outside | {"SLURM_CONF": conf, "PATH": path}, folder)
    finally:
        subprocess.run([SCRIPT, "down", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster("shim") as started:
        yield started


@pytest.fixture(scope="session")
def cluster_without_accounting() -> Iterator[Cluster]:
    with running_cluster("none") as started:
        yield started


@pytest.fixture
def in_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, as that of this process too."""
    for name in os.environ.keys() - cluster.environment.keys():
        monkeypatch.delenv(name)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster
