"""A sweep on SLURM: what is missing is sent as one array, and the run folders tell how it goes.

Whether a run has succeeded is read from its result files. SLURM's word on it is not asked for: an
exception can end as COMPLETED there, and a finished run as FAILED.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from benchmark import interruption
from benchmark.config import SlurmConfig
from benchmark.errors import UserError
from benchmark.files import read_json, write_json
from benchmark.launcher import ALLOCATOR
from benchmark.lock import Owner, exclusive
from benchmark.plan import Planned
from benchmark.progress import Emit, Event
from benchmark.runs import Run, note_plans
from benchmark.state import RunState, read_state
from benchmark.type_check import misfit
from slurm.entry import Entry
from slurm.settings import checked, require_sbatch
from slurm.squeue import read_queue
from slurm.submit import Submitted, script, submit

_POLL = 5.0  # seconds
# After its job is gone, since a shared disk may show the last file late (NFS: up to a minute).
_GONE_AFTER = 60.0  # seconds
HELD_FOR = 60.0  # seconds, of a job that is requeued; srun waits for KillWait, 30 by default
ABANDONED_AFTER = 300.0  # seconds; more than a start takes, with the wait for a dead owner's lock


def logs_folder(plans: Sequence[Planned]) -> Path:
    """Where scripts and output of the jobs lie."""
    return Path(plans[0].cfg.runs_dir) / ".slurm"


def settings_of(plans: Sequence[Planned]) -> SlurmConfig:
    """What the jobs of a sweep ask for.

    Raises:
        UserError: for a setting that could not work on any cluster, or that runs differ in.
    """
    cfg, *others = (planned.cfg for planned in plans)
    for other in others:
        if (other.slurm, other.threads) != (cfg.slurm, cfg.threads):
            raise UserError(
                "runs of one array must ask for the same, and these differ in "
                f"threads={cfg.threads},{other.threads} or a key of slurm; send them apart"
            )
    exports = [f"export {name}={value}" for name, value in ALLOCATOR.items()]
    return checked(replace(cfg.slurm, setup=[*exports, *cfg.slurm.setup]), cfg.threads)


def send(plans: Sequence[Planned], emit: Emit) -> list[Planned]:
    """Send the runs that are neither complete nor in the queue; returns those that are at work.

    Raises:
        UserError: if SLURM cannot be asked or refuses them, or nothing can be noted.
    """
    settings = settings_of(plans)
    with sending(plans, emit) as queue:
        states = {planned.run.folder: read_state(planned.run.folder, queue) for planned in plans}
        to_send = [p for p in plans if is_missing(p.run, states[p.run.folder])]
        at_work = [p for p in plans if states[p.run.folder].in_queue]
        for run in (planned.run for planned in at_work):
            state = states[run.folder]
            emit(Event(run.name, f"is job {state.job} already ({state.message or state.state})"))
        if to_send:
            jobs = [Entry("slurm.jobs:run", p, failed="slurm.jobs:give_up") for p in to_send]
            sent = submit(jobs, settings, logs_folder(plans), name="maskbench")
            note_jobs((planned.run, "run", job) for planned, job in zip(to_send, sent, strict=True))
            for planned, job in zip(to_send, sent, strict=True):
                emit(Event(planned.run.name, f"sent as job {job.job_id}, which writes {job.log}"))
    return [*at_work, *to_send]


@contextmanager
def sending(plans: Sequence[Planned], emit: Emit) -> Iterator[Mapping[str, str]]:
    """Inside, nobody else sends these runs, and what is sent will be noted; gives the queue.

    Raises:
        UserError: if SLURM cannot be asked, or a run folder cannot be read or written.
    """
    logs = logs_folder(plans)
    require_sbatch()

    def wait(owner: Owner | None) -> None:
        emit(Event(str(logs), f"{owner or 'another process'} is sending; waiting for it"))

    with user_errors(logs), interruption.deferred(), exclusive(logs, wait):
        queue = asked_queue()
        note_plans(planned.run for planned in plans)
        for planned in plans:  # before anything is sent whose number could not be noted
            noted_jobs(planned.run)
        yield queue


@contextmanager
def user_errors(folder: Path) -> Iterator[None]:
    """What a user can mend, in one sentence."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        where = error.filename or folder
        raise UserError(f"{where} cannot be used ({error.strerror}); mend that first") from error
    except ValueError as error:
        raise UserError(str(error)) from error


def asked_queue() -> Mapping[str, str]:
    """SLURM's queue.

    Raises:
        UserError: if there is no SLURM, or it cannot be asked.
    """
    queue = read_queue()
    if queue is None:
        raise UserError(
            "squeue does not answer, so it cannot be told what is at work already; try again, or "
            "use hydra/launcher=local"
        )
    return queue


def is_missing(run: Run, state: RunState) -> bool:
    """Whether a run is to be sent."""
    return not run.complete and not state.in_queue and state.state != "running"


def note_jobs(sent: Iterable[tuple[Run, str, Submitted]]) -> None:
    """Note in the run folders which job has which part; what cannot be noted is cancelled."""
    left = list(sent)
    try:
        for run, part, job in list(left):
            noted = _notes(run) | {part: {"job": job.job_id, "log": str(job.log)}}
            write_json(run.folder / "jobs.json", noted)
            left.pop(0)
    except (OSError, ValueError):
        subprocess.run(["scancel", *(job.job_id for _, _, job in left)], check=False)
        raise


def noted_jobs(run: Run) -> dict[str, str]:
    """The jobs that were sent last, by the part of the run that they have.

    Raises:
        ValueError: naming the file, if it is broken.
    """
    return {part: job["job"] for part, job in _notes(run).items()}


class _Noted(TypedDict):
    job: str
    log: str


def _notes(run: Run) -> dict[str, Any]:
    file = run.folder / "jobs.json"
    noted = read_json(file) if file.exists() else {}
    if fault := misfit(noted, dict[str, _Noted], "it"):
        raise ValueError(f"{file} is broken ({fault}); delete it, its jobs may be sent again then")
    return noted


class _Abandoned:
    """Jobs that SLURM calls running although their process has died: it misses some deaths.

    A job that starts again after one meets the same dead lock, so only time tells: this process'
    own, in which the last heartbeat stays what it was.
    """

    def __init__(self) -> None:
        self._since: dict[Path, tuple[float, float]] = {}
        self._held: dict[Path, tuple[float, str]] = {}

    def look(self, run: Run, state: RunState, emit: Emit) -> None:
        """Have SLURM start a job again in which nobody has worked for a long time.

        It is held for a while: the srun that lost its step goes on to end the step of that number,
        which would be the new one's.
        """
        now = time.monotonic()
        until, job = self._held.get(run.folder, (0.0, ""))
        if job and now >= until:
            _scontrol("release", job)
            del self._held[run.folder]
        beat, since = self._since.get(run.folder, (None, 0.0))
        if job or state.left is None or state.job is None:
            self._since.pop(run.folder, None)
        elif beat != state.left:
            self._since[run.folder] = (state.left, now)
        elif now - since > ABANDONED_AFTER:
            emit(Event(run.name, f"job {state.job} is {state.message}: it is requeued"))
            _scontrol("requeuehold", state.job)
            self._held[run.folder] = (now + HELD_FOR, state.job)

    def release(self) -> None:
        """Hold no job any more."""
        for _, job in self._held.values():
            _scontrol("release", job)


def _scontrol(order: str, job: str) -> None:
    subprocess.run(["scontrol", order, job], check=False)


def watch(plans: Sequence[Planned], emit: Emit) -> None:
    """Tell how runs go until no job is at work on them any more."""
    left = {planned.run.folder: planned.run for planned in plans}
    abandoned = _Abandoned()
    try:
        _watch(left, abandoned, emit)
    finally:
        abandoned.release()


def _watch(left: dict[Path, Run], abandoned: _Abandoned, emit: Emit) -> None:
    told: dict[Path, tuple[str, str | None]] = {}
    gone: dict[Path, float] = {}
    silent = False
    while left:
        queue = read_queue()
        if (queue is None) != silent:
            silent = queue is None
            answer = "does not answer; waiting for it" if silent else "answers again"
            emit(Event("SLURM", f"squeue {answer}"))
        for folder, run in list(left.items()):
            state = read_state(folder, queue)
            abandoned.look(run, state, emit)
            over = state.state == "done"
            if state.state in ("failed", "stale") and state.in_queue is False:
                since = gone.setdefault(folder, time.monotonic())
                over = time.monotonic() - since >= (
                    _GONE_AFTER if state.state == "stale" else _POLL
                )
            else:
                gone.pop(folder, None)
            if (word := (state.state, state.message)) != told.get(folder):
                told[folder] = word
                text = state.state if state.message is None else f"{state.state}: {state.message}"
                emit(Event(run.name, text, finished=over))
            if state.images_per_second is not None:
                emit(_progress(run, state))
            if over:
                del left[folder]
        if left:
            time.sleep(_POLL)


def _progress(run: Run, state: RunState) -> Event:
    speed = f"{state.images_per_second:.0f} img/s, {(state.seconds_left or 0) / 60:.0f} min left"
    return Event(run.name, speed, step=round(1000 * state.progress), steps=1000)


def dry_run(plans: Sequence[Planned]) -> str:
    """What `send` would do if nothing was in the queue: the runs, and the script of their array."""
    settings = settings_of(plans)
    to_send = [p for p in plans if not p.run.complete]
    lines = [f"{p.run.name}: {'to send' if p in to_send else 'complete'}" for p in plans]
    if to_send:
        text = script(len(to_send), settings, logs_folder(plans), name="maskbench")
        lines += ["", f"an array of {len(to_send)} jobs:", "", text]
    return "\n".join(lines)
