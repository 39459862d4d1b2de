from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from benchmark.files import sha256_of
from benchmark.runs import Run
from reports.results.collect import collect
from reports.results.images import images_checked
from reports.tables.noise_table import noise_table, over_images, resamples

IMAGES = 400


def with_images(run: Run, right: np.ndarray) -> None:
    """Let the only result of a run come from images."""
    (task,) = run.tasks
    file = task.result.with_suffix(".npz")
    np.savez(file, predicted=right.astype(np.int32), truth=np.ones(len(right), np.int32))
    content = json.loads(task.result.read_text())
    content["metrics"] = {"accuracy": 100 * float(right.mean())}
    content["per_image"] = {"file": file.name, "sha256": sha256_of(file)}
    task.result.write_text(json.dumps(content))


def runs_with_images(make_run, seeds: int = 2) -> tuple[list[Run], np.ndarray]:
    right = np.random.default_rng(0).uniform(size=(seeds, IMAGES)) < 0.7
    runs = [make_run("none", k, {("linear", "scenes"): 50.0}) for k in range(seeds)]
    for run, own in zip(runs, right, strict=True):
        with_images(run, own)
    return runs, right


def test_noise_table__test_images_as_scipy_has_it(make_run) -> None:
    runs, right = runs_with_images(make_run)
    table = noise_table(collect(runs))
    found = table.data["images"][0]
    by_image = 100 * right.mean(0)
    bootstrap = stats.bootstrap((by_image,), np.mean, n_resamples=2_000, rng=0)
    assert found == pytest.approx(bootstrap.standard_error, rel=0.08)
    assert found == pytest.approx(stats.sem(by_image), rel=0.08)
    assert table.data["seeds"][0] == pytest.approx(100 * np.std(right.mean(1), ddof=1))
    assert math.isnan(table.data["probe"][0])


def test_resamples__draw_as_many_images_every_time() -> None:
    weights = resamples(IMAGES)
    assert (weights.sum(1) == IMAGES).all()
    assert weights.mean() == 1.0
    assert np.array_equal(weights, resamples(IMAGES))
    assert len(resamples(150_000)) == 133  # fewer, so that they fit in memory


def test_over_images__weights_are_shared_by_runs() -> None:
    arrays = {"score": np.array([0.0, 1.0, 1.0])}
    assert over_images([arrays, arrays], np.array([[1.0, 1, 1], [3, 0, 0]])).tolist() == [
        pytest.approx(200 / 3),
        0.0,
    ]


def test_images_checked__a_contradicted_result_is_in_no_mean(make_run) -> None:
    runs, right = runs_with_images(make_run, seeds=3)
    whole = collect(runs)
    assert images_checked(whole) is whole
    result = runs[0].tasks[0].result
    content = json.loads(result.read_text())
    content["metrics"]["accuracy"] = 99.0
    result.write_text(json.dumps(content))
    runs[1].tasks[0].result.with_suffix(".npz").write_bytes(b"no zip")
    checked = images_checked(collect(runs))
    bad = checked[checked["status"] == "invalid"]
    assert list(bad["path"]) == [str(run.tasks[0].result) for run in runs[:2]]
    assert bad["value"].isna().all()
    assert "99" in bad["problem"].iloc[0]
    assert "seed0.npz" in bad["problem"].iloc[1]
    assert checked[checked["main"]]["value"].dropna().tolist() == [100 * right[2].mean()]


def test_images_checked__another_number_of_images(make_run) -> None:
    runs, _ = runs_with_images(make_run, seeds=3)
    with_images(runs[1], np.ones(7, bool))
    checked = images_checked(collect(runs))
    (problem,) = checked["problem"].dropna()
    assert "is of 7 images where others of its evaluation are of 400" in problem
    assert noise_table(checked) is not None


def test_noise_table__probe_and_pretraining_apart(make_run) -> None:
    runs = [
        make_run("none", 0, {("linear", "scenes"): [40.0, 42.0]}),
        make_run("none", 1, {("linear", "scenes"): [50.0, 52.0]}),
    ]
    table = noise_table(collect(runs))
    assert table.data["probe"][0] == pytest.approx(math.sqrt(2))
    assert table.data["pretraining"][0] == pytest.approx(7.0)  # (2 x 50 - 2) / 2, its root


def test_noise_table__nothing_to_tell(make_run, tmp_path) -> None:
    assert noise_table(collect([make_run("none", 0, {("linear", "scenes"): 40.0})])) is None
