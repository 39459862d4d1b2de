"""Runs that left masks: found below folders, grouped by configuration, named by what differs."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.collect import row_labels
from reports.masked_run import FILE, MaskedRun, read_run

# Keys of config.yaml that cannot tell configurations apart: they change no encoder, or the label
# or another key says the same.
_SAME = frozenset(
    (
        "run", "seed", "eval_seed", "tasks", "controls", "probe", "device", "jobs", "runs_dir",
        "log_every_steps", "log_limits", "checkpoint_every_seconds", "mask_net",
    )
)  # fmt: skip


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


@dataclass(frozen=True)
class Found:
    """What lies below some folders.

    Attributes:
        configurations: those with masks, of one data set together.
        problems: a sentence for each run that is left out, as one of its files is broken.
    """

    configurations: list[Configuration]
    problems: list[str]


def find(folders: Sequence[Path]) -> Found:
    """Every configuration with masks below the folders.

    Raises:
        ValueError: a folder is none, or a run is there twice.
    """
    by_data: dict[str, dict[str, list[MaskedRun]]] = defaultdict(lambda: defaultdict(list))
    problems = []
    for masked in _masked_runs(folders):
        if isinstance(masked, ValueError):
            problems.append(str(masked))
        else:
            by_data[masked.run.data][masked.run.hash8].append(masked)
    configurations = [
        configuration
        for _, groups in sorted(by_data.items())
        for configuration in _configurations(list(groups.values()))
    ]
    return Found(configurations, problems)


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


def _masked_runs(folders: Sequence[Path]) -> Iterator[MaskedRun | ValueError]:
    """The runs with masks below the folders, or why one of them is left out."""
    seen: dict[tuple[str, str, int], Path] = {}
    broken: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; name one that holds runs")
        for path in sorted(folder.glob(f"**/{FILE}")):
            if path.resolve() in broken:
                continue
            try:
                masked = read_run(path.parents[1])
            except (ValueError, OSError) as error:
                broken.add(path.resolve())
                yield ValueError(str(error))
                continue
            key = (masked.run.data, masked.run.hash8, masked.run.seed)
            first = seen.get(key)
            if first is None:
                seen[key] = path.resolve()
                yield masked
            elif first != path.resolve():  # equal where one folder lies in another
                raise ValueError(f"{first} and {path} come from the same run; name one of the two")


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
