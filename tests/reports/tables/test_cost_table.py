from __future__ import annotations

import json
import math

import pytest

from reports.results.collect import collect
from reports.results.entrants import entrants
from reports.tables.cost_table import cost_table
from reports.tables.markup import Table

LINEAR = ("linear", "scenes")
COST = {"flops": 2e15, "seconds": 7200.0, "images": 9e6, "memory": 3e9}


def made(runs, **configs) -> Table | None:
    return cost_table(entrants(collect(runs), configs))


def rows(table: Table | None) -> dict[str, list[str]]:
    assert table is not None
    return {row.label: [cell.plain for cell in row.cells] for row in table.rows}


def machine(run, *attempts: object) -> None:
    content = json.dumps({"attempts": [{"machine": one} for one in attempts]})
    (run.folder / "provenance.json").write_text(content)


def test_cost_table__medians_and_times_the_plain_objective(make_run) -> None:
    runs = [
        make_run("none", seed, {LINEAR: 40.0}, hash8="h", cost=COST | {"seconds": seconds})
        for seed, seconds in enumerate((3600.0, 7200.0, 36000.0))
    ]
    runs.append(make_run("adios", 0, {LINEAR: 40.0}, cost=COST | {"flops": 5e15}))
    machine(runs[0], {"device": "cpu"}, {"device": "cuda: A100"})
    table = made(runs, h={"epochs": 1000})
    assert table is not None
    assert [column.heading for column in table.columns] == [
        "Epochs", "Images/s", "Hours", "Device hours", "Device", "PFLOP", "× plain", "Memory, GB"
    ]  # fmt: skip
    # Nine million images in two hours: 1250 a second.
    assert rows(table) == {
        "SimCLR (demo)": ["1,000", "1,250", "2", "2", "cuda", "2", "1", "3"],
        "+ ADIOS (demo)": ["–", "1,250", "2", "–", "–", "5", "2.5", "3"],
    }
    assert list(table.frame()["times_plain"]) == [1.0, 2.5]
    assert table.rows[0].cells[0].runs == tuple(str(run.folder) for run in runs[:3])


def test_cost_table__no_plain_objective_of_the_setting(make_run) -> None:
    runs = [
        make_run("none", 0, {LINEAR: 40.0}, cost=COST, setting="other"),
        make_run("none", 0, {LINEAR: 40.0}, cost=COST, control="supervised", setting="mine"),
        make_run("adios", 0, {LINEAR: 40.0}, cost=COST, setting="mine"),
    ]
    table = made(runs)
    assert rows(table)["+ ADIOS (demo)"][6] == "–"
    assert table is not None
    assert [row.block for row in table.rows] == ["methods", "methods", "controls"]


def test_cost_table__several_processes_and_threads(make_run) -> None:
    run = make_run("none", 0, {LINEAR: 40.0}, hash8="h", cost=COST)
    machine(run, {"device": "cpu", "processes": 4})
    table = made([run], h={"threads": 2})
    assert rows(table)["SimCLR (demo)"][2:5] == ["2", "8", "cpu, 2 threads × 4"]
    assert list(table.frame()["device_hours"]) == [8.0]


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"attempts": 3}', '{"attempts": [3]}', '{"attempts": []}',
                '{"attempts": [{"machine": [1]}]}', '{"attempts": [{"machine": {"device": 3}}]}']
)  # fmt: skip
def test_cost_table__provenance_that_is_none(make_run, content: str) -> None:
    run = make_run("none", 0, {LINEAR: 40.0}, cost=COST)
    (run.folder / "provenance.json").write_text(content)
    assert rows(made([run]))["SimCLR (demo)"][4] == "–"


def test_cost_table__what_did_not_train_has_no_row(make_run) -> None:
    untrained = make_run("none", 0, {LINEAR: 40.0}, cost=COST | {"flops": 0.0}, control="untrained")
    unknown = make_run("adios", 0, {LINEAR: 40.0})
    assert made([untrained, unknown]) is None


def test_entrants__seeds_and_medians(make_run) -> None:
    runs = [
        make_run("none", seed, {LINEAR: 40.0}, hash8="h", cost=COST | {"memory": memory})
        for seed, memory in ((1, 5e9), (0, 1e9))
    ]
    runs.append(make_run("none", 2, {LINEAR: None}, hash8="h"))
    configs = {"h": {"method": {"budget": 0.1}, "epochs": 5}, "other": {}}
    (one,) = entrants(collect(runs), configs).values()
    assert (one.label, one.method, one.control) == ("SimCLR (demo)", "none", None)
    assert one.runs == {run.seed: str(run.folder) for run in runs}
    assert one.settings == {"method.budget": 0.1, "epochs": 5}
    assert one.memory == 3e9


def test_entrants__nothing_known(make_run) -> None:
    frame = collect([make_run("none", 0, {LINEAR: None}, control="supervised")])
    (one,) = entrants(frame, {}).values()
    assert one.settings == {}
    assert one.control == "supervised"
    assert math.isnan(one.flops)
