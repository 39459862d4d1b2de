from __future__ import annotations

import pytest

from reports.results.collect import collect
from reports.results.entrants import entrants
from reports.stats import holm, seeds_needed
from reports.tables.comparisons import comparison_table

LINEAR, KNN = ("linear", "scenes"), ("knn", "scenes")


def compared(runs, configs=None):
    frame = collect(runs)
    table = comparison_table(frame, entrants(frame, configs or {}))
    return table, None if table is None else table.data


def test_comparison_table__pairs_over_shared_seeds(make_run) -> None:
    scores = {"none": (40.0, 41.0, 42.0), "adios": (50.1, 51.0, 52.2), "random": (40.5, 40.0, 43.0)}
    runs = [
        make_run(method, seed, {LINEAR: value, KNN: value})
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    table, data = compared(runs)
    assert len(data) == 2 * 3
    linear = data[data["task"] == "linear"].set_index(["a", "b"])
    first = linear.loc["+ ADIOS (demo)", "SimCLR (demo)"]
    assert first["difference"] == pytest.approx(10.1)
    assert first["n"] == 3
    assert linear["p_holm"].tolist() == pytest.approx(holm(linear["p"].tolist()))
    assert set(data["b"]) >= {"SimCLR (demo)"}
    assert "SimCLR (demo)" not in set(data["a"])
    row = next(r for r in table.rows if r.label == "+ ADIOS (demo) – SimCLR (demo)")
    assert row.cells[2].mark == "decided"
    assert row.cells[5].text == "0.250"  # as low as a sign flip of three seeds goes
    assert len(row.cells[0].runs) == 6


def test_comparison_table__needs_two_shared_seeds_of_one_data_set(make_run) -> None:
    runs = [make_run("none", 0, {LINEAR: 1.0}), make_run("adios", 0, {LINEAR: 2.0})]
    assert compared(runs)[0] is None
    runs += [make_run("none", 1, {LINEAR: 1.0}), make_run("adios", 2, {LINEAR: 2.0})]
    assert compared(runs)[0] is None
    other = [make_run("random", k, {LINEAR: 1.0}, data="digits") for k in (0, 1)]
    assert compared([*runs, *other])[0] is None


def test_comparison_table__views(make_run) -> None:
    costs = {"none": 1e12, "adios": 4e12, "random": 1.04e12}
    epochs = {"none": 8, "adios": 8, "random": 2}
    runs = [
        make_run(method, seed, {LINEAR: 40.0 + seed}, cost={"flops": flops, "seconds": 1.0})
        for method, flops in costs.items()
        for seed in (0, 1)
    ]
    configs = {run.hash8: {"epochs": epochs[run.method]} for run in runs}
    _, data = compared(runs, configs)
    views = data.set_index(["a", "b"])["view"].to_dict()
    assert views["+ ADIOS (demo)", "SimCLR (demo)"] == "equal epochs"
    assert views["+ Random (demo)", "SimCLR (demo)"] == "equal compute"
    pair = next(v for k, v in views.items() if "SimCLR (demo)" not in k)
    assert pair == ""


def test_comparison_table__controls_take_no_part(make_run) -> None:
    runs = [make_run("none", k, {LINEAR: 1.0 + k}) for k in (0, 1)]
    runs += [make_run("none", k, {LINEAR: 9.0}, control="supervised") for k in (0, 1)]
    assert compared(runs)[0] is None


def test_comparison_table__many_pairs_lose_no_evaluation(make_run) -> None:
    values = (1.0, 2.5)
    names = [f"m{k:02d}" for k in range(20)]
    runs = [
        make_run(
            "none" if name == "m19" else "adios", seed, {LINEAR: v + k, KNN: v * k}, hash8=name
        )
        for k, name in enumerate(names)
        for seed, v in enumerate(values)
    ]
    table, data = compared(runs)
    assert len(data) == len(table.rows) == 300
    assert data.groupby("task").size().tolist() == [150, 150]
    assert (data["b"] == "SimCLR (demo)").sum() == 2 * 19
    assert "150 of 190 pairs of methods, those with the plain objective first" in table.notes[0]
    linear = data[data["task"] == "linear"]
    assert linear["p_holm"].tolist() == pytest.approx(holm(linear["p"].tolist()))


def test_comparison_table__seeds_after_the_correction(make_run) -> None:
    scores = {"none": (40.0, 41.0, 42.0), "adios": (40.1, 42.0, 42.2), "random": (40.5, 40.0, 43.0)}
    runs = [
        make_run(method, seed, {LINEAR: value})
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    _, data = compared(runs)
    first = data.iloc[0]
    assert first["seeds_needed"] == seeds_needed(first["effect"], 0.05 / 3)
    assert first["seeds_needed"] > seeds_needed(first["effect"])
