"""Run folders on disk, from whoever: which runs are there, and what was planned of each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from benchmark.errors import UserError
from benchmark.files import read_json
from benchmark.result_file import Inputs
from benchmark.runs import PlannedTask, Run, lies_in, read_config, restored
from benchmark.type_check import misfit
from reports.results.labels import SAME, Config, flattened

_RESULT = re.compile(r"results/[^/]+/seed\d+\.json")
_RUN_FOLDER = re.compile(r"seed\d+")

# Keys of config.yaml that seeds of one configuration may differ in: those that change no encoder,
# paths of data, which counts by its fingerprint, and what comes to the same.
_FREE = SAME | {"data", "pflops", "processes", "sync_batchnorm"}


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
class _Noted:
    """A configuration, as one of its seeds notes it.

    Attributes:
        file: its config.yaml.
        texts: of the files that note the same, without the lines of their seeds.
    """

    file: Path
    config: Config
    texts: set[bytes]


@dataclass(frozen=True)
class Found:
    """What lies below some folders.

    Attributes:
        runs: each with the tasks that are planned, and those whose results are there.
        configs: resolved configurations by hash8, of one seed each.
        left_out: a sentence for each folder and file that is in no table.
    """

    runs: list[Run]
    configs: dict[str, Config]
    left_out: list[str]


def find(folders: Sequence[Path]) -> Found:
    """Every run below the folders, once.

    A folder is left out if it is not what its name says, the copy of another one, or notes another
    configuration than other seeds of its own. Hidden folders and those of tables are passed over.

    Raises:
        UserError: if a folder is none, or there is no run in any of them.
    """
    runs: dict[tuple[str, str, int], Run] = {}
    configs: dict[str, _Noted] = {}
    left_out: list[str] = []
    roots = [folder.resolve() for folder in folders]
    places = {
        path.resolve(): path for folder in folders for path in _run_folders(folder, roots, left_out)
    }
    if not places:
        where = ", ".join(map(str, folders))
        also = f", and {left_out[0]}" if left_out else "; give the runs_dir of the runs"
        raise UserError(f"{where} holds no run (seed<k>/plan.json){also}")
    for resolved, folder in places.items():
        try:
            run, noted = _read_run(folder, configs)
            if not lies_in(run, resolved):
                own = f"{run.data}/{run.method}-{run.hash8}/seed{run.seed}"
                raise ValueError(
                    f"{folder} is no folder of {own}, the run that it holds; put it back to where "
                    "it was made"
                )
            if first := runs.get(_key(run)):
                raise ValueError(
                    f"{folder} is the same run as {first.folder}, which counts; remove one of them"
                )
            if noted is not None:
                _add(noted, run.hash8, configs)
        except (ValueError, OSError) as error:
            left_out.append(str(error))
            continue
        tasks, problems = _tasks(folder)
        left_out += problems
        runs[_key(run)] = replace(run, tasks=tuple(tasks))
    whole = _of_known_protocols(list(runs.values()))
    return Found(
        [_without_copies(run, left_out) for run in whole],
        {hash8: noted.config for hash8, noted in configs.items()},
        list(dict.fromkeys(left_out)),
    )


def _run_folders(folder: Path, roots: Sequence[Path], left_out: list[str]) -> Iterator[Path]:
    """Folders of runs below one of the roots; what may hold others is added to ``left_out``."""
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; give the runs_dir of the runs, or a folder in it")

    def leave_out(error: OSError) -> None:
        left_out.append(f"{error.filename} cannot be listed ({error.strerror}); make it readable")

    for place, inside, files in os.walk(folder, onerror=leave_out):
        path = Path(place)
        named = _RUN_FOLDER.fullmatch(path.absolute().name)
        if named and {"plan.json", "config.yaml"} & {*files}:
            inside.clear()
            yield path
        elif named and ("pretraining.json" in files or "results" in inside):
            inside.clear()
            left_out.append(
                f"{path} has neither plan.json nor config.yaml, which tell its run; put one back, "
                "or delete it to run again"
            )
        else:
            inside[:] = sorted(n for n in inside if not n.startswith(".") and n != "tables")
            for link in (path / name for name in inside if (path / name).is_symlink()):
                if not any(link.resolve().is_relative_to(root) for root in roots):
                    left_out.append(f"{link} is a link, which is not followed; give its target too")


def _read_run(folder: Path, known: Mapping[str, _Noted]) -> tuple[Run, _Noted | None]:
    """The run in a folder, and its configuration unless that is known, as its text tells."""
    run = None
    if (folder / "plan.json").exists():
        plan = _read_plan(folder)
        try:
            run = restored(plan["run"], folder)
        except ValueError as error:
            raise ValueError(f"{folder / 'plan.json'} holds no run ({error})") from error
    file = folder / "config.yaml"
    text = b""
    if run is not None:
        if not file.exists():
            return run, None
        text = _without_seed(file, run.seed)
        if run.hash8 in known and text in known[run.hash8].texts:
            return run, None
    trained, config = read_config(folder)
    if run is not None and _key(run) != _key(trained):
        raise ValueError(
            f"{folder} has plan.json and config.yaml of two runs; the line that made it plans "
            "it anew"
        )
    return trained, _Noted(file, config, {text})


def _without_seed(file: Path, seed: int) -> bytes:
    """The text of a config.yaml without the lines that tell the seed: its own, and its run's."""
    try:
        return re.sub(rb"(?m)^(  )?seed: %d\n" % seed, b"", file.read_bytes())
    except OSError:  # whoever reads it tells what is wrong
        return b""


def _add(noted: _Noted, hash8: str, configs: dict[str, _Noted]) -> None:
    """Add a configuration to those that are known by hash8.

    Raises:
        ValueError: if it is not the one that is known.
    """
    first = configs.setdefault(hash8, noted)
    keys = (noted.config.keys() & first.config.keys()) - _FREE  # earlier versions lack some
    one, other = (flattened({key: c.config[key] for key in keys}) for c in (noted, first))
    for key in sorted(one.keys() | other.keys()):
        if one.get(key) != other.get(key):
            raise ValueError(
                f"{noted.file} has another {key!r} than {first.file}, of another seed of its "
                "configuration; delete the folder of the wrong one to run again"
            )
    first.texts.update(noted.texts)


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


def _without_copies(run: Run, left_out: list[str]) -> Run:
    """The same run with each result once: the first, which is a planned one where there is any."""
    counted: dict[PlannedTask, PlannedTask] = {}
    for task in run.tasks:
        key = replace(task, result=run.folder) if task.protocol_id else task
        if (first := counted.setdefault(key, task)) is not task:
            left_out.append(
                f"{task.result} is of the same task, data, protocol and seed as {first.result}, "
                "which counts; delete it"
            )
    return replace(run, tasks=tuple(counted.values()))


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
