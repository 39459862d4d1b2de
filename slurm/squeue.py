"""Which jobs are in SLURM's queue, asked once for all of them. Needs no accounting."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress

_SECONDS = 5.0  # without slurmctld, clients block for many seconds


def read_queue(tell: Callable[[str], object] = lambda why: None) -> dict[str, str] | None:
    """This user's jobs that wait, run or end just now.

    Args:
        tell: is given the reason, in a few words, if SLURM cannot be asked.

    Returns:
        What SLURM says of each job by its number, of an array's task as ``14_0``: the state and why
        the job waits, as ``PENDING Priority`` or ``RUNNING``. None if SLURM cannot be asked,
        which says nothing about any job.
    """
    # -r gives each task of an array a line; -a shows jobs in hidden partitions too.
    command = ["squeue", "-h", "-r", "-a", "-u", str(os.getuid()), "-o", "%i|%T|%r"]
    # Variables like SQUEUE_STATES would leave jobs out.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")}
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        tell(f"squeue cannot be started: {error.strerror}")
        return None
    try:
        answer, complaint = process.communicate(timeout=_SECONDS)
    except BaseException as error:
        # With all that it started, as squeue may be a script: a child would keep the pipes open.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        tell(f"squeue does not answer within {_SECONDS:g} s")
        return None
    words = complaint.split("\n")[0].strip()
    # An unknown user, too, is only complained about.
    if process.returncode != 0 or (words and not answer):
        tell(f"squeue fails with exit status {process.returncode}" + (words and f": {words}"))
        return None
    jobs = {}
    for line in answer.splitlines():
        number, *said = line.split("|", 2)
        if len(said) != 2:
            tell(f"squeue answers {line!r}, which is none of number|state|reason")
            return None
        state, reason = said
        jobs[number] = state if reason == "None" else f"{state} {reason}"
    return jobs
