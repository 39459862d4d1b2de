"""How a run stands, told from the files in its folder and from SLURM's queue. Imports little."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import UserError
from benchmark.files import read_json
from benchmark.lock import LOCK, is_held, read_owner

State = Literal["running", "queued", "failed", "stale", "done"]

# SLURM's reason for a job that waits for ever.
_NEVER = "DependencyNeverSatisfied"
# A job sent so recently may be missing in a queue that was read before.
_JUST_SENT = 10.0  # seconds
_LARGEST = 1e15  # no step and no time is larger
_TAIL = 64 * 1024  # bytes of an error file in which its last line is looked for


@dataclass(frozen=True)
class RunState:
    """How a run stands.

    Attributes:
        folder: of the run.
        state: "done" if every planned output is there and nothing failed; "running" if a living
            process holds the folder or that of a result; "failed" if there is an error and nobody
            at work; "queued" if it was never started or its job is in the queue; "stale" if it was
            left unfinished.
        message: the last line of the error, else what SLURM says of its job, or who left it.
        progress: share of the pretraining that is done, in [0, 1].
        tasks_done: results that are there.
        tasks: results that are planned.
        images_per_second: of the pretraining that is going on, else None.
        seconds_left: of that pretraining.
        job: SLURM's number of the job that matters now, None if it was not sent to SLURM.
        log: path of that job's output; without one that of the error file.
        in_queue: whether a job that is to go on with the run is in the queue; None if the run was
            sent to SLURM and the queue is not known.
        left: the last heartbeat of a dead owner, while SLURM says that the run's job is running: it
            is starting, or will do nothing more.
    """

    folder: Path
    state: State
    message: str | None = None
    progress: float = 0.0
    tasks_done: int = 0
    tasks: int = 0
    images_per_second: float | None = None
    seconds_left: float | None = None
    job: str | None = None
    log: str | None = None
    in_queue: bool | None = False
    left: float | None = None

    @property
    def name(self) -> str:
        """``<data>/<method>-<hash8>/seed<k>``."""
        return "/".join(self.folder.absolute().parts[-3:])


def find_runs(runs: Path) -> list[Path]:
    """The run folders in a folder of runs, of a data set or of a configuration, or it itself.

    Raises:
        UserError: if there are none.
    """
    if not runs.is_dir():
        what = "is no folder" if runs.exists() else "does not exist"
        raise UserError(f"{runs} {what}; give the runs_dir of the runs, or a folder in it")
    found = list(_run_folders(runs, 3))
    if not found:
        raise UserError(
            f"{runs} holds no planned run (seed<k>/plan.json); give the runs_dir of the runs, or a "
            "folder in it"
        )
    return found


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if folder.name.removeprefix("seed").isdecimal() and (folder / "plan.json").exists():
        yield folder
    elif depth:
        for name in sorted(_names(folder)):
            if not name.startswith(".") and (folder / name).is_dir():
                yield from _run_folders(folder / name, depth - 1)


def was_sent(folder: Path) -> bool:
    """Whether a run was sent to SLURM, so that the queue matters."""
    return (folder / "jobs.json").exists()


def read_state(folder: Path, queue: Mapping[str, str] | None) -> RunState:
    """How the run in a folder stands.

    Whether results are whole is not looked at: they are written in one step, and whoever uses one
    checks it.

    Args:
        folder: with a ``plan.json``. A file that cannot be read makes the run "failed".
        queue: what SLURM says of its jobs, read before this is called so that no job ends unseen
            in between; None if SLURM cannot be asked. Then a run that was sent and never started
            counts as queued.
    """
    try:
        return _Files(folder).state(queue)
    except (OSError, ValueError, RecursionError) as error:  # the last by brackets within brackets
        return RunState(folder, "failed", message=f"cannot be read: {error}")


@dataclass(frozen=True)
class _Part:
    """The pretraining, or one result of a task: whether it is there, and the error if it failed."""

    name: str
    there: bool
    error: Path | None

    @property
    def done(self) -> bool:
        return self.there and self.error is None


@dataclass(frozen=True)
class _Job:
    """A job that was sent for a part of a run, or for all of it.

    Attributes:
        number: of the job.
        log: path of its output.
        said: what SLURM says of it, None if it is not in the queue or the queue is not known.
        done: whether all that it is for is done.
        failed: whether some of that failed.
    """

    number: str
    log: str | None
    said: str | None
    done: bool
    failed: bool

    @property
    def waits(self) -> bool:
        """Whether it is to be expected that the job still does something."""
        return not self.done and self.said is not None and _NEVER not in self.said

    @property
    def runs(self) -> bool:
        """Whether SLURM says that it does."""
        return self.said is not None and self.said.startswith("RUNNING")

    @property
    def urgency(self) -> tuple[bool, ...]:
        """Which of several jobs to look at: the first in this order."""
        return (not (self.waits and self.runs), not self.waits, not self.failed, self.done)


class _Files:
    """What lies in a run folder; each folder is listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = _names(folder)
        results = [(name, folder / place) for name, place in _planned(folder / "plan.json")]
        listed = {file.parent: set[str]() for _, file in results}
        if "results" in self.names:
            listed = {place: _names(place) for place in listed}
        trained = {"pretraining.json", "encoder.safetensors"} <= self.names
        error = folder / "error.txt"
        self.pretraining = _Part(
            "pretraining", trained, error if error.name in self.names else None
        )
        self.tasks = []
        for name, file in results:
            there, error = listed[file.parent], file.with_suffix(".error.txt")
            failed = error if error.name in there else None
            self.tasks.append(_Part(name, file.name in there, failed))
        self.parts = [self.pretraining, *self.tasks]
        folders = {folder: self.names, **listed}
        self.locked = [place for place, names in folders.items() if LOCK in names]

    def state(self, queue: Mapping[str, str] | None) -> RunState:
        held = [place for place in self.locked if is_held(place)]
        jobs = sorted(self._jobs(queue), key=lambda job: job.urgency)
        failed = [(part.name, part.error) for part in self.parts if part.error is not None]
        sent, in_queue = any(not job.done for job in jobs), any(job.waits for job in jobs)
        state: State
        if held:
            state = "running"
        elif all(part.done for part in self.parts):
            state = "done"
        elif in_queue:
            state = "queued"
        elif failed:
            state = "failed"
        elif self._started or (sent and queue is not None):
            state = "stale"
        else:
            state = "queued"
        message = log = left = None
        if failed:
            (name, file), *more = failed
            of = "" if name == "pretraining" else f"{name}: "
            also = f" (and {len(more)} more)" if more else ""
            message, log = of + _last_line(file) + also, str(file)
        elif state == "queued" and in_queue:
            message = jobs[0].said
            if jobs[0].runs:
                left = self._last_beat()
                message = (
                    "RUNNING, not at work yet" if left is None else f"RUNNING, {self._who_left()}"
                )
        elif state == "stale":
            message = self._who_left()
        progress = self._progress() if "progress.json" in self.names else {"step": 0, "steps": 1}
        share = min(progress["step"] / max(progress["steps"], 1), 1.0)
        trains = self.folder in held and not self.pretraining.there
        return RunState(
            self.folder,
            state,
            message,
            progress=1.0 if self.pretraining.there else share,
            tasks_done=sum(part.there for part in self.tasks),
            tasks=len(self.tasks),
            images_per_second=progress.get("images_per_second") if trains else None,
            seconds_left=progress.get("seconds_left") if trains else None,
            job=jobs[0].number if jobs else None,
            log=(jobs[0].log if jobs else None) or log,
            in_queue=None if sent and queue is None else in_queue,
            left=left,
        )

    @property
    def _started(self) -> bool:
        return bool(self.names & {LOCK, "config.yaml", "encoder.safetensors"})

    def _last_beat(self) -> float | None:
        """The newest heartbeat of the dead owners whose locks are there, None without one."""
        beats = []
        for place in self.locked:
            with suppress(FileNotFoundError):  # taken over this moment
                beats.append((place / LOCK).stat().st_mtime)
        return max(beats, default=None)

    def _jobs(self, queue: Mapping[str, str] | None) -> Iterator[_Job]:
        file = self.folder / "jobs.json"
        if file.name not in self.names:
            return
        just_sent = abs(time.time() - file.stat().st_mtime) < _JUST_SENT
        for of, noted in read_json(file).items():
            match noted:
                case {"job": str(number), "log": str(log) | (None as log)}:
                    pass
                case _:
                    raise ValueError(f"{file} holds {noted!r} for {of}, which is no job and log")
            parts = [part for part in self.parts if of in ("run", part.name)]
            said = None
            if queue is not None:
                said = queue.get(number, "just sent" if just_sent else None)
            done, failed = all(p.done for p in parts), any(p.error for p in parts)
            yield _Job(number, log, said, done, failed)

    def _who_left(self) -> str:
        for owner in filter(None, map(read_owner, self.locked)):
            return f"process {owner.pid} on {owner.host} is gone"
        return "nobody is at work"

    def _progress(self) -> dict[str, float]:
        file = self.folder / "progress.json"
        noted, progress = read_json(file), {}
        for key in ("step", "steps", "images_per_second", "seconds_left"):
            value: Any = noted.get(key)
            if type(value) not in (int, float) or not 0 <= value < _LARGEST:
                raise ValueError(f"{file} holds {value!r} for {key}, which is no such number")
            progress[key] = float(value)
        return progress


def _names(folder: Path) -> set[str]:
    """What lies in a folder; nothing if it is not there, or no longer."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def _planned(file: Path) -> list[tuple[str, str]]:
    """Name and result file of each task of a plan."""
    tasks: Any = read_json(file).get("tasks")
    if not isinstance(tasks, list):
        raise ValueError(f"{file} has no list of tasks; the same line again writes it anew")
    planned = []
    for task in tasks:
        match task:
            case {"name": str(name), "result": str(result)}:
                planned.append((name, result))
            case _:
                raise ValueError(f"{file} plans {task!r}, which is no task with a result")
    return planned


def _last_line(file: Path) -> str:
    with file.open("rb") as opened:
        opened.seek(0, os.SEEK_END)
        opened.seek(max(opened.tell() - _TAIL, 0))
        lines = opened.read().decode(errors="replace").splitlines()
    filled = [line.strip() for line in lines if line.strip()]
    return filled[-1] if filled else f"{file.name} is empty"
