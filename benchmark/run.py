"""The command line: plan, check, train, evaluate, write the tables.

    python benchmark/run.py method=sequential seed=0
    python benchmark/run.py -m method=adios,sequential seed=0,1,2

Hydra composes the configurations. Expanding, checking and launching a sweep is ours: Hydra's own
launcher checks nothing ahead, its end-of-sweep callback does not run when a job fails, and a
failed job would end the sweep.

torch takes seconds to import, and pandas half of one. So what needs them is imported in functions:
help comes at once, and so does the answer to a misspelt line.
"""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from benchmark import interruption
from benchmark.config import CONFIG_MODULE, HYDRA_VERSION_BASE, compose
from benchmark.errors import UserError
from benchmark.interruption import Interrupted
from benchmark.progress import Display, Event
from benchmark.runs import finished_beside, note_plans
from benchmark.sweep import control_line, expand, varied_keys, with_experiment

if TYPE_CHECKING:
    from benchmark.plan import Planned, Planner

# Of several processes the first one checks the line for all, once they have joined.
_STARTED_BY = {"WORLD_SIZE", "SUBMITIT_LOCAL_NTASKS", "SLURM_STEP_NUM_TASKS"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 if a run failed, 2 for a user's mistake."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = parse(arguments)
        if options.help or options.hydra_help or options.cfg or options.info:
            return _hydra(arguments)
        if not _STARTED_BY & os.environ.keys():
            _check_line(options)
        from benchmark import processes

        with interruption.listen(), processes.joined():
            try:
                return _run(arguments, options)
            except processes.ElsewhereError:  # which the first process tells
                return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before anything listened
        return 130
    except Interrupted as stop:
        return stop.exit_status


def parse(arguments: Sequence[str]) -> Namespace:
    """Hydra's flags, and the overrides, in any order.

    Raises:
        UserError: for a flag that there is not, or bytes that are no text.
    """
    for argument in arguments:
        if any("\ud800" <= sign <= "\udfff" for sign in argument):  # as Python reads such bytes
            raise UserError(f"{argument} is not UTF-8; rename what it names")

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the flags, and settings are KEY=VALUE")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    options: Namespace = parser.parse_intermixed_args(list(arguments))
    return options


def _check_line(options: Namespace) -> None:
    """Refuse a line that Hydra cannot compose, without torch."""
    _check_flags(options)
    runs = expand(with_experiment(options.overrides), multirun=options.multirun)
    compose(runs[0])


def _check_flags(options: Namespace) -> None:
    for name in ("config_path", "config_name", "config_dir", "experimental_rerun"):
        if getattr(options, name, None):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} is not supported; use hydra.searchpath=[file://DIR]")


def _planned(planner: Planner, options: Namespace) -> tuple[list[Planned], list[str]]:
    _check_flags(options)
    return plan(planner, options.overrides, multirun=options.multirun)


def _run(arguments: Sequence[str], options: Namespace) -> int:
    """Everything that is not Hydra's; in each of several processes, where the first one speaks."""
    import torch

    from benchmark import processes
    from benchmark.job import execute
    from benchmark.launcher import default_jobs, launch
    from benchmark.plan import Planner

    # Plans are small work, which a second thread slows down tenfold where other programs run. Each
    # run sets its own number.
    torch.set_num_threads(1)
    first = processes.rank() == 0
    planner = Planner()
    try:
        plans, notes = processes.once(lambda: _planned(planner, options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    command = shlex.join([*processes.program(), "benchmark/run.py", *arguments])
    with Display(quiet=not first) as display:
        for note in notes:
            display.console.print(note, markup=False)
        if plans[0].cfg.dry_run:
            processes.once(lambda: _show_plan(planner, plans, options, display))
            return 0
        if plans[0].cfg.launcher == "slurm":
            return _on_slurm(plans, command, display)
        processes.once(lambda: note_plans(planned.run for planned in plans))
        try:
            if options.multirun:
                launch(plans, default_jobs(plans[0]), display.show)
            else:
                execute(plans[0], display.show, planner)
        except Interrupted:
            display.console.print("interrupted; the same line goes on from here")
            raise
        finally:
            succeeded = not first or report(plans, command=command, page=options.multirun)
    return 0 if processes.agreed(succeeded) else 1


def _on_slurm(plans: Sequence[Planned], command: str, display: Display) -> int:
    """Send what is missing and, if that is wanted, wait for it; returns the exit status."""
    from slurm.launch import send, watch

    at_work = send(plans, display.show)
    if not plans[0].cfg.slurm.wait:
        display.console.print(
            f"SLURM has {len(at_work)} runs; python slurm/status.py {plans[0].cfg.runs_dir} tells "
            "how they go, and the same line writes the tables"
        )
        return 0
    try:
        watch(at_work, display.show)
    except Interrupted:
        display.console.print(
            "interrupted, but the jobs go on; the same line watches them again, scancel ends them"
        )
        raise
    return 0 if report(plans, command=command) else 1


def _show_plan(
    planner: Planner, plans: Sequence[Planned], options: Namespace, display: Display
) -> None:
    """What the line would do: on SLURM the script, here how long it would take."""
    from benchmark.forecast import Forecaster, forecast_table
    from benchmark.launcher import default_jobs

    if plans[0].cfg.launcher == "slurm":
        from slurm.launch import dry_run

        print(dry_run(plans))
        return
    forecaster = Forecaster(planner)
    forecasts = []
    for number, planned in enumerate(plans, start=1):
        forecasts.append(forecaster.forecast(planned))
        display.show(Event("measured", planned.run.name, number, len(plans)))
    jobs = default_jobs(plans[0]) if options.multirun else 1
    display.console.print(forecast_table(forecasts, jobs))


def plan(
    planner: Planner, overrides: Sequence[str], *, multirun: bool
) -> tuple[list[Planned], list[str]]:
    """Every run of the command line, and what the user should be told.

    Raises:
        UserError: for anything that would make a run fail later.
    """
    notes = []
    overrides = with_experiment(overrides)
    if not any(o.split("=")[0] == "seed" for o in overrides):
        notes.append("no seed given: seed=0")
    runs = expand(overrides, multirun=multirun)
    if multirun:
        cfg = planner.plan(runs[0]).cfg
        controls = cfg.controls
        if "supervised" in controls and not planner.data(cfg).class_names:
            controls = [control for control in controls if control != "supervised"]
            notes.append("the data has no labels: no supervised control")
        if controls:
            runs += expand(control_line(overrides, controls), multirun=True)
    # Two lines may lead to one run: a control under two objectives, say.
    varied = varied_keys(overrides)
    planned_runs = (
        planner.plan(run, [o for o in run if o.split("=")[0] in varied]) for run in runs
    )
    plans = list({(p.run.folder, p.run.tasks): p for p in planned_runs}.values())
    if plans[0].cfg.launcher == "slurm" and not multirun:
        raise UserError("hydra/launcher=slurm sends a sweep; add -m")
    _refuse_two_protocols(plans)
    skipped = sorted({why for planned in plans for why in planned.run.skipped})
    done = {task.name for planned in plans for task in planned.run.tasks}
    never = [why for why in skipped if why.split(":")[0] not in done]
    asked = [o for o in overrides if o.split("=")[0] == "task"]
    if asked and never:
        raise UserError(f"{asked[0]}: {'; '.join(never)}; leave that task out")
    return plans, notes + [f"not evaluated: {why}" for why in skipped]


def _refuse_two_protocols(plans: Sequence[Planned]) -> None:
    """One cell of a table must not mix protocols."""
    protocols: dict[tuple[str, ...], Path] = {}
    for run in (planned.run for planned in plans):
        for task in run.tasks:
            cell = (run.hash8, str(run.seed), task.name, task.data)
            folder = task.result.parent
            if protocols.setdefault(cell, folder) != folder:
                raise UserError(
                    f"the sweep has two protocols of tasks.{task.name}, which would share a cell; "
                    "run one after the other, with another runs_dir"
                )


def report(plans: Sequence[Planned], *, command: str, page: bool = True) -> bool:
    """Write and show the report of the planned runs; returns whether all of these are complete.

    Finished runs of the same setting that lie in the run folders join the table. Results that
    cannot be trusted are told, in no table, and count as not complete.

    Args:
        plans: of the runs.
        command: that asked for them.
        page: whether figures and the HTML page are written too, if the configuration wants them.
    """
    from benchmark.checkout import git_state
    from reports.build import build
    from reports.material import NOT_TABULATED

    runs = [planned.run for planned in plans]
    configs = {planned.run.hash8: asdict(planned.cfg) for planned in plans}
    out = Path(plans[0].cfg.tables_dir)
    try:
        beside = list(finished_beside(runs))
        built = build(
            [*runs, *beside],
            configs,
            out,
            command=command,
            commit=git_state()[0],
            page=page and plans[0].cfg.figures,
        )
    except (ValueError, OSError) as error:
        print(f"error: no tables: {error}", file=sys.stderr)
        return False
    if built.paths:
        print(built.terminal_text())
        if beside:
            print(f"with {len(beside)} comparable runs of earlier commands")
        print(f"tables: {len(built.paths)} files in {out}, of which to read {built.first}")
    for problem in built.report.left_out:
        print(f"error: {problem}", file=sys.stderr)
    if left_out := {run.preset for run in runs} & set(NOT_TABULATED):
        print(f"preset={left_out.pop()} is an ablation: its results are in tables of these alone")
    unfinished = [run for run in runs if not run.complete]
    for run in unfinished:
        failures = ", ".join(map(str, run.error_files))
        why = f"see {failures}" if failures else "it did not finish"
        print(f"error: {run.name} has no complete result; {why}", file=sys.stderr)
    return not (unfinished or built.report.left_out)


def _hydra(arguments: Sequence[str]) -> int:
    """Hydra's own answers: --help, --cfg, --info and the like."""
    # Where Hydra reads them; it refuses -m beside them.
    sys.argv = [sys.argv[0], *(a for a in arguments if a not in ("-m", "--multirun"))]

    @hydra.main(f"pkg://{CONFIG_MODULE}", "config", version_base=HYDRA_VERSION_BASE)
    def answer(_cfg: DictConfig) -> None:
        raise AssertionError("only called for options that run nothing")

    answer()
    return 0


if __name__ == "__main__":
    sys.exit(main())
