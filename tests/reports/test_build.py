"""The whole report from made-up runs: files, sentences, what is left out, mistakes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.runs import Run
from reports.build import main
from reports.results.collect import collect

ROOT = Path(__file__).parents[2]
LINEAR, KNN = ("linear", "scenes"), ("knn", "scenes")
SCORES = {"none": (40.0, 41.0, 42.5), "adios": (50.0, 51.0, 52.5), "sequential": (49.9, 51.2, 52.0)}


@pytest.fixture
def runs(make_run) -> list[Run]:
    """Three methods that differ, one of them with another budget too, and a floor."""
    made = []
    for method, scores in SCORES.items():
        for seed, score in enumerate(scores):
            config = {"epochs": 2, "batch_size": 64, "method": {"budget": 0.25, "name": method}}
            flops = 1e12 if method == "none" else 4e12
            given = {"config": config, "cost": {"flops": flops, "seconds": 10.0, "images": 1e4}}
            made.append(make_run(method, seed, {LINEAR: score, KNN: score / 2}, **given))
            if method == "sequential":
                config = config | {"method": {"budget": 0.4, "name": method}}
                given |= {"config": config, "hash8": "wide"}
                made.append(make_run(method, seed, {LINEAR: score - 3, KNN: None}, **given))
    for seed in range(3):
        made.append(make_run("none", seed, {LINEAR: 20.0, KNN: 27.0}, control="untrained"))
    for run in made:
        lines = [
            {"epoch": k // 5, "step": k, "loss": 5 - k / 5, "probe": 4.0 * k, "flops": k * 1e11}
            for k in range(10)
        ]
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return made


def built(tmp_path: Path, *more: str, status: int = 0) -> Path:
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--out", str(out), *more]) == status
    return out


def test_build__files_bytes_and_sentences(runs: Sequence[Run], tmp_path: Path, capsys) -> None:
    out = built(tmp_path)
    names = {path.name for path in out.iterdir()}
    tables = {"table1", "table3", "table4", "claims", "comparisons", "noise", "cost", "compute"}
    tables |= {"overall", "ablation_method_budget"}
    expected = {f"{table}.{suffix}" for table in tables for suffix in ("md", "tex", "csv")}
    assert names == expected | {"report.html", "report.md", "files.json", "figures"}
    figures = {path.name for path in (out / "figures").iterdir()}
    drawn = {"points", "training", "compute", "ablation_method_budget"}
    assert figures == {f"{name}.{suffix}" for name in drawn for suffix in ("png", "pdf")}
    printed = capsys.readouterr().out
    assert (out / "table1.md").read_text() in printed
    assert f"of which to read {out / 'report.html'}" in printed
    first = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    built(tmp_path)
    assert first == {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    page, document = ((out / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert (out / "table1.md").read_text() in document
    assert all((out / link).exists() for link in re.findall(r"\]\((figures/.*?)\)", document))
    assert len(re.findall(r"^!\[", document, re.M)) == 4
    for sentence in (
        "4 configurations and 1 control in 15 runs, pretrained on scenes: 27 of 30 results are "
        "there (3 missing).",
        "Linear on scenes: best is + ADIOS (demo) with 51.17 ± 1.26; of the 3 others "
        "SimCLR (demo), + Sequential (demo) [budget=0.4] are significantly worse.",
        "In kNN on scenes no method is above the untrained encoder",
        "+ ADIOS (demo) 4.0",
    ):
        assert sentence.replace("+", "&#43;") in page or sentence in page, sentence
        assert sentence in document


@pytest.mark.parametrize("alone", [False, True])
def test_build__an_ablation_preset_is_in_no_table_of_scores(
    make_run, tmp_path: Path, alone: bool
) -> None:
    low_shot = {("low_shot", "scenes"): {"accuracy_10pct": 40.0, "accuracy_1pct": 20.0}}
    for preset in ["paper_literal"] if alone else ["paper_literal", "paper"]:
        for budget in (0.1, 0.2):
            config = {"epochs": 2, "method": {"budget": budget, "name": "sequential"}}
            hash8 = f"{preset}{budget}"
            make_run("sequential", 0, low_shot, preset=preset, hash8=hash8, config=config)
    out = built(tmp_path)
    tables = ("table1", "low_shot")
    texts = [(out / f"{name}.csv").read_text() for name in tables if not alone]
    assert all("(paper)" in text and "paper_literal" not in text for text in texts)
    assert not alone or not any((out / f"{name}.csv").exists() for name in tables)
    lines = pd.read_csv(out / "ablation_method_budget.csv")
    presets = lines["label"].str.extract(r"\((\w+)\)")[0].groupby(lines["block"]).unique()
    found = [[str(preset) for preset in own] for own in presets]
    assert sorted(found) == [["paper"]] * (not alone) + [["paper_literal"]]
    told = "its scores are in figures, and in tables of ablations alone."
    assert f"preset=paper_literal is an ablation: {told}" in (out / "report.md").read_text()


def test_build__what_an_earlier_report_wrote_goes(runs: Sequence[Run], tmp_path: Path) -> None:
    out = built(tmp_path, "--tables")
    assert not (out / "figures").exists()
    (out / "mine.txt").write_text("keep")
    shutil.rmtree(tmp_path / "runs" / "scenes" / "sequential-wide")
    built(tmp_path, "--tables")
    assert not (out / "ablation_method_budget.md").exists()
    assert (out / "mine.txt").read_text() == "keep"


def test_build__a_list_of_files_that_lies_removes_nothing(
    runs: Sequence[Run], tmp_path: Path
) -> None:
    out = built(tmp_path, "--tables")
    victim = tmp_path / "victim.txt"
    victim.write_text("keep")
    (out / "files.json").write_text(json.dumps({"files": ["../victim.txt", str(victim), 7]}))
    built(tmp_path, "--tables")
    assert victim.exists()


def test_build__left_out_and_exit_status(runs: Sequence[Run], tmp_path: Path, capsys) -> None:
    bad = runs[0].tasks[0].result
    bad.write_text(bad.read_text().replace("40.0", "NaN"))
    shutil.copytree(runs[3].folder, tmp_path / "runs" / "copy" / "seed0")
    out = built(tmp_path, "--tables", status=1)
    said = capsys.readouterr().err
    assert f"left out: {bad} is broken" in said
    assert f"left out: {tmp_path / 'runs' / 'copy' / 'seed0'} is no folder of" in said
    table = pd.read_csv(out / "table1.csv").set_index(["label", "task"])
    assert table.loc[("SimCLR (demo)", "linear"), "n"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing", "--out", "out"], "missing does not exist; give the runs_dir"),
        (["empty", "--out", "out"], "empty holds no run (seed<k>/plan.json)"),
        (["runs", "--out", "file"], "file"),
    ],
)
def test_build__mistakes(
    runs: Sequence[Run], tmp_path: Path, capsys, monkeypatch, arguments, says
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_build__as_a_command_without_torch(runs: Sequence[Run], tmp_path: Path) -> None:
    code = (
        "import sys; from reports.build import main; status = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    line = [sys.executable, "-c", code, "runs", "--out", "out", "--tables"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run(
        [sys.executable, str(ROOT / "reports" / "build.py"), "nowhere", "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: nowhere does not exist")


def test_notebook__one_tidy_frame_with_settings(runs: Sequence[Run], tmp_path: Path) -> None:
    import reports

    frame = reports.load(tmp_path / "runs")
    main_rows = frame[frame["main"]]
    assert len(main_rows) == len(collect(runs)[lambda f: f["main"]]) == 30
    assert set(frame["epochs"].dropna()) == {2}
    assert all(isinstance(value, int) for value in frame["epochs"].dropna())  # some rows lack it
    assert set(frame.loc[frame["hash8"] == "wide", "method.budget"]) == {0.4}
    assert frame.attrs["left_out"] == []
    tables = reports.all_tables(frame)
    assert list(tables["table1"].data["n"])[:1] == [3]
    html = reports.table(frame, "ablation_method_budget")._repr_html_()
    assert "font-weight: bold" in html
    with pytest.raises(ValueError, match="no table nonsense of these results; there are table1"):
        reports.table(frame, "nonsense")
    part = frame[frame["method"] != "adios"]
    assert "ADIOS" not in reports.table(part, "table1").markdown()


def test_notebook__figures(runs: Sequence[Run], tmp_path: Path) -> None:
    import reports

    frame = reports.load(tmp_path / "runs")
    assert len(reports.plot_points(frame).axes) == 2
    assert reports.plot_compute(frame).axes
    assert reports.plot_curves(frame, x="flops").axes[0].get_xlabel() == "flops"
    axes = reports.plot_ablation(frame, "method.budget").axes[0]
    lines = [line.get_xydata() for line in axes.lines if line.get_linestyle() == "-"]
    assert np.allclose(lines[0], [[0.25, np.mean(SCORES["sequential"])], [0.4, 48.0333333]])
    with pytest.raises(ValueError, match=r"epochs alone varies nowhere .* method.budget"):
        reports.plot_ablation(frame, "epochs")
    with pytest.raises(AttributeError):
        reports.nonsense  # noqa: B018
