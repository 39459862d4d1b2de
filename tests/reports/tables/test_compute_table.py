from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from benchmark.runs import Run
from reports.results.collect import collect
from reports.results.entrants import entrants
from reports.results.training_log import read_series
from reports.tables.compute_table import comparable, compute_table, probe_at

LINEAR = ("linear", "scenes")


def log(run: Run, points: Sequence[tuple[float, float]]) -> None:
    lines = [
        {"epoch": 0, "step": k, "flops": flops, "probe": probe, "loss": 1.0}
        for k, (flops, probe) in enumerate(points)
    ]
    (run.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


@pytest.fixture
def runs(make_run) -> list[Run]:
    """The dear method is at 20% when the cheap one is done, and ends at 50%."""
    made = []
    for method, most, end in (("none", 100.0, 30.0), ("adios", 400.0, 50.0)):
        for seed in (0, 1):
            run = make_run(method, seed, {LINEAR: 40.0}, cost={"flops": most, "seconds": 1.0})
            log(run, [(most * k / 4, seed + end * k / 4) for k in range(1, 5)])
            made.append(run)
    return made


def table(runs: Sequence[Run], configs):
    frame = collect(runs)
    return compute_table(entrants(frame, configs), read_series(frame["run"].unique())[0])


def configs_of(runs: Sequence[Run], **of_method: int):
    epochs = {"none": 2, "adios": 2} | of_method
    return {
        run.hash8: {"epochs": epochs[run.method], "batch_size": 64, "method": {"name": run.method}}
        for run in runs
    }


def test_compute_table__reads_the_probe_at_equal_operations(runs: list[Run]) -> None:
    found = table(runs, configs_of(runs))
    assert found is not None
    data = found.data.set_index("label")
    assert data.loc["SimCLR (demo)", "probe"] == pytest.approx(30.5)
    assert data.loc["SimCLR (demo)", "probe_at_equal_compute"] == pytest.approx(30.5)
    assert data.loc["+ ADIOS (demo)", "probe"] == pytest.approx(50.5)
    assert data.loc["+ ADIOS (demo)", "probe_at_equal_compute"] == pytest.approx(13.0)


def test_compute_table__tells_deviation_and_a_seed_that_was_stopped(runs: list[Run]) -> None:
    found = table(runs, configs_of(runs))
    by_label = {row.label: row.cells for row in found.rows}
    assert by_label["+ ADIOS (demo)"][2].plain == "50.50 ± 0.71"
    log(runs[3], [(100.0, 80.0), (200.0, 90.0)])
    runs[3].pretraining_file.unlink()
    found = table(runs, configs_of(runs))
    by_label = {row.label: row.cells for row in found.rows}
    assert by_label["+ ADIOS (demo)"][2].plain == "50.00 (n=1)"
    assert by_label["SimCLR (demo)"][2].plain == "30.50 ± 0.71"
    assert by_label["+ ADIOS (demo)"][3].plain == "46.25 ± 47.73"  # it had come so far
    line = found.data.set_index("label").loc["+ ADIOS (demo)"]
    assert (line["n"], line["n_at_equal_compute"]) == (1, 2)
    assert math.isnan(line["probe_std"])


def test_compute_table__says_who_is_as_dear(make_run) -> None:
    costs = {"none": 1.02e9, "random": 1.0e9, "adios": 4e9}
    made = [
        make_run(method, 0, {LINEAR: 40.0}, cost={"flops": flops, "seconds": 1.0})
        for method, flops in costs.items()
    ]
    found = table(made, {run.hash8: {"epochs": 2, "method": {"n": run.method}} for run in made})
    alike = found.data.set_index("label")["as_dear_as"]
    assert alike["SimCLR (demo)"] == "+ Random (demo)"
    assert alike["+ ADIOS (demo)"] == ""
    assert found.data["probe"].isna().all()  # nothing was logged


def test_comparable__other_settings_are_another_block(runs: list[Run]) -> None:
    frame = collect(runs)
    same = entrants(frame, configs_of(runs, none=8))  # epochs may differ
    assert [len(group) for group in comparable(same)] == [2]
    configs = configs_of(runs)
    for run in runs:
        if run.method == "none":
            configs[run.hash8]["batch_size"] = 128
    assert comparable(entrants(frame, configs)) == []


def test_compute_table__one_method_alone(runs: list[Run]) -> None:
    assert table(runs[:2], configs_of(runs)) is None


def test_probe_at__between_lines_and_beyond_the_end(runs: list[Run]) -> None:
    (series,) = read_series([str(runs[0].folder)])[0].values()
    assert probe_at(series, 100.0) == pytest.approx(30.0)
    assert probe_at(series, 62.5) == pytest.approx(np.interp(62.5, [50, 75], [15.0, 22.5]))
    assert math.isnan(probe_at(series, 101.0))
    assert math.isnan(probe_at(series | {"probe": np.full(4, math.nan)}, 50.0))


def test_read_series__broken_logs_are_named(runs: list[Run]) -> None:
    (runs[0].folder / "metrics.jsonl").write_text("{")
    found, problems = read_series(str(run.folder) for run in runs)
    assert len(found) == 3
    assert [str(runs[0].folder) in problem for problem in problems] == [True]


def test_read_series__long_logs_are_thinned_out(runs: list[Run]) -> None:
    log(runs[0], [(float(k), 1.0) for k in range(10_000)])
    (series,) = read_series([str(runs[0].folder)])[0].values()
    assert len(series["step"]) == 400
    assert (series["step"][0], series["step"][-1]) == (0, 9_999)
