"""What a job asks SLURM for: checked before anything is submitted, and as submitit takes it."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmark.config import SlurmConfig
from benchmark.errors import UserError, at_least

# SLURM looks at time limits every 30 s, and may announce one by as much earlier.
_TICKS = 60  # seconds
_TIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")
# What `submit` says itself.
_OURS = {
    "array", "chdir", "dependency", "error", "job-name", "no-requeue", "open-mode", "output",
    "requeue", "signal",
}  # fmt: skip
_KEYS = {
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint",
    "nodelist": "nodelist", "exclude": "exclude", "nodes": "nodes", "mem": "mem_gb",
    "ntasks-per-node": "tasks_per_node", "gpus-per-node": "gpus_per_node",
    "cpus-per-task": "cpus_per_task", "time": "time", "mail-user": "mail", "mail-type": "mail_type",
}  # fmt: skip


def checked(slurm: SlurmConfig, threads: int) -> SlurmConfig:
    """The settings with the number of CPUs filled in.

    Args:
        slurm: as the user gave them.
        threads: of a run: as many CPUs as a task has, unless the settings say another number.

    Raises:
        UserError: for a value that could not work on any cluster.
    """
    cpus = threads if slurm.cpus_per_task is None else slurm.cpus_per_task
    at_least(
        1,
        "slurm.",
        nodes=slurm.nodes,
        tasks_per_node=slurm.tasks_per_node,
        cpus_per_task=cpus,
        array_parallelism=slurm.array_parallelism,
    )
    at_least(
        0,
        "slurm.",
        gpus_per_node=slurm.gpus_per_node or 0,
        signal_delay_s=slurm.signal_delay_s,
        max_timeouts=slurm.max_timeouts,
    )
    if slurm.mem_gb is not None and not slurm.mem_gb > 0:
        raise UserError(f"slurm.mem_gb={slurm.mem_gb:g} must be above 0, or null for the default")
    if minutes(slurm.time) * 60 <= slurm.signal_delay_s + _TICKS:
        raise UserError(
            f"slurm.time={slurm.time} must be longer than slurm.signal_delay_s="
            f"{slurm.signal_delay_s} and {_TICKS} s more, since SLURM looks at limits every 30 s "
            "and a run would be told to make way at once"
        )
    _options(slurm.additional)
    return replace(slurm, cpus_per_task=cpus)


def minutes(time: int | str) -> int:
    """A time limit in minutes, rounded up.

    Args:
        time: minutes, or SLURM's ``[DAYS-]HH:MM:SS``.

    Raises:
        UserError: if it is neither, or no time at all.
    """
    match = _TIME.fullmatch(str(time))
    if match:
        days, hours, mins, seconds = (int(part or 0) for part in match.groups())
        limit = (days * 24 + hours) * 60 + mins + (seconds > 0)
    elif str(time).isdecimal():
        limit = int(time)
    else:
        limit = 0
    if limit < 1:
        raise UserError(f"slurm.time={time} is no time limit; write minutes, or [DAYS-]HH:MM:SS")
    return limit


def require_sbatch() -> None:
    """Make sure that jobs can be submitted from here.

    Raises:
        UserError: if SLURM's commands are missing.
    """
    if missing := [tool for tool in ("sbatch", "srun", "scontrol") if not shutil.which(tool)]:
        raise UserError(
            f"hydra/launcher=slurm, but this machine has no {missing[0]}; submit from a machine of "
            "the cluster, or leave hydra/launcher out"
        )


def parameters(slurm: SlurmConfig, *, name: str, after: Sequence[str] = ()) -> dict[str, Any]:
    """What submitit's `SlurmExecutor.update_parameters` takes.

    Args:
        slurm: the `checked` settings.
        name: of the job.
        after: numbers of the jobs that must have ended before.
    """
    load = [f"module load {shlex.join(slurm.modules)} || exit 1"] if slurm.modules else []
    return {
        "job_name": name,
        "dependency": f"afterany:{':'.join(after)}" if after else None,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "nodelist": slurm.nodelist,
        "exclude": slurm.exclude,
        "nodes": slurm.nodes,
        "ntasks_per_node": slurm.tasks_per_node,
        "gpus_per_node": slurm.gpus_per_node,
        "cpus_per_task": slurm.cpus_per_task,
        "mem": None if slurm.mem_gb is None else f"{round(slurm.mem_gb * 1024)}M",
        "time": minutes(slurm.time),
        "signal_delay_s": slurm.signal_delay_s,
        "array_parallelism": slurm.array_parallelism,
        "mail_user": slurm.mail,
        "mail_type": slurm.mail_type if slurm.mail else None,
        "wckey": None,  # submitit's own, which a cluster that counts by them may not know
        "additional_parameters": {"requeue": True} | _options(slurm.additional),
        # Since 22.05 srun does not take the number of CPUs over from sbatch, and would bind tasks
        # to one where tasks are bound.
        "setup": [*load, *slurm.setup, "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"],
        # A process that died would leave the others of its job waiting, but one that has ended well
        # must not end them, whatever the cluster's default. And a log begins anew when
        # a job is requeued, unless it is told not to.
        "srun_args": ["--kill-on-bad-exit=1", "--wait=0", "--open-mode=append"],
        "stderr_to_stdout": True,
    }


def _options(additional: dict[str, Any]) -> dict[str, Any]:
    """Further options of sbatch, by its own names."""
    options = {str(key).replace("_", "-"): value for key, value in additional.items()}
    for name, value in options.items():
        if name in _KEYS:
            raise UserError(f"slurm.additional has {name!r}, which has a key: slurm.{_KEYS[name]}")
        if name in _OURS:
            raise UserError(
                f"slurm.additional has {name!r}, which is set so that runs survive; leave it out"
            )
        if not isinstance(value, str | int | float):
            raise UserError(
                f"slurm.additional.{name}={value} is no value of an option; give a text, a number, "
                "or true for an option without a value"
            )
    return {name: value for name, value in options.items() if value is not False}
