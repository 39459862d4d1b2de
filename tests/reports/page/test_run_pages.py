from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from reports.page.run_pages import run_pages, without_broken
from reports.results.collect import collect

LINEAR, KNN = ("linear", "scenes"), ("knn", "scenes")


def page_of(run):
    (page,) = run_pages(collect([run]), [run])
    return page


def test_run_pages__state_scores_and_provenance(make_run) -> None:
    run = make_run("adios", 1, {LINEAR: 40.0, KNN: None})
    (run.folder / "provenance.json").write_text(json.dumps({"attempts": [{"commit": "abc"}]}))
    (run.folder / "encoder.safetensors").write_bytes(b"")
    page = page_of(run)
    assert (page.label, page.seed, page.hash8) == ("+ ADIOS (demo)", 1, run.hash8)
    assert page.folder == str(run.folder)
    assert page.scores == [
        "linear on scenes, evaluation seed 0: accuracy 40.00",
        "knn on scenes, evaluation seed 0: not run",
    ]
    assert page.provenance == {"attempts": [{"commit": "abc"}]}
    assert page.log == ""
    assert page.snapshots == []


def test_run_pages__the_error_comes_before_the_log(make_run) -> None:
    run = make_run("adios", 0, {LINEAR: None}, failed=True)
    lines = [f'{{"step": {k}}}' for k in range(100)]
    (run.folder / "metrics.jsonl").write_text("\n".join(lines))
    page = page_of(run)
    assert page.state.startswith("failed")
    assert page.log == "Traceback"
    run.error_file.unlink()
    assert page_of(run).log.splitlines() == lines[-25:]


def test_run_pages__long_lines_and_bytes_that_are_no_text(make_run) -> None:
    run = make_run("adios", 0, {LINEAR: 40.0})
    (run.folder / "metrics.jsonl").write_bytes(b"x" * 100_000 + b"\xff\n")
    assert len(page_of(run).log) <= 4096


def test_run_pages__shows_no_file_from_outside_the_runs(make_run, tmp_path: Path) -> None:
    run = make_run("adios", 0, {LINEAR: 40.0})
    secret = tmp_path / "secret.txt"
    secret.write_text("password")
    noted = {"run": {"job": "7", "log": str(secret)}}
    (run.folder / "jobs.json").write_text(json.dumps(noted))
    assert "password" not in page_of(run).log
    inside = run.folder.parents[2] / "logs" / "7.log"
    inside.parent.mkdir()
    inside.write_text("epoch 1")
    noted["run"]["log"] = str(inside)
    (run.folder / "jobs.json").write_text(json.dumps(noted))
    assert page_of(run).log == "epoch 1"
    (run.folder / "metrics.jsonl").symlink_to(secret)
    (run.folder / "jobs.json").unlink()
    assert "password" not in page_of(run).log


def test_run_pages__broken_provenance_is_told(make_run) -> None:
    run = make_run("adios", 0, {LINEAR: 40.0})
    (run.folder / "provenance.json").write_text("[")
    assert "is broken" in page_of(run).provenance["not readable"]


def test_run_pages__broken_snapshots_are_dropped_and_named(make_run) -> None:
    run = make_run("adios", 0, {LINEAR: 40.0})
    steps = run.folder / "masks" / "steps"
    steps.mkdir(parents=True)
    pixels = np.zeros((2, 3, 4, 4), np.uint8)
    whole = {"images": pixels, "masks": pixels[:, :2], "step": 3, "epoch": 0.5}
    np.savez(steps / "step00000003.npz", **whole)
    (steps / "step00000005.npz").write_bytes(b"no zip")
    pages = run_pages(collect([run]), [run])
    assert len(pages[0].snapshots) == 2
    (page,), problems = without_broken(pages)
    assert [file.name for file in page.snapshots] == ["step00000003.npz"]
    assert ["step00000005.npz" in problem for problem in problems] == [True]
