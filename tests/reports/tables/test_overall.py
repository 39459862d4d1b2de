from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reports.results.collect import collect
from reports.results.entrants import entrants
from reports.tables.overall import (
    interquartile_mean,
    mean_ranks,
    overall_table,
    probability_of_improvement,
)

TASKS = [("linear", "scenes"), ("knn", "scenes"), ("transfer", "digits")]


def test_interquartile_mean__drops_the_outer_quarters() -> None:
    assert interquartile_mean(np.array([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 700.0]])) == 3.5
    values = np.random.default_rng(0).normal(size=(4, 5, 3))
    ordered = np.sort(values.ravel())
    assert interquartile_mean(values) == pytest.approx(ordered[15:45].mean())


def test_mean_ranks__ties_are_shared() -> None:
    means = np.array([[50.0, 20.0], [50.0, 30.0], [40.0, 10.0]])
    assert mean_ranks(means).tolist() == [(1.5 + 2) / 2, (1.5 + 1) / 2, 3.0]


def test_probability_of_improvement__equals_counting() -> None:
    generator = np.random.default_rng(1)
    a = generator.integers(0, 5, (3, 4)).tolist()
    b = generator.integers(0, 5, (3, 2)).tolist()
    counted = np.mean(
        [
            np.mean([(x > y) + 0.5 * (x == y) for x in ours for y in theirs])
            for ours, theirs in zip(a, b, strict=True)
        ]
    )
    assert probability_of_improvement(a, b) == pytest.approx(counted)
    assert probability_of_improvement([[2.0]], [[1.0]]) == 1.0
    assert probability_of_improvement([[1.0]], [[1.0]]) == 0.5


def test_overall_table__by_hand(make_run) -> None:
    scores = {"none": (40.0, 42.0), "adios": (50.0, 52.0), "random": (45.0, 41.0)}
    runs = [
        make_run(method, seed, {task: value + k for k, task in enumerate(TASKS)})
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    table = overall_table(collect(runs), entrants(collect(runs), {}))
    assert table is not None
    lines = table.data.set_index("label")
    assert lines["mean_rank"].to_dict() == {
        "SimCLR (demo)": 3.0,
        "+ ADIOS (demo)": 1.0,
        "+ Random (demo)": 2.0,
    }
    assert lines.loc["+ ADIOS (demo)", "probability_better_than_plain"] == 1.0
    assert lines.loc["+ Random (demo)", "probability_better_than_plain"] == 0.75
    assert math.isnan(lines.loc["SimCLR (demo)", "probability_better_than_plain"])
    # Seeds 40 41 42 and 42 43 44: the middle four of six, then each seed's own middle.
    assert lines.loc["SimCLR (demo)", "interquartile_mean"] == pytest.approx(42.0)
    half = stats.t.ppf(0.975, 1) * np.std([41.0, 43.0], ddof=1) / math.sqrt(2)
    assert lines.loc["SimCLR (demo)", "high"] == pytest.approx(42.0 + half)


def test_overall_table__tasks_that_a_method_lacks_do_not_count(make_run) -> None:
    runs = [
        make_run("none", 0, dict.fromkeys(TASKS, 40.0)),
        make_run("adios", 0, {TASKS[0]: 41.0, TASKS[1]: 41.0, TASKS[2]: None}),
        make_run("none", 0, dict.fromkeys(TASKS, 99.0), control="supervised"),
    ]
    frame = collect(runs)
    table = overall_table(frame, entrants(frame, {}))
    assert table is not None
    assert table.data["tasks"].tolist() == [2, 2]
    one = collect(runs[:1])
    assert overall_table(one, entrants(one, {})) is None
