"""Who follows a training besides metrics.jsonl: TensorBoard, and Weights & Biases.

Both are told the same: every line of metrics.jsonl as scalars, and pictures of the masks. Their
libraries are imported when a training opens them, so that whoever does without does not wait.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from benchmark.errors import UserError

Picture = UInt8[np.ndarray, "h w 3"]

MODES = ("offline", "online")

_MASKS = "masks"  # the name of the pictures


class Tracker(Protocol):
    """Follows one training; raises what keeps it from writing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step."""

    def picture(self, step: int, picture: Picture) -> None:
        """Take a picture of the masks after so many steps."""

    def close(self) -> None:
        """Write what is left."""


class Trackers:
    """All that follow one training.

    Args:
        makers: each opens one, given the steps from which training goes on.
    """

    def __init__(self, makers: Iterable[Callable[[int], Tracker]] = ()) -> None:
        self._makers = tuple(makers)
        self._opened: list[Tracker] = []

    def open(self, done: int) -> None:
        """Begin, or go on after so many steps; what was told of later ones is told again."""
        for make in self._makers:
            self._opened.append(make(done))

    def line(self, line: Mapping[str, Any]) -> None:
        """Tell a line of metrics.jsonl."""
        if self._opened:
            values = flat(line)
        for tracker in self._opened:
            tracker.scalars(line["step"], values)

    def picture(self, done: int, draw: Callable[[], Picture]) -> None:
        """Tell the masks after so many steps; the picture is drawn only if somebody wants it."""
        if self._opened:
            picture = draw()
        for tracker in self._opened:
            tracker.picture(done, picture)

    def close(self) -> None:
        """Close all of them."""
        while self._opened:
            self._opened.pop().close()


NOBODY = Trackers()


def flat(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by name; those of a list as ``name/1`` and so on."""
    values: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, list):
            values |= {f"{name}/{i}": float(number) for i, number in enumerate(value, start=1)}
        elif name != "step" and not isinstance(value, str):
            values[name] = float(value)
    return values


class TensorBoard:
    """Writes files of events.

    A training that goes on begins a file of its own, which tells readers to forget what earlier
    ones hold of the steps that come again.

    Args:
        folder: of the files.
        done: steps from which training goes on.
    """

    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import scalar

        self._scalar = scalar
        self._writer: Any = SummaryWriter(str(folder), purge_step=done)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step, at once: each writing opens the file anew."""
        first, *rest = (self._scalar(name, value) for name, value in values.items())
        for other in rest:
            first.MergeFrom(other)
        self._writer.file_writer.add_summary(first, step)
        # Waits for the thread that writes: what failed there is raised here, and nothing is written
        # later, when the folder may be another process'.
        self._writer.flush()

    def picture(self, step: int, picture: Picture) -> None:
        """Write a picture of the masks after so many steps."""
        self._writer.add_image(_MASKS, picture, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """Writes a run of Weights & Biases into ``wandb/``.

    A training that goes on does so in the same run, which keeps what it has of a step: the numbers
    of steps that come again are the same. A process of its own writes; what it has not written when
    the training is killed is missing.

    Args:
        folder: of the run; gets ``wandb/``.
        done: steps from which training goes on.
        project, entity, mode: of the run.
        identity: names the run to the service.
        name: names it to people.
        config: is shown with it.

    Raises:
        OSError: if nothing can be written into the folder.
    """

    def __init__(
        self,
        folder: Path,
        done: int,
        *,
        project: str,
        entity: str | None,
        mode: str,
        identity: str,
        name: str,
        config: Mapping[str, Any],
    ) -> None:
        import wandb

        self._picture = wandb.Image
        self._run = wandb.init(
            project=project,
            entity=entity,
            mode="online" if mode == "online" else "offline",
            dir=str(folder),
            id=identity,
            name=name,
            resume="allow",
            config=dict(config),
            allow_val_change=True,
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True
            ),
        )
        # Where it cannot write, wandb takes a temporary folder.
        if not Path(self._run.dir).resolve().is_relative_to(folder.resolve()):
            self._run.finish(exit_code=1)
            raise OSError(f"{folder / 'wandb'} cannot be written")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Hand over the numbers of a step."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, picture: Picture) -> None:
        """Hand over a picture of the masks after so many steps."""
        self._run.log({_MASKS: self._picture(picture)}, step=step)

    def close(self) -> None:
        """Wait until everything is written."""
        self._run.finish()


def check_wandb(*, enabled: bool, mode: str, project: str) -> None:
    """Refuse what `WeightsAndBiases` cannot be opened with.

    Raises:
        UserError: naming it, or the library if that is missing.
    """
    if mode not in MODES:
        raise UserError(f"wandb.mode={mode} is not one of {', '.join(MODES)}")
    if not re.fullmatch(r"[^/\\#?%:]{1,128}", project):
        raise UserError(
            f"wandb.project={project} must be a name of up to 128 signs without /\\#?%:"
        )
    # A folder wandb/ in which somebody has worked is found too, but has no file.
    spec = find_spec("wandb")
    if enabled and (spec is None or spec.origin is None):
        raise UserError("wandb.enabled=true, but wandb is not installed; pip install wandb")
