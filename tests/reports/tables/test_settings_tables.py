from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.results.collect import collect
from reports.results.entrants import entrants
from reports.tables.markup import Table
from reports.tables.settings_tables import settings_tables

LINEAR = ("linear", "scenes")


def made(runs, configs: Mapping[str, Any]) -> dict[str, Table]:
    return {table.name: table for table in settings_tables(entrants(collect(runs), configs))}


def rows(table: Table) -> dict[str, list[str]]:
    return {row.label: [cell.plain for cell in row.cells] for row in table.rows}


def test_settings_tables__several_values_where_runs_differ(make_run) -> None:
    runs = [make_run("adios", 0, {LINEAR: 1.0}, hash8=h) for h in "ab"]
    runs.append(make_run("none", 0, {LINEAR: 1.0}, hash8="c", objective="byol"))
    runs.append(make_run("none", 0, {LINEAR: 1.0}, hash8="d", control="supervised"))
    shared = {"encoder_optimiser": {"name": "adam", "lr": 0.002}, "batch_size": 64}
    adios = {"_target_": "A", "net": {"width": 8}}
    configs = {
        "a": shared | {"epochs": 5, "method": adios | {"budget": 0.1}},
        "b": shared | {"epochs": 10, "method": adios | {"budget": 0.2}},
        "c": shared | {"epochs": 5, "method": {"_target_": "N"}},
        "d": shared | {"epochs": 999, "method": {"budget": 999}},
    }
    found = made(runs, configs)
    three, four = found["table3"], found["table4"]
    assert [c.heading for c in three.columns] == ["scenes, demo, simclr", "scenes, demo, byol"]
    assert rows(three) == {
        "Optimizer": ["adam", "adam"],
        "Epochs": ["5, 10", "5"],
        "Batch size": ["64", "64"],
        "Encoder learning rate": ["0.002", "0.002"],
    }
    assert [column.heading for column in four.columns] == ["ADIOS", "None"]
    assert rows(four) == {"net.width": ["8", "–"], "budget": ["0.1, 0.2", "–"]}


def test_settings_tables__too_many_values_are_counted(make_run) -> None:
    hashes = [f"h{k}" for k in range(9)]
    runs = [make_run("adios", 0, {LINEAR: 1.0}, hash8=h) for h in hashes]
    configs = {h: {"method": {"budget": k}, "epochs": 5} for k, h in enumerate(hashes)}
    assert rows(made(runs, configs)["table4"]) == {"budget": ["9 values"]}


def test_settings_tables__nothing_known(make_run) -> None:
    runs = [make_run("none", 0, {LINEAR: 1.0}, hash8="a")]
    assert made(runs, {}) == {}
    assert list(made(runs, {"a": {"epochs": 5, "method": {"_target_": "N"}}})) == ["table3"]
