"""The throw-away cluster itself: two at once, names, accounting, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.slurm.conftest import Cluster

SCRIPT = Path(__file__).parents[2] / "slurm" / "cluster.sh"


@pytest.mark.slurm
def test_cluster__runs_a_step_over_both_nodes(cluster: Cluster) -> None:
    names = cluster.call(
        "srun", "-N2", "--ntasks-per-node=2", "bash", "-c", "echo $SLURMD_NODENAME"
    )
    assert sorted(names.split()) == ["n1", "n1", "n2", "n2"]


@pytest.mark.slurm
def test_cluster__names_of_nodes_resolve(cluster: Cluster) -> None:
    if not os.access("/etc/hosts", os.W_OK):
        pytest.skip("/etc/hosts cannot be written")
    assert {socket.gethostbyname(name) for name in ("n1", "n2")} == {"127.0.0.1"}


@pytest.mark.slurm
def test_cluster__two_at_once_know_nothing_of_each_other(
    cluster: Cluster, cluster_without_accounting: Cluster
) -> None:
    job = cluster.call("sbatch", "--parsable", "--wrap", "sleep 300", "-o", "/dev/null")
    assert cluster_without_accounting.call("squeue", "-h") == ""
    assert cluster.wait(job, "RUNNING")
    cluster.call("scancel", job)


@pytest.mark.slurm
def test_cluster__accounting_is_a_stand_in_or_none(
    cluster: Cluster, cluster_without_accounting: Cluster
) -> None:
    job = cluster.call("sbatch", "--parsable", "--wrap", "exit 3", "-o", "/dev/null")
    cluster.wait(job, "FAILED")
    answer = cluster.call("sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", job)
    assert answer.splitlines() == ["JobID|State|NodeList", f"{job}|FAILED|n1"]
    bare = subprocess.run(
        ["sacct"], env=cluster_without_accounting.environment, capture_output=True, check=False
    )
    assert bare.returncode != 0
    assert b"accounting storage is disabled" in bare.stderr


@pytest.mark.slurm
def test_down__leaves_no_process_and_no_name(cluster: Cluster) -> None:
    folder = cluster.folder.with_name(f"{cluster.folder.name}-other")
    subprocess.run([SCRIPT, "up", folder], stdout=subprocess.DEVNULL, check=True)
    try:
        pids = [int(file.read_text()) for file in (folder / "run").glob("*.pid")]
        assert len(pids) == 6  # munged, slurmctld, and for each node slurmd and what restarts it
        assert all(alive(pid) for pid in pids)
        subprocess.run([SCRIPT, "down", folder], check=True)
        assert not any(alive(pid) for pid in pids)
        assert str(folder) + "\n" not in Path("/etc/hosts").read_text()
        assert cluster.call("sinfo", "-h", "-o", "%D") == "2"
    finally:
        subprocess.run([SCRIPT, "down", folder], check=True)
        shutil.rmtree(folder)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
