"""What the figures draw, read back from their axes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.mask_metrics import slot_overlap
from reports.figures.score_plots import pareto_front, plot_compute, plot_points
from reports.figures.style import save
from reports.figures.training_plots import plot_curves, plot_overlap
from reports.results.collect import collect
from reports.results.entrants import entrants
from reports.results.training_log import read_series
from reports.stats import t_interval

LINEAR = ("linear", "scenes")


def test_plot_points__every_seed_and_the_interval(make_run) -> None:
    scores = (40.0, 41.0, 45.0)
    runs = [make_run("adios", k, {LINEAR: score}) for k, score in enumerate(scores)]
    runs.append(make_run("none", 0, {LINEAR: 30.0}, control="untrained"))
    figure = plot_points(collect(runs))
    (axes,) = figure.axes
    bars, means, points = axes.collections
    low, high = t_interval(scores)
    assert np.allclose(bars.get_segments(), [[[low, 0], [high, 0]]])  # a lone seed has none
    assert means.get_offsets().tolist() == [[42.0, 0], [30.0, 1]]  # the control comes last
    assert points.get_offsets().tolist() == [[40.0, 0], [41.0, 0], [45.0, 0], [30.0, 1]]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "+ ADIOS (demo)",
        "Untrained (demo)",
    ]
    # Three seeds have an interval far wider than themselves, which does not squeeze the points.
    assert axes.get_xlim()[1] - axes.get_xlim()[0] < 1.6 * 15


def test_pareto_front__by_hand() -> None:
    points = [(1.0, 50.0), (2.0, 49.0), (2.0, 55.0), (3.0, 55.0), (4.0, 60.0)]
    assert pareto_front(points) == [(1.0, 50.0), (2.0, 55.0), (4.0, 60.0)]
    assert pareto_front([]) == []


def test_plot_compute__a_point_per_seed_and_method(make_run) -> None:
    runs = [
        make_run(method, k, {LINEAR: 40.0 + k}, cost={"flops": flops, "seconds": 1.0})
        for method, flops in (("none", 2e15), ("adios", 8e15))
        for k in (0, 1)
    ]
    frame = collect(runs)
    figure = plot_compute(frame, entrants(frame, {}))
    assert figure is not None
    axes = figure.axes[0]
    assert axes.get_xlabel() == "operations, PFLOP"
    points = np.concatenate([c.get_offsets() for c in axes.collections]).tolist()
    assert sorted(points) == [
        [2.0, 40.0], [2.0, 40.5], [2.0, 41.0], [8.0, 40.0], [8.0, 40.5], [8.0, 41.0],
    ]  # fmt: skip
    free = [make_run("none", 0, {LINEAR: 1.0}, hash8="free")]
    assert plot_compute(collect(free), entrants(collect(free), {})) is None


def test_plot_curves__mean_and_band_over_seeds(make_run) -> None:
    runs = [make_run("adios", k, {LINEAR: 40.0}) for k in (0, 1)]
    for run in runs:
        lines = [{"epoch": 0, "step": s, "loss": 5.0 + run.seed, "probe": 10.0 * s} for s in (0, 9)]
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    frame = collect(runs)
    figure = plot_curves(entrants(frame, {}), read_series(frame["run"].unique())[0])
    assert figure is not None
    probe, loss = figure.axes[:2]
    assert np.allclose(loss.lines[0].get_ydata(), 5.5)
    band = loss.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (5.0, 6.0)
    assert probe.lines[0].get_ydata()[-1] == pytest.approx(90.0)
    assert plot_curves(entrants(frame, {}), {}) is None


def test_plot_curves__a_seed_that_was_stopped_is_a_thin_line(make_run) -> None:
    for k, most in enumerate((20, 20, 3)):
        run = make_run("none", k, {LINEAR: None if most == 3 else 1.0})
        steps = [{"epoch": 0, "step": s, "probe": 10.0 * k, "loss": 1.0} for s in range(most)]
        (run.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)) + "\n")
        runs = [*(runs if k else []), run]
    frame = collect(runs)
    figure = plot_curves(entrants(frame, {}), read_series(frame["run"].unique())[0])
    assert figure is not None
    mean, thin = figure.axes[0].lines
    assert (mean.get_xdata()[-1], mean.get_ydata()[-1]) == (19, 5.0)
    assert (thin.get_xdata()[-1], thin.get_ydata()[-1]) == (2, 20.0)
    assert thin.get_linewidth() < mean.get_linewidth()


def test_slot_overlap__by_hand() -> None:
    masks = np.zeros((2, 3, 2, 2), np.uint8)
    masks[:, 0, 0] = 255
    masks[:, 1, 1] = 255
    masks[0, 2] = 255  # of one image alone
    found = slot_overlap(masks)
    half = np.sqrt(0.5)
    assert np.allclose(found, [[1, 0, half], [0, 1, half], [half, half, 1]])
    assert len(plot_overlap({"a": found, "b": found}).axes) == 3  # and the colour bar


def test_save__png_and_pdf_have_the_same_bytes_twice(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        save(plot_overlap({"one": np.eye(2)}), tmp_path / f"{name}.png")
        written.append([(tmp_path / f"{name}.{kind}").read_bytes() for kind in ("png", "pdf")])
    assert written[0] == written[1]
    assert written[0][1].startswith(b"%PDF")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 200


def test_save__no_label_leaves_the_picture(make_run, tmp_path: Path) -> None:
    task = {(task, "scenes"): 40.0 for task in ("linear", "finetune", "knn", "low_shot")}
    runs = [make_run("superpixel_budget", k, task) for k in (0, 1)]
    save(plot_points(collect(runs)), tmp_path / "points.png")
    pixels = np.asarray(Image.open(tmp_path / "points.png").convert("L"))
    assert pixels[:, 0].min() == 255
    assert pixels[:, :30].min() < 100  # where the labels begin
