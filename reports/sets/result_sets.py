"""One side of a comparison of result sets: its results, and where they come from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pandas as pd

from benchmark.files import read_json
from benchmark.runs import Run
from benchmark.type_check import misfit
from reports.results.collect import collect
from reports.results.commits import commits
from reports.results.entrants import Entrant, entrants
from reports.results.evaluations import Evaluation
from reports.results.found import find
from reports.results.labels import Config
from reports.results.outcomes import Outcome, outcomes
from reports.sets.merging import import_archive


class _Versions(TypedDict, total=False):
    torch: str


class _Machine(TypedDict, total=False):
    host: str
    system: str
    device: str


class _Attempt(TypedDict, total=False):
    """What is read of provenance.json for each attempt."""

    versions: _Versions
    machine: _Machine


@dataclass(frozen=True)
class ResultSet:
    """Results of one lab, machine or commit.

    Attributes:
        place: folder or archive that they are read from.
        frame: see `reports.results.collect.collect`.
        configs: resolved configurations by hash8.
        entrants: configurations by hash8, in the order of tables.
        cells: what seeds reached by hash8, then by evaluation.
        origins: of the runs: commits, versions and machines, each with all that occur.
        left_out: a sentence for each folder and file that is in no table.
    """

    place: Path
    frame: pd.DataFrame
    configs: Mapping[str, Config]
    entrants: Mapping[str, Entrant]
    cells: Mapping[str, Mapping[Evaluation, Outcome]]
    origins: Mapping[str, Sequence[str]]
    left_out: Sequence[str]


def read_set(place: Path) -> ResultSet:
    """Read a result set.

    Args:
        place: a folder with runs, or an archive of `reports.archive`, which is unpacked into a
            temporary folder.

    Raises:
        UserError: if it is neither, or holds no run.
    """
    if not place.is_file():
        return _read(place, place)
    with tempfile.TemporaryDirectory() as folder:
        imported = import_archive(place, Path(folder))
        return _read(Path(folder), place, imported.conflicts)


def _read(folder: Path, place: Path, left_out: Sequence[str] = ()) -> ResultSet:
    found = find([folder])
    frame = collect(found.runs, found.configs)
    cells: dict[str, dict[Evaluation, Outcome]] = {}
    for (hash8, evaluation), outcome in outcomes(frame, "hash8").items():
        cells.setdefault(hash8, {})[evaluation] = outcome
    invalid = frame.loc[frame["status"] == "invalid", "problem"]
    left_out = [*left_out, *found.left_out, *dict.fromkeys(invalid)]
    return ResultSet(
        place,
        frame,
        found.configs,
        entrants(frame, found.configs),
        cells,
        {"Commits": commits(frame, length=10), **_surroundings(found.runs)},
        [sentence.replace(str(folder), str(place)) for sentence in left_out],
    )


def _surroundings(runs: Iterable[Run]) -> dict[str, list[str]]:
    """Versions and machines of the last attempt of each run, as far as that is known."""
    last = [attempt for run in runs if (attempt := _last_attempt(run.folder)) is not None]
    machines = [attempt.get("machine", {}) for attempt in last]
    told = {
        "PyTorch": [attempt.get("versions", {}).get("torch") for attempt in last],
        "Hosts": [machine.get("host") for machine in machines],
        "Systems": [machine.get("system") for machine in machines],
        "Devices": [machine.get("device") for machine in machines],
    }
    return {key: sorted({value for value in values if value}) for key, values in told.items()}


def _last_attempt(folder: Path) -> _Attempt | None:
    try:
        attempts = read_json(folder / "provenance.json").get("attempts")
    except (ValueError, OSError):
        return None
    if not attempts or misfit(attempts, list[_Attempt], "it") is not None:
        return None
    last: _Attempt = attempts[-1]
    return last
