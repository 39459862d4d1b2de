"""A planned run: what it compares and where its files lie. No torch here: reports read it too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
        """How messages call the run."""
        return f"{self.method} seed={self.seed}"

    @property
    def encoder_file(self) -> Path:
        """The product of pretraining."""
        return self.folder / "encoder.safetensors"

    @property
    def error_file(self) -> Path:
        """Traceback of the last attempt, present only if that attempt failed."""
        return self.folder / "error.txt"
