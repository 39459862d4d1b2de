"""Calls to jobs of SLURM, through submitit: one array of jobs, or the text of its script.

A job that is told to make way, by the signal USR2 ahead of its time limit or of a preemption, saves
its state and is requeued under its number; see `slurm.entry`.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.config import SlurmConfig
from benchmark.errors import UserError
from slurm.settings import parameters, require_sbatch

try:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError
except ImportError as missing:
    raise UserError(
        "jobs are sent by submitit, which is missing; pip install submitit"
    ) from missing

_LARGEST_ARRAY = 1000  # SLURM's default


@dataclass(frozen=True)
class Submitted:
    """A job in SLURM's queue.

    Attributes:
        job_id: its number; ``14_0`` in an array.
        log: file of what its first process prints, through all requeues.
    """

    job_id: str
    log: Path


def submit(
    jobs: Sequence[Callable[[], object]],
    settings: SlurmConfig,
    folder: Path,
    *,
    name: str,
    after: Sequence[str] = (),
) -> list[Submitted]:
    """Submit calls as one array of jobs, more than 1000 as several; all of them or none.

    Args:
        jobs: what each calls; `slurm.entry.Entry` makes calls that are requeued.
        settings: what each asks for, `slurm.settings.checked`.
        folder: for the calls and logs, which all nodes see.
        name: of the jobs in the queue.
        after: numbers of jobs that must have ended before, in whatever way.

    Raises:
        UserError: if there is no sbatch, or it refuses, or the folder cannot be written.
    """
    require_sbatch()
    executor = _executor(settings, folder, name, after)
    refusal = io.StringIO()  # submitit prints what sbatch says before it raises
    try:
        with contextlib.redirect_stderr(refusal):
            sent = _send(executor, jobs)
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"SLURM refuses {name}: {_words(str(error))}") from error
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); choose another runs_dir"
        ) from error
    return [Submitted(job.job_id, job.paths.stdout) for job in sent]


def script(
    count: int, settings: SlurmConfig, folder: Path, *, name: str, after: Sequence[str] = ()
) -> str:
    """What `submit` hands to sbatch for ``count`` jobs, the first 1000 of more; needs no SLURM."""
    executor = _executor(settings, folder, name, after)
    if count > 1:
        executor.parameters["map_count"] = min(count, _LARGEST_ARRAY)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


class _Executor(submitit.SlurmExecutor):
    @classmethod
    def affinity(cls) -> int:
        """Above 0: ready. submitit would ask for srun, which no script needs to be written."""
        return 1


def _executor(
    settings: SlurmConfig, folder: Path, name: str, after: Sequence[str]
) -> submitit.SlurmExecutor:
    # A signal that comes before Python has a handler for it would kill the job: it is ignored until
    # then. The shell is inside the container, since a runtime may take back what it is told.
    ignoring = ["sh", "-c", f'trap "" {submitit.JobEnvironment.USR_SIG}; exec "$@"', "sh"]
    python = " ".join(
        [settings.container or "", shlex.join([*ignoring, settings.python or sys.executable])]
    ).strip()
    executor = _Executor(folder, max_num_timeout=settings.max_timeouts, python=python)
    executor.update_parameters(**parameters(settings, name=name, after=after))
    return executor


def _send(
    executor: submitit.SlurmExecutor, jobs: Sequence[Callable[[], object]]
) -> list[submitit.Job[object]]:
    sent: list[submitit.Job[object]] = []
    try:
        for first in range(0, len(jobs), _LARGEST_ARRAY):
            sent += executor.submit_array(jobs[first : first + _LARGEST_ARRAY])
    except BaseException:
        if arrays := {job.job_id.split("_")[0] for job in sent}:
            subprocess.run(["scancel", *sorted(arrays)], check=False)
        raise
    return sent


def _words(complaint: str) -> str:
    """What sbatch says, in one line."""
    lines = [re.sub(r"^sbatch: (error: )?", "", line) for line in complaint.splitlines()]
    return "; ".join(line.strip().rstrip(".") for line in lines if line.strip())
