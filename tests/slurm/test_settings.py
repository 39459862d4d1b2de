"""What jobs ask for, before anything is submitted."""

from __future__ import annotations

import pytest

from benchmark.config import SlurmConfig, compose
from benchmark.errors import UserError
from benchmark.resolve import typed
from slurm.settings import checked, minutes, parameters


def settings(*overrides: str) -> SlurmConfig:
    return checked(typed(compose(["hydra/launcher=slurm", *overrides])).slurm, threads=3)


@pytest.mark.parametrize(
    ("time", "limit"),
    [(90, 90), ("90", 90), ("00:01:00", 1), ("2:00:01", 121), ("1-00:00:00", 1440)],
)
def test_minutes__of_every_form(time: int | str, limit: int) -> None:
    assert minutes(time) == limit


@pytest.mark.parametrize("time", [0, -5, "5:00", "1:60:00", "1-", "soon", "00:00:00", ""])
def test_minutes__refuses_what_is_no_limit(time: int | str) -> None:
    with pytest.raises(UserError, match=rf"slurm\.time={time} is no time limit"):
        minutes(time)


def test_checked__defaults_need_no_gpu_and_as_many_cpus_as_threads() -> None:
    asked = parameters(settings(), name="sweep")
    assert asked["gpus_per_node"] is None
    assert asked["cpus_per_task"] == 3
    assert parameters(settings("slurm.cpus_per_task=8"), name="sweep")["cpus_per_task"] == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("slurm.nodes=0", "slurm.nodes=0 must be at least 1"),
        ("slurm.cpus_per_task=0", "slurm.cpus_per_task=0 must be at least 1"),
        ("slurm.gpus_per_node=-1", "slurm.gpus_per_node=-1 must be at least 0"),
        ("slurm.mem_gb=0", "slurm.mem_gb=0 must be above 0"),
        ("slurm.time=3", "slurm.time=3 must be longer than slurm.signal_delay_s=120 and 60 s more"),
        ("+slurm.additional.signal=TERM", "'signal', which is set so that runs survive"),
        ("+slurm.additional.partition=p", "'partition', which has a key: slurm.partition"),
        ("+slurm.additional.mem=4G", "'mem', which has a key: slurm.mem_gb"),
        ("+slurm.additional.licenses=[a,b]", "is no value of an option"),
    ],
)
def test_checked__refuses_what_could_not_work(override: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        settings(override)
    assert message in str(refused.value)


def test_parameters__additional_options_by_any_spelling() -> None:
    asked = settings(
        "+slurm.additional.cores_per_socket=2",
        "+slurm.additional.reservation=week",
        "+slurm.additional.exclusive=true",
        "+slurm.additional.spread-job=false",
    )
    options = parameters(asked, name="sweep")["additional_parameters"]
    expected = {"cores-per-socket": 2, "reservation": "week", "exclusive": True}
    assert options == {"requeue": True, **expected}
