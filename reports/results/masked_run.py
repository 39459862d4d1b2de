"""A run that left masks, and its files, none of which is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import UInt8

from benchmark.array_file import read_arrays
from benchmark.files import read_json
from benchmark.mask_metrics import empty_share, mask_statistics
from benchmark.runs import Run, read_config
from benchmark.type_check import misfit
from reports.results.training_log import read_log

FILE = Path("masks") / "test.npz"


class _Commit(TypedDict, total=False):
    commit: str | None
    dirty: bool


@dataclass(frozen=True)
class MaskFile:
    """What a trained method hides of the test images; 255 is fully hidden.

    Attributes:
        segments: object of each pixel, 0 for the background; None if the data knows no objects.
    """

    images: UInt8[np.ndarray, "n 3 h w"]
    masks: UInt8[np.ndarray, "n k h w"]
    segments: UInt8[np.ndarray, "n h w"] | None


@dataclass(frozen=True)
class MaskedRun:
    """A run with masks; its files are read when asked for, since many do not fit in memory.

    Attributes:
        run: that left them.
        config: resolved.
        statistics: number of ``images`` and ``slots``, `benchmark.mask_metrics.mask_statistics`,
            and the ``empty`` share of the slots.
    """

    run: Run
    config: Mapping[str, Any]
    statistics: Mapping[str, float]

    def mask_file(self) -> MaskFile:
        """Read the masks.

        Raises:
            ValueError: naming the file, if it is broken.
        """
        path = self.run.folder / FILE
        found = read_arrays(path)
        if lacking := {"images", "masks"} - found.keys():
            raise _broken(path, f"it lacks {min(lacking)}")
        file = MaskFile(found["images"], found["masks"], found.get("segments"))
        n, _, h, w = file.images.shape if file.images.ndim == 4 else (0, 0, 0, 0)
        shapes = {"images": (n, 3, h, w), "masks": (n, *file.masks.shape[1:2], h, w)}
        shapes |= {} if file.segments is None else {"segments": (n, h, w)}
        for name, shape in shapes.items():
            if found[name].shape != shape or found[name].dtype != np.uint8 or not found[name].size:
                raise _broken(path, f"{name} are {found[name].dtype} {found[name].shape}")
        return file

    def lines(self) -> list[dict[str, Any]]:
        """What the run noted while it trained; empty if it noted nothing.

        ``slot_loss`` comes without the loss of the unmasked pair, which stands for no slot.

        Raises:
            ValueError: naming the file, if it is broken.
        """
        lines = read_log(self.run.folder, None)
        if self.config.get("unmasked_pair"):
            return [{**line, "slot_loss": line.get("slot_loss", [])[:-1]} for line in lines]
        return lines

    def commit(self, dirty: str = "-dirty", length: int | None = None) -> str:
        """State of the code that trained; ``dirty`` follows where it was not committed.

        Raises:
            ValueError: naming the file, if it is broken.
        """
        record = self.run.pretraining_file
        attempts = self.run.folder / "provenance.json"
        states: list[Any] = []
        path = record if record.exists() else attempts
        if path.exists():
            found = read_json(path)
            states = [found] if path == record else found.get("attempts", [])
            if fault := misfit(states, list[_Commit], "it"):
                raise _broken(path, fault)
        state = states[-1] if states else {}
        return str(state.get("commit") or "unknown")[:length] + dirty * bool(state.get("dirty"))


def read_run(folder: Path, known: tuple[Run, Mapping[str, Any]] | None = None) -> MaskedRun:
    """The run in a folder, after a look at its files that reports of masks read.

    Args:
        folder: of the run.
        known: the run and its configuration, where these are known; else config.yaml is read.

    Raises:
        ValueError: naming the file, if one is broken.
        OSError: if one cannot be read.
    """
    run, config = known or read_config(folder)
    if fault := misfit(config.get("method", {}), dict[str, Any], "method"):
        raise _broken(folder / "config.yaml", fault)
    masked = MaskedRun(run, config, {})
    masked.commit()
    masks = masked.mask_file().masks
    images, slots = masks.shape[:2]
    empty = empty_share(masked.lines(), slots)
    about = {"images": images, "slots": slots, **mask_statistics(masks), "empty": empty}
    return replace(masked, statistics=about)


def _broken(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is broken ({why}); delete it to have it made again")
