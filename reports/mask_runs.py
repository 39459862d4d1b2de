"""Runs that left masks: found below folders, grouped by configuration, named by what differs."""

from __future__ import annotations

import json
import math
import re
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import UInt8

from benchmark.files import read_json
from benchmark.runs import Run, restored
from reports.collect import row_labels

_FILE = Path("masks") / "test.npz"

# Keys of config.yaml that cannot tell configurations apart: they change no encoder, or the label
# or another key says the same.
_SAME = frozenset(
    (
        "run", "seed", "eval_seed", "tasks", "controls", "probe", "device", "jobs", "runs_dir",
        "log_every_steps", "log_limits", "checkpoint_every_epochs", "mask_net",
    )
)  # fmt: skip


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
    """A run with masks; its files are read when asked for, since many do not fit in memory."""

    run: Run
    config: Mapping[str, Any]

    def mask_file(self) -> MaskFile:
        """Read the masks.

        Raises:
            ValueError: naming the file, if it is broken.
        """
        path = self.run.folder / _FILE
        try:
            with np.load(path) as archive:
                found = {name: archive[name] for name in archive.files}
            file = MaskFile(found["images"], found["masks"], found.get("segments"))
        except (
            OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error
        ) as error:  # fmt: skip
            raise _broken(path, f"{type(error).__name__}: {error}") from error
        n, h, w = len(file.images), *file.images.shape[2:]
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
        path = self.run.folder / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
        except ValueError as error:
            raise ValueError(f"{path} is broken ({error}); train that run again") from error
        if self.config.get("unmasked_pair"):
            return [{**line, "slot_loss": line.get("slot_loss", [])[:-1]} for line in lines]
        return lines

    def commit(self, dirty: str = "-dirty", length: int | None = None) -> str:
        """State of the code that trained; ``dirty`` follows where it was not committed."""
        record = self.run.pretraining_file
        if record.exists():
            state = read_json(record)
        else:
            provenance = self.run.folder / "provenance.json"
            attempts = read_json(provenance).get("attempts") if provenance.exists() else None
            state = attempts[-1] if attempts else {}
        return str(state.get("commit") or "unknown")[:length] + dirty * bool(state.get("dirty"))


@dataclass(frozen=True)
class Configuration:
    """The seeds of one configuration, under the name that figures and tables give it."""

    label: str
    runs: tuple[MaskedRun, ...]

    @property
    def first(self) -> MaskedRun:
        """The run with the smallest seed."""
        return self.runs[0]

    @property
    def data(self) -> str:
        """Name of the data set."""
        return self.first.run.data


def find(folders: Sequence[Path]) -> list[Configuration]:
    """Every configuration with masks below the folders, those of one data set together.

    Raises:
        ValueError: a folder is none, a file is broken, or a run is there twice.
    """
    by_data: dict[str, dict[str, list[MaskedRun]]] = defaultdict(lambda: defaultdict(list))
    for masked in _masked_runs(folders):
        by_data[masked.run.data][masked.run.hash8].append(masked)
    return [
        configuration
        for _, groups in sorted(by_data.items())
        for configuration in _configurations(list(groups.values()))
    ]


def sheets(configurations: Sequence[Configuration], limit: int) -> dict[str, list[Configuration]]:
    """Share configurations out over pictures of one data set, at most ``limit`` in each.

    The key ends the picture's file name: empty for a lone picture.
    """
    pages: dict[str, list[Configuration]] = {}
    names = list(dict.fromkeys(configuration.data for configuration in configurations))
    for data in names:
        own = [c for c in configurations if c.data == data]
        parts = math.ceil(len(own) / limit)
        size = math.ceil(len(own) / parts)
        for k in range(parts):
            name = ([data] if len(names) > 1 else []) + ([str(k + 1)] if parts > 1 else [])
            pages["".join(f"_{word}" for word in name)] = own[k * size : (k + 1) * size]
    return pages


def origin(configurations: Sequence[Configuration]) -> str:
    """Where a report comes from: number of runs, seeds and commits."""
    runs = [masked for configuration in configurations for masked in configuration.runs]
    seeds = sorted({masked.run.seed for masked in runs})
    commits = dict.fromkeys(masked.commit(" (uncommitted changes)", 10) for masked in runs)
    return (
        f"{len(runs)} run{'s' * (len(runs) > 1)}, seed{'s' * (len(seeds) > 1)} "
        f"{', '.join(map(str, seeds))}, trained at commit{'s' * (len(commits) > 1)} "
        f"{', '.join(commits)}"
    )


def _masked_runs(folders: Sequence[Path]) -> Iterator[MaskedRun]:
    seen: dict[tuple[str, str, int], Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; name one that holds runs")
        for path in sorted(folder.glob(f"**/{_FILE}")):
            masked = _read(path.parents[1])
            key = (masked.run.data, masked.run.hash8, masked.run.seed)
            first = seen.get(key)
            if first is None:
                seen[key] = path.resolve()
                yield masked
            elif first != path.resolve():  # equal where one folder lies in another
                raise ValueError(f"{first} and {path} come from the same run; name one of the two")


def _read(folder: Path) -> MaskedRun:
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
        run = restored(config["run"], folder)
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the configuration of a run, but {_FILE} is there"
        ) from error
    return MaskedRun(run, config)


def _configurations(groups: Sequence[Sequence[MaskedRun]]) -> list[Configuration]:
    """Name the configurations of one data set by their row labels and what differs beyond."""
    firsts = [group[0] for group in groups]
    rows = row_labels([first.run for first in firsts])
    names = {h: row.removeprefix("+ ").removesuffix(f" [{h}]") for h, row in rows.items()}
    labels = {}
    for name in dict.fromkeys(names.values()):
        alike = [first for first in firsts if names[first.run.hash8] == name]
        for first, differs in zip(alike, _differences([a.config for a in alike]), strict=True):
            labels[first.run.hash8] = f"{name} {differs}".strip()
    used = Counter(labels.values())
    named = [
        Configuration(
            label if used[label] == 1 else f"{label} [{group[0].run.hash8}]",
            tuple(sorted(group, key=lambda masked: masked.run.seed)),
        )
        for group in groups
        for label in [labels[group[0].run.hash8]]
    ]
    return sorted(named, key=lambda one: _by_number(one.label))


def _by_number(label: str) -> list[tuple[float, str]]:
    """A key that sorts weight=3 before weight=10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return [(float(part), "") if part[:1].isdigit() else (-1.0, part) for part in parts]


def _differences(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of each configuration is not the same in all: "budget=0.1 epochs=5".

    Keys that vary together, as one that refers to another does, count once.
    """
    flat = [_flat(config) for config in configs]
    varying: dict[tuple[str, ...], str] = {}
    for key in dict.fromkeys(key for one in flat for key in one):
        values = tuple(str(one.get(key, "")) for one in flat)
        if len(set(values)) > 1:
            varying.setdefault(values, key)
    return [
        " ".join(
            f"{key.removeprefix('method.')}={_shown(one[key])}"
            for key in varying.values()
            if key in one
        )
        for one in flat
    ]


def _shown(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys, those of the method first."""
    found: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{prefix}.{key}", inner)
        else:
            found[prefix] = value

    for key in sorted(config, key=lambda key: key != "method"):
        if key not in _SAME:
            add(key, config[key])
    return found


def _broken(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is broken ({why}); delete it to have it made again")
