"""What takes part in a comparison: a configuration with all of its seeds, a row of tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.results.labels import Config, flattened

EQUAL = 0.05  # share by which operations that count as equal may differ


@dataclass(frozen=True)
class Entrant:
    """A configuration.

    Attributes:
        label: of its row.
        setting: hash of everything but method, objective and seed.
        control: see `benchmark.runs.Run`.
        runs: folders by seed of pretraining.
        trained: the folders of those that have ended.
        settings: resolved, by dotted key; empty where they are not known.
        flops, seconds, images, memory: of the pretraining, medians over seeds; NaN if not known.
    """

    label: str
    hash8: str
    method: str
    objective: str
    encoder: str
    preset: str
    data: str
    setting: str
    control: str | None
    runs: Mapping[int, str]
    trained: frozenset[str]
    settings: Mapping[str, Any]
    flops: float
    seconds: float
    images: float
    memory: float


def as_dear(a: Entrant, b: Entrant) -> bool:
    """Whether two entrants had as many operations, up to ``EQUAL``; not if these are not known."""
    return abs(a.flops - b.flops) <= EQUAL * max(a.flops, b.flops)


def same_setting(a: Entrant, b: Entrant) -> bool:
    """Whether two entrants share everything but the masking method."""
    return (a.data, a.setting, a.objective) == (b.data, b.setting, b.objective)


def entrants(frame: pd.DataFrame, configs: Mapping[str, Config]) -> dict[str, Entrant]:
    """The configurations of a frame by hash8, in its order.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        configs: resolved configurations by hash8.
    """
    runs = frame.drop_duplicates("run")
    found = {}
    for hash8, seeds in runs.groupby("hash8", sort=False):
        first = seeds.iloc[0]
        names = {key: str(first[key]) for key in _NAMES}
        costs = {cost: float(seeds[column].median()) for cost, column in _COSTS.items()}
        found[str(hash8)] = Entrant(
            **names,  # type: ignore[arg-type]
            **costs,  # type: ignore[arg-type]
            control=None if pd.isna(first["control"]) else str(first["control"]),
            runs={
                int(seed): str(run) for seed, run in zip(seeds["seed"], seeds["run"], strict=True)
            },
            trained=frozenset(map(str, seeds.loc[seeds["trained"], "run"])),
            settings=flattened(configs.get(str(hash8), {})),
        )
    return found


_NAMES = ("label", "hash8", "method", "objective", "encoder", "preset", "data", "setting")
_COSTS = {"flops": "flops", "seconds": "train_seconds", "images": "images", "memory": "memory"}
