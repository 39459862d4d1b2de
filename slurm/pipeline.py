"""A sweep on SLURM in stages: pretraining, every task as a job of its own, the tables.

    python slurm/pipeline.py experiment=paper_table1 slurm.partition=gpu

The line is that of `benchmark/run.py -m`. Tasks wait for the end of their pretraining, whatever
SLURM says of it, and look for its product themselves; tables wait for everything. The same line
again sends what is missing and not in the queue.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark import interruption
from benchmark.config import SlurmConfig
from benchmark.errors import UserError
from benchmark.interruption import Interrupted
from benchmark.plan import Planned, Planner
from benchmark.progress import Display, Emit, Event
from benchmark.run import parse, plan
from benchmark.runs import PlannedTask
from slurm.entry import Entry
from slurm.launch import logs_folder, note_jobs, noted_jobs, sending, settings_of
from slurm.submit import script, submit


@dataclass(frozen=True)
class _Missing:
    """What a run lacks and no job of the queue has.

    Attributes:
        planned: the run.
        pretraining: whether that is to be sent.
        tasks: those to be sent, by name; each with its evaluation seeds.
        after: jobs of the queue that have its pretraining.
        queued: all of its jobs in the queue.
    """

    planned: Planned
    pretraining: bool
    tasks: dict[str, tuple[PlannedTask, ...]]
    after: tuple[str, ...]
    queued: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 if everything was sent, 2 for a mistake."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with interruption.listen():
            return _send(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        return stop.exit_status


def _send(arguments: Sequence[str]) -> int:
    options = parse([*arguments, "hydra/launcher=slurm"])
    plans, notes = plan(Planner(), options.overrides, multirun=True)
    settings, dry = settings_of(plans), plans[0].cfg.dry_run
    command = shlex.join(["python", "slurm/pipeline.py", *arguments])
    with Display() as display:
        for note in notes:
            display.console.print(note, markup=False)
        if dry:
            print(_dry_run(plans, settings))
            return 0
        send(plans, settings, command, display.show)
        runs_dir = plans[0].cfg.runs_dir
        display.console.print(f"python slurm/status.py {runs_dir} tells how they go")
    return 0


def send(plans: Sequence[Planned], settings: SlurmConfig, command: str, emit: Emit) -> None:
    """Send all that is missing, in an order that jobs keep to by their dependencies.

    Raises:
        UserError: if SLURM cannot be asked or refuses it.
    """
    with sending(plans, emit) as queue:
        _send_missing(plans, settings, queue, command, emit)


def _send_missing(
    plans: Sequence[Planned],
    settings: SlurmConfig,
    queue: Mapping[str, str],
    command: str,
    emit: Emit,
) -> None:
    missing = [_missing(planned, queue) for planned in plans]
    logs, small = logs_folder(plans), evaluation_settings(settings)
    trained: dict[Path, str] = {}
    to_train = [m.planned for m in missing if m.pretraining]
    if to_train:
        jobs = [
            Entry("slurm.jobs:run", _with_tasks(planned, ()), failed="slurm.jobs:give_up")
            for planned in to_train
        ]
        sent = submit(jobs, settings, logs, name="pretrain")
        note_jobs((p.run, "pretraining", job) for p, job in zip(to_train, sent, strict=True))
        for planned, job in zip(to_train, sent, strict=True):
            trained[planned.run.folder] = job.job_id
            emit(Event(planned.run.name, f"pretraining is job {job.job_id}"))
    waited_for = [*trained.values(), *(job for m in missing for job in m.queued)]
    for found in missing:
        run = found.planned.run
        if not found.tasks:
            continue
        jobs = [
            Entry(
                "slurm.jobs:evaluate",
                _with_tasks(found.planned, tasks),
                failed="slurm.jobs:give_up",
            )
            for tasks in found.tasks.values()
        ]
        after = [trained[run.folder]] if run.folder in trained else found.after
        sent = submit(jobs, small, logs, name="evaluate", after=after)
        note_jobs((run, name, job) for name, job in zip(found.tasks, sent, strict=True))
        waited_for += [job.job_id for job in sent]
        emit(
            Event(run.name, f"{', '.join(found.tasks)}: jobs {sent[0].job_id} to {sent[-1].job_id}")
        )
    report = Entry("slurm.jobs:write_report", plans, command)
    (job,) = submit([report], small, logs, name="report", after=_arrays(waited_for))
    emit(Event("report", f"job {job.job_id}, which writes {job.log}"))


def evaluation_settings(settings: SlurmConfig) -> SlurmConfig:
    """The same for jobs of one process: heads are trained by one."""
    gpus = None if settings.gpus_per_node is None else min(1, settings.gpus_per_node)
    return replace(settings, nodes=1, tasks_per_node=1, gpus_per_node=gpus)


def _arrays(jobs: Iterable[str]) -> list[str]:
    """The arrays that jobs belong to, which are fewer to wait for."""
    return list(dict.fromkeys(job.split("_")[0] for job in jobs))


def _dry_run(plans: Sequence[Planned], settings: SlurmConfig) -> str:
    """What `send` would do if nothing was in the queue: the stages, and the script of each."""
    missing = [_missing(planned, {}) for planned in plans]
    logs, small = logs_folder(plans), evaluation_settings(settings)
    lines = []
    for found in missing:
        stages = [*(["pretraining"] if found.pretraining else []), *found.tasks]
        lines.append(f"{found.planned.run.name}: {', '.join(stages) or 'complete'}")
    to_train = sum(found.pretraining for found in missing)
    if to_train:
        lines += ["", f"stage 1, an array of {to_train} jobs:", ""]
        lines.append(script(to_train, settings, logs, name="pretrain"))
    if counts := [len(found.tasks) for found in missing if found.tasks]:
        lines += ["", f"stage 2, {len(counts)} arrays of {sum(counts)} jobs in all, the first:", ""]
        after = ["ITS_PRETRAINING"] if to_train else []
        lines.append(script(counts[0], small, logs, name="evaluate", after=after))
    lines += ["", "stage 3, one job:", ""]
    lines.append(script(1, small, logs, name="report", after=["ALL_OF_THESE"]))
    return "\n".join(lines)


def _with_tasks(planned: Planned, tasks: tuple[PlannedTask, ...]) -> Planned:
    return replace(planned, run=replace(planned.run, tasks=tasks))


def _missing(planned: Planned, queue: Mapping[str, str]) -> _Missing:
    run = planned.run
    jobs = {part: job for part, job in noted_jobs(run).items() if job in queue}
    whole = jobs.get("run")  # a job of `benchmark/run.py` has all of it
    trained = run.encoder_file.exists() and run.pretraining_file.exists()
    training = jobs.get("pretraining")
    tasks: dict[str, tuple[PlannedTask, ...]] = {}
    for task in run.tasks:
        there = task.result.exists() and not task.error_file.exists()
        if not there and not whole and task.name not in jobs:
            tasks[task.name] = (*tasks.get(task.name, ()), task)
    return _Missing(
        planned,
        pretraining=not trained and not whole and training is None,
        tasks=tasks,
        after=(training,) if training and not trained else (),
        queued=tuple(jobs.values()),
    )


if __name__ == "__main__":
    sys.exit(main())
