"""A planned run: what it compares and where its files lie. No torch here: reports read it too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from benchmark.errors import UserError
from benchmark.files import json_text, write_json
from benchmark.type_check import misfit

IMPORTED = "checkpoint"  # stands for the control of a run whose encoder comes from a file


@dataclass(frozen=True)
class PlannedTask:
    """One evaluation of one run, and the file that will hold its result.

    Attributes:
        name: of the task in the configuration.
        data: name of the data set that it scores on.
        fingerprint: of that data set.
        eval_seed: of the task's head.
        result: the file.
        protocol_id: see `benchmark.hashing.protocol_id`.
    """

    name: str
    data: str
    fingerprint: str
    eval_seed: int
    result: Path
    protocol_id: str

    @property
    def error_file(self) -> Path:
        """Traceback of the last attempt, present only if that attempt failed."""
        return self.result.with_suffix(".error.txt")


@dataclass(frozen=True)
class Run:
    """One pretraining with its evaluations.

    Attributes:
        folder: ``runs/<data>/<method>-<hash8>/seed<k>``.
        setting: hash of everything but method, objective and seed: runs that share it belong
            together.
        varied: what a sweep varied beside the names above, as ``key=value``.
        fingerprint: of the training split, see `benchmark.dataset.Dataset`.
        control: "untrained" or "supervised" for the two controls, "checkpoint" for somebody else's
            encoder, else None.
        update: how both players move; another one than "alternating" is told in tables.
        skipped: tasks that cannot run on this data, with the reason.
    """

    method: str
    objective: str
    encoder: str
    data: str
    preset: str
    seed: int
    control: str | None
    fingerprint: str
    hash8: str
    setting: str
    folder: Path
    tasks: tuple[PlannedTask, ...]
    skipped: tuple[str, ...] = ()
    varied: tuple[str, ...] = ()
    update: str = "alternating"

    @property
    def name(self) -> str:
        """How messages call the run: the end of its folder's path."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def encoder_file(self) -> Path:
        """The product of pretraining."""
        return self.folder / "encoder.safetensors"

    @property
    def error_file(self) -> Path:
        """Traceback of the last attempt at pretraining, present only if that attempt failed."""
        return self.folder / "error.txt"

    @property
    def error_files(self) -> list[Path]:
        """What failed last time and was not made since."""
        return [f for f in (self.error_file, *(t.error_file for t in self.tasks)) if f.exists()]

    @property
    def pretraining_file(self) -> Path:
        """Record of a finished pretraining: checksum of the encoder, and cost."""
        return self.folder / "pretraining.json"

    @property
    def complete(self) -> bool:
        """Whether every planned output is there."""
        outputs = [self.encoder_file, self.pretraining_file, *(t.result for t in self.tasks)]
        return not self.error_files and all(path.exists() for path in outputs)


_HINTS = get_type_hints(Run)

NAMED = ("method", "objective", "encoder", "data", "preset", "seed")

# What config.yaml repeats of a run's plan, so that the folder can be found and read again.
_IDENTITY = (*NAMED, "control", "fingerprint", "hash8", "setting", "varied", "update")


def identity(run: Run) -> dict[str, Any]:
    """What a run folder must note of its plan to be found again."""
    return {key: getattr(run, key) for key in _IDENTITY} | {"varied": list(run.varied)}


def note_plans(runs: Iterable[Run]) -> None:
    """Leave in every run folder what is to come of it: ``plan.json``.

    Raises:
        UserError: if one cannot be written.
    """
    for run in runs:
        tasks = [
            {
                "name": task.name,
                "data": task.data,
                "fingerprint": task.fingerprint,
                "protocol_id": task.protocol_id,
                "eval_seed": task.eval_seed,
                "result": str(task.result.relative_to(run.folder)),
            }
            for task in run.tasks
        ]
        plan, file = {"run": identity(run), "tasks": tasks}, run.folder / "plan.json"
        try:
            if not file.exists() or file.read_bytes() != json_text(plan).encode():
                write_json(file, plan)
        except OSError as error:
            raise UserError(
                f"{file} cannot be written ({error.strerror}); choose another runs_dir"
            ) from error


def restored(noted: object, folder: Path) -> Run:
    """The run in a folder, without tasks, by the `identity` noted there.

    Raises:
        ValueError: if it is none.
    """
    if fault := misfit(noted, dict[str, Any], "the run"):
        raise ValueError(fault)
    # Folders of earlier versions tell neither what was varied nor the update.
    given = {"varied": [], "update": "alternating", **dict(noted)}  # type: ignore[call-overload]
    if unlike := sorted(set(given) ^ set(_IDENTITY)):
        raise ValueError(f"{unlike[0]} is missing from the run or too much")
    for key, value in given.items():
        if fault := misfit(value, _HINTS[key], key):
            raise ValueError(fault)
    return Run(**{**given, "varied": tuple(given["varied"])}, folder=folder, tasks=())


def read_config(folder: Path) -> tuple[Run, dict[str, Any]]:
    """The run in a folder, as `restored`, and its configuration, as ``config.yaml`` notes them.

    Raises:
        ValueError: naming the file, if it is missing or something else.
    """
    file = folder / "config.yaml"
    try:
        config = _plain_yaml(file.read_text(encoding="utf-8"))
        if fault := misfit(config, dict[str, Any], "it"):
            raise ValueError(fault)
        return restored(config.get("run"), folder), config
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"{file} is not the configuration of a run ({why}); delete its folder to run again"
        ) from error


def _plain_yaml(text: str) -> Any:
    """What `yaml.safe_dump` wrote of a configuration: no tags of Python, no anchors, few levels.

    A few lines of anchors unfold to more than fits in memory, or to what contains itself; levels
    fill the stack. The loader is that of libyaml where there is one, which reads eight times as
    fast.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    level = 0
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("it repeats a part by an anchor")
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if level > _MOST_LEVELS:
            raise yaml.YAMLError("it is nested too deeply")
    return yaml.load(text, loader)


_MOST_LEVELS = 100


def finished_beside(runs: Sequence[Run]) -> Iterator[Run]:
    """Runs in the folders of the planned ones that are comparable with them.

    Comparable is what shares the setting of a planned run, and somebody else's encoder on the same
    data, which had no setting of ours. It comes with those of the planned runs' tasks whose results
    are there. Folders that hold something else, or the copy of another folder, are passed over, as
    are those whose pretraining is not finished.
    """
    planned = {run.folder for run in runs}
    peers: dict[str, list[Run]] = {}
    for run in runs:
        peers.setdefault(run.setting, []).append(run)
    for alike in peers.values():
        wanted = {
            task.result.relative_to(peer.folder): task for peer in alike for task in peer.tasks
        }
        for config in sorted(alike[0].folder.parents[1].glob("*/seed*/config.yaml")):
            folder = config.parent
            if folder in planned or not (folder / "pretraining.json").exists():
                continue
            try:
                found, _ = read_config(folder)
            except ValueError:
                continue
            if not (lies_in(found, folder) and _comparable(found, alike[0])):
                continue
            results = {folder / place: task for place, task in wanted.items()}
            tasks = tuple(replace(t, result=r) for r, t in results.items() if r.exists())
            if tasks:
                yield replace(found, tasks=tasks)


def lies_in(run: Run, folder: Path) -> bool:
    """Whether a folder is where the run's own one would be."""
    own = (run.data, f"{run.method}-{run.hash8}", f"seed{run.seed}")
    return folder.absolute().parts[-3:] == own


def _comparable(found: Run, peer: Run) -> bool:
    foreign = found.control == IMPORTED and found.fingerprint == peer.fingerprint
    return foreign or found.setting == peer.setting
