"""A planned run: what it compares and where its files lie. No torch here: reports read it too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

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
    """

    name: str
    data: str
    fingerprint: str
    eval_seed: int
    result: Path


@dataclass(frozen=True)
class Run:
    """One pretraining with its evaluations.

    Attributes:
        folder: ``runs/<data>/<method>-<hash8>/seed<k>``.
        setting: hash of everything but method and seed: runs that share it are comparable.
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
        """Traceback of the last attempt, present only if that attempt failed."""
        return self.folder / "error.txt"

    @property
    def pretraining_file(self) -> Path:
        """Record of a finished pretraining: checksum of the encoder, and cost."""
        return self.folder / "pretraining.json"

    @property
    def complete(self) -> bool:
        """Whether every planned output is there."""
        outputs = [self.encoder_file, self.pretraining_file, *(t.result for t in self.tasks)]
        return not self.error_file.exists() and all(path.exists() for path in outputs)


NAMED = ("method", "objective", "encoder", "data", "preset", "seed")

# What config.yaml repeats of a run's plan, so that the folder can be found and read again.
_IDENTITY = (*NAMED, "control", "fingerprint", "hash8", "setting", "varied", "update")


def identity(run: Run) -> dict[str, Any]:
    """What a run folder must note of its plan to be found again."""
    return {key: getattr(run, key) for key in _IDENTITY} | {"varied": list(run.varied)}


def restored(noted: Mapping[str, Any], folder: Path, tasks: tuple[PlannedTask, ...] = ()) -> Run:
    """The run in a folder, by the `identity` noted there.

    Raises:
        TypeError: if it is none.
    """
    # Folders of earlier versions tell neither what was varied nor the update.
    varied = tuple(noted.get("varied", ()))
    return Run(**{**noted, "varied": varied}, folder=folder, tasks=tasks)


def finished_beside(runs: Sequence[Run]) -> Iterator[Run]:
    """Runs in the folders of the planned ones that are comparable with them.

    Comparable is what shares the setting of a planned run, and somebody else's encoder on the same
    data, which had no setting of ours. It comes with those of the planned runs' tasks whose results
    are there. Folders that hold something else are passed over.
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
            folder, found = config.parent, _read_identity(config)
            if folder in planned or found is None or not _comparable(found, alike[0]):
                continue
            results = {folder / place: task for place, task in wanted.items()}
            tasks = tuple(replace(t, result=r) for r, t in results.items() if r.exists())
            if tasks:
                yield restored(found, folder, tasks)


def _comparable(found: Mapping[str, Any], peer: Run) -> bool:
    foreign = found["control"] == IMPORTED and found["fingerprint"] == peer.fingerprint
    return foreign or bool(found["setting"] == peer.setting)


def _read_identity(config: Path) -> dict[str, Any] | None:
    """The identity in a config.yaml, None if the file is none of ours."""
    try:
        found = yaml.safe_load(config.read_text())["run"]
    except (yaml.YAMLError, KeyError, TypeError):
        return None
    known = isinstance(found, dict) and set(found) | {"varied", "update"} == set(_IDENTITY)
    return found if known else None
