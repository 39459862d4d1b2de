"""Run folders on disk, from whoever: which runs are there, and what was planned of each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from benchmark.errors import UserError
from benchmark.files import read_json
from benchmark.result_file import Inputs
from benchmark.runs import PlannedTask, Run, lies_in, read_config, restored
from benchmark.type_check import misfit

_RESULT = re.compile(r"results/[^/]+/seed\d+\.json")
_RUN_FOLDER = re.compile(r"seed\d+")


class _Task(TypedDict):
    """What plan.json says of a task."""

    name: str
    data: str
    eval_seed: int
    result: str


class _Named(_Task, total=False):
    """What plans of earlier versions do not say."""

    fingerprint: str
    protocol_id: str


class _Plan(TypedDict):
    run: dict[str, Any]
    tasks: list[_Named]


class _Unplanned(TypedDict):
    """What a result that is in no plan says of its task."""

    task: str
    data: str
    eval_seed: int
    protocol_id: str
    inputs: Inputs


@dataclass(frozen=True)
class Found:
    """What lies below some folders.

    Attributes:
        runs: each with the tasks that are planned, and those whose results are there.
        configs: resolved configurations by hash8, of one seed each.
        left_out: a sentence for each folder and file that is in no table.
    """

    runs: list[Run]
    configs: dict[str, Mapping[str, Any]]
    left_out: list[str]


def find(folders: Sequence[Path]) -> Found:
    """Every run below the folders, once.

    A folder is left out if it is not what its name says, or the copy of another one.

    Raises:
        UserError: if a folder is none, or there is no run in any of them.
    """
    runs: dict[tuple[str, str, int], Run] = {}
    configs: dict[str, Mapping[str, Any]] = {}
    left_out = []
    places = {path.resolve(): path for folder in folders for path in _run_folders(folder)}
    for resolved, folder in places.items():
        try:
            run, config = _read_run(folder, configs.keys())
            if not lies_in(run, resolved):
                own = f"{run.data}/{run.method}-{run.hash8}/seed{run.seed}"
                raise ValueError(
                    f"{folder} is no folder of {own}, the run that it holds; put it back to where "
                    "it was made"
                )
            first = runs.setdefault(_key(run), run)
            if first is not run:
                raise ValueError(
                    f"{folder} is the same run as {first.folder}, which counts; remove one of them"
                )
        except (ValueError, OSError) as error:
            left_out.append(str(error))
            continue
        if config is not None:
            configs.setdefault(run.hash8, config)
        tasks, problems = _tasks(folder)
        left_out += problems
        runs[_key(run)] = replace(run, tasks=tuple(tasks))
    if not places:
        where = ", ".join(map(str, folders))
        raise UserError(f"{where} holds no run (seed<k>/plan.json); give the runs_dir of the runs")
    return Found(_of_known_protocols(list(runs.values())), configs, left_out)


def _run_folders(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; give the runs_dir of the runs, or a folder in it")
    for place, inside, files in os.walk(folder):
        path = Path(place)
        if _RUN_FOLDER.fullmatch(path.absolute().name) and {"plan.json", "config.yaml"} & {*files}:
            inside.clear()
            yield path
        else:
            inside[:] = sorted(name for name in inside if not name.startswith("."))


def _read_run(folder: Path, known: Set[str]) -> tuple[Run, Mapping[str, Any] | None]:
    """The run in a folder, and its configuration if none of its hash is known yet."""
    run = None
    if (folder / "plan.json").exists():
        plan = _read_plan(folder)
        try:
            run = restored(plan["run"], folder)
        except ValueError as error:
            raise ValueError(f"{folder / 'plan.json'} holds no run ({error})") from error
    started = (folder / "config.yaml").exists()
    if run is not None and (not started or run.hash8 in known):
        return run, None
    trained, config = read_config(folder)
    if run is not None and _key(run) != _key(trained):
        raise ValueError(
            f"{folder} has plan.json and config.yaml of two runs; the line that made it plans "
            "it anew"
        )
    return trained, config


def _key(run: Run) -> tuple[str, str, int]:
    return run.data, run.hash8, run.seed


def _read_plan(folder: Path) -> _Plan:
    file = folder / "plan.json"
    plan: Any = read_json(file)
    if fault := misfit(plan, _Plan, "it"):
        raise ValueError(f"{file} is no plan of a run ({fault}); the line that made it does again")
    found: _Plan = plan
    return found


def _tasks(folder: Path) -> tuple[list[PlannedTask], list[str]]:
    """The tasks of the run in a folder, and what is wrong with those that cannot be told."""
    tasks: dict[Path, PlannedTask] = {}
    problems = []
    if (folder / "plan.json").exists():
        try:
            noted = _read_plan(folder)["tasks"]
        except (ValueError, OSError) as error:
            noted = []
            problems.append(str(error))
        for task in noted:
            file = folder / task["result"]
            if not _RESULT.fullmatch(task["result"]):
                problems.append(
                    f"{folder / 'plan.json'} plans {file}, which is no place of results"
                )
            elif "protocol_id" in task and "fingerprint" in task:
                names = (task["name"], task["data"], task["fingerprint"], task["eval_seed"])
                tasks[file] = PlannedTask(*names, file, task["protocol_id"])
            else:
                try:
                    tasks[file] = _unplanned(file)
                except (ValueError, OSError):  # not there, or whoever reads it tells what is wrong
                    names = (task["name"], task["data"], "", task["eval_seed"])
                    tasks[file] = PlannedTask(*names, file, "")
    for file in sorted(folder.glob("results/*/seed*.json")):
        if file in tasks:
            continue
        try:
            tasks[file] = _unplanned(file)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return list(tasks.values()), problems


def _of_known_protocols(runs: Sequence[Run]) -> list[Run]:
    """The same runs; what plans of earlier versions do not say, they have from one another.

    The folder of a result is named by its task, its protocol and its data: where one run's tells
    these, the same folder of another run has them too.
    """
    told = {task.result.parent.name: task for run in runs for task in run.tasks if task.protocol_id}
    return [
        replace(
            run,
            tasks=tuple(
                replace(task, protocol_id=other.protocol_id, fingerprint=other.fingerprint)
                if not task.protocol_id and (other := told.get(task.result.parent.name))
                else task
                for task in run.tasks
            ),
        )
        for run in runs
    ]


def _unplanned(file: Path) -> PlannedTask:
    """The task whose result is in a file, by what it says itself."""
    content: Any = read_json(file)
    if fault := misfit(content, _Unplanned, "it"):
        raise ValueError(f"{file} is no result ({fault}); delete it")
    said: _Unplanned = content
    task = PlannedTask(
        said["task"],
        said["data"],
        said["inputs"]["data_fingerprint"],
        said["eval_seed"],
        file,
        said["protocol_id"],
    )
    place = f"{task.name}-{task.data}-"
    if not file.parent.name.startswith(place) or file.name != f"seed{task.eval_seed}.json":
        raise ValueError(
            f"{file} is of {place}*/seed{task.eval_seed}.json; put it back, or delete it"
        )
    return task
