"""Runs that left masks: found below folders, grouped by configuration, named by what differs."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.runs import Run
from reports.results.labels import Config, differences, row_labels
from reports.results.masked_run import FILE, MaskedRun, read_run


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


def of_runs(
    folders: Mapping[Path, str],
    labels: Mapping[str, str],
    known: Mapping[Path, tuple[Run, Config]] | None = None,
) -> Found:
    """The configurations with masks among runs, in their order.

    Args:
        folders: of the runs, with the hash8 of each.
        labels: by hash8.
        known: runs and their configurations by folder, as far as they have been read.
    """
    groups: dict[str, list[MaskedRun]] = defaultdict(list)
    problems = []
    for folder, hash8 in folders.items():
        if (folder / FILE).exists():
            try:
                masked = read_run(folder, (known or {}).get(folder))
            except (ValueError, OSError) as error:
                problems.append(str(error))
            else:
                groups[hash8].append(masked)
    configurations = [
        Configuration(labels[h], tuple(sorted(group, key=lambda masked: masked.run.seed)))
        for h, group in groups.items()
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
        for first, differs in zip(alike, differences([a.config for a in alike]), strict=True):
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
