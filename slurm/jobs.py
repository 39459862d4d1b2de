"""What jobs of SLURM do: train and evaluate a run, evaluate a finished one, write the tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark import processes
from benchmark.files import write_text
from benchmark.job import execute
from benchmark.plan import Planned
from benchmark.progress import Display
from benchmark.run import report


def run(planned: Planned) -> bool:
    """Whatever is missing of a run; returns whether it is complete."""
    with processes.joined(), Display(quiet=processes.rank() > 0) as display:
        return execute(planned, display.show)


def evaluate(planned: Planned) -> bool:
    """The tasks of a run whose pretraining is there; returns whether they succeeded."""
    with Display() as display:
        return execute(planned, display.show, pretrained=True)


def write_report(plans: Sequence[Planned], command: str) -> bool:
    """The tables of what is there; returns whether all runs are complete."""
    return report(plans, command=command)


def give_up(text: str, planned: Planned) -> None:
    """Note that a job had to make way and will not go on."""
    run = planned.run
    files = [run.error_file]
    if run.pretraining_file.exists():
        files = [task.error_file for task in run.tasks if not task.result.exists()]
    if "timed-out" in text:
        text += " Raise slurm.time, or slurm.max_timeouts, and send it again."
    for file in files:
        write_text(file, text + "\n")
