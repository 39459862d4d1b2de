"""A planned run: what it compares and where its files lie. No torch here: reports read it too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml


@dataclass(frozen=True)
class PlannedTask:
    """One evaluation of one run, and the file that will hold its result."""

    name: str
    data: str
    result: Path


@dataclass(frozen=True)
class Run:
    """One pretraining with its evaluations.

    Attributes:
        folder: ``runs/<data>/<method>-<hash8>/seed<k>``.
        setting: hash of everything but method and seed: runs that share it are comparable.
        control: "untrained" or "supervised" for the two controls, else None.
        skipped: tasks that cannot run on this data, with the reason.
    """

    method: str
    objective: str
    encoder: str
    data: str
    preset: str
    seed: int
    control: str | None
    hash8: str
    setting: str
    folder: Path
    tasks: tuple[PlannedTask, ...]
    skipped: tuple[str, ...] = ()

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


def identity(run: Run) -> dict[str, str | int | None]:
    """What a run folder must note of its plan to be found again."""
    keys = (
        "method", "objective", "encoder", "data", "preset", "seed", "control", "hash8", "setting",
    )  # fmt: skip
    return {key: getattr(run, key) for key in keys}


def finished_beside(runs: Sequence[Run]) -> Iterator[Run]:
    """Finished runs in the folders of the planned ones that are comparable with them.

    Comparable is what shares the setting of a planned run; it is shown with the tasks of that
    run, as far as their results are there.
    """
    planned = {run.folder for run in runs}
    by_setting = {run.setting: run for run in runs}
    for peer in by_setting.values():
        for config in sorted(peer.folder.parents[1].glob("*/seed*/config.yaml")):
            folder = config.parent
            try:
                found = yaml.safe_load(config.read_text())["run"]
            except (yaml.YAMLError, KeyError, TypeError) as error:
                raise ValueError(f"{config} is broken; delete its folder or mend it") from error
            if folder in planned or found["setting"] != peer.setting:
                continue
            tasks = tuple(
                replace(t, result=folder / t.result.relative_to(peer.folder)) for t in peer.tasks
            )
            run = Run(folder=folder, tasks=tasks, **found)
            if run.complete:
                yield run
