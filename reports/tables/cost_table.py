"""What each row of the other tables costs: time, operations, memory; and on which machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd

from benchmark.files import read_json
from benchmark.type_check import misfit
from reports.results.entrants import Entrant, same_setting
from reports.tables.markup import Cell, Column, Row, Table

_COLUMNS = (
    *("Epochs", "Images/s", "Hours", "Device hours", "Device"),
    *("PFLOP", "× plain", "Memory, GB"),
)


def cost_table(entrants: Mapping[str, Entrant]) -> Table | None:
    """Cost of the pretraining of one seed, medians over seeds; None if nothing trained.

    Args:
        entrants: by hash8.
    """
    rows, lines = [], []
    for one in entrants.values():
        if math.isnan(one.seconds) or not one.flops:
            continue
        plain = _plain(one, entrants)
        machine = _machine(one)
        line = {
            "label": one.label,
            "epochs": one.settings.get("epochs"),
            "images_per_second": one.images / one.seconds if one.seconds else math.nan,
            "hours": one.seconds / 3600,
            "device_hours": one.seconds / 3600 * _processes(machine),
            "device": _told(machine, one),
            "pflop": one.flops / 1e15,
            "times_plain": one.flops / plain.flops if plain else math.nan,
            "memory_gb": one.memory / 1e9,
        }
        lines.append(line)
        runs = tuple(one.runs.values())
        cells = [
            replace(_number(value), runs=runs) for key, value in line.items() if key != "label"
        ]
        rows.append(Row(one.label, cells, "controls" if one.control else "methods"))
    if not rows:
        return None
    return Table(
        name="cost",
        title="Cost",
        caption="Cost of one pretraining, median over seeds.",
        columns=[Column(name) for name in _COLUMNS],
        rows=rows,
        notes=[
            "Device hours: hours times the k processes that shared a run (× k). PFLOP: 10^15 "
            "floating-point operations, counted from the kernels called, of both players, without "
            "the online probe. × plain: operations against the objective without masks, of the "
            "same data and setting. Memory: most at a time, of the device where it is a GPU, else "
            "of the process. A seed that was interrupted has the time of all its attempts."
        ],
        data=pd.DataFrame(lines),
    )


def _plain(one: Entrant, entrants: Mapping[str, Entrant]) -> Entrant | None:
    """The objective without masks in the setting of another one."""
    for other in entrants.values():
        if other.method == "none" and not other.control and same_setting(one, other):
            return other if other.flops else None
    return None


class _Machine(TypedDict, total=False):
    device: str
    processes: int


class _Attempt(TypedDict, total=False):
    machine: _Machine


class _Provenance(TypedDict):
    attempts: list[_Attempt]


def _machine(one: Entrant) -> _Machine:
    """Where the first seed was trained, by its provenance; empty if that is not known."""
    file = Path(next(iter(one.runs.values()))) / "provenance.json"
    try:
        found: Any = read_json(file)
    except (ValueError, OSError):  # the run's page tells what is wrong with it
        return {}
    if misfit(found, _Provenance, "it") is not None or not found["attempts"]:
        return {}
    machine: _Machine = found["attempts"][-1].get("machine", {})
    return machine


def _processes(machine: _Machine) -> float:
    """How many shared the run; NaN if the machine is not known."""
    return machine.get("processes", 1) if machine else math.nan


def _told(machine: _Machine, one: Entrant) -> str:
    device = machine.get("device", "").split(":")[0]
    threads, processes = one.settings.get("threads"), machine.get("processes", 1)
    words = [device, f"{threads} thread{'s' * (threads != 1)}" if device == "cpu" else ""]
    return ", ".join(filter(None, words)) + (f" × {processes}" if processes != 1 else "")


def _number(value: object) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        return Cell() if math.isnan(value) else Cell(text, value=float(value))
    return Cell(str(value or ""))
