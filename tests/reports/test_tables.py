import math
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from benchmark.runs import Run
from reports.markup import escape
from reports.tables import terminal_text, write_tables

LINEAR, FINETUNE, KNN = ("linear", "scenes"), ("finetune", "scenes"), ("knn", "scenes")
TRANSFER, SEGMENTATION = ("transfer", "digits"), ("segmentation", "scenes")
COMMAND = "benchmark/run.py -m method=none,adios seed=0,1,2 x=50%_of_{a}"


@pytest.fixture
def sweep(make_run) -> list[Run]:
    """Three seeds of two methods and a control that beats both; tasks not in the paper's order."""
    runs = []
    for seed, linear, adios in ((0, 42.0, 43.0), (1, 44.0, 45.0), (2, 46.0, None)):
        own = {KNN: 30.0, LINEAR: linear, FINETUNE: 50.0 + seed}
        away = {SEGMENTATION: 20.0, TRANSFER: 90.0 + seed / 1000}
        runs.append(make_run("none", seed, own | away, metric={"segmentation": "miou"}))
        own = {KNN: 30.001, LINEAR: adios, FINETUNE: None}
        away = {SEGMENTATION: 21.0, TRANSFER: 90.0}
        runs.append(
            make_run("adios", seed, own | away, metric={"segmentation": "miou"}, failed=True)
        )
    runs.append(make_run("none", 0, {LINEAR: 99.0, KNN: None}, control="supervised"))
    return runs


def write(runs: list[Run], out: Path) -> dict[str, str]:
    written = write_tables(runs, out, command=COMMAND, commit="f" * 40)
    return {path.name: path.read_text(encoding="utf-8") for path in written.paths}


def markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_write_tables__files(sweep: list[Run], tmp_path: Path) -> None:
    texts = write(sweep, tmp_path / "tables")
    assert list(texts) == [f"table{n}.{suffix}" for n in (1, 2) for suffix in ("md", "tex", "csv")]
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == sorted(texts)


def test_write_tables__markdown_cells(sweep: list[Run], tmp_path: Path) -> None:
    texts = write(sweep, tmp_path)
    head, rule, *rows = markdown_rows(texts["table1.md"])
    assert head == ["Method", "scenes: Linear", "scenes: Fine Tune", "scenes: kNN"]
    assert all(set(cell) == {"-"} for cell in rule)
    # 42, 44, 46: mean 44, sample std 2. 43, 45: mean 44, sample std sqrt(2).
    assert rows == [
        [
            "SimCLR (demo)",
            "**44.00 ± 2.00** (n=3)",
            "**51.00 ± 1.00** (n=3)",
            "**30.00 ± 0.00** (n=3)",
        ],
        [
            "+ ADIOS (demo)",
            "**44.00 ± 1.41** (n=2, 1 failed)",
            "failed (3 of 3)",
            "**30.00 ± 0.00** (n=3)",
        ],
        ["*Supervised (demo)*", "*99.00 (n=1)*", "*–*", "*missing (1 of 1)*"],
    ]
    head, _, *rows = markdown_rows(texts["table2.md"])
    assert head == ["Method", "digits: Linear", "scenes: Segmentation (mIoU)"]
    assert [row[0] for row in rows] == ["SimCLR (demo)", "+ ADIOS (demo)"]
    assert rows[0][1:] == ["**90.00 ± 0.00** (n=3)", "20.00 ± 0.00 (n=3)"]
    assert rows[1][1:] == ["**90.00 ± 0.00** (n=3)", "**21.00 ± 0.00** (n=3)"]


def test_write_tables__markdown_lines_are_equally_wide(sweep: list[Run], tmp_path: Path) -> None:
    for name, text in write(sweep, tmp_path).items():
        if name.endswith(".md"):
            assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_write_tables__an_ablation_is_in_no_table(make_run, tmp_path: Path) -> None:
    runs = [make_run("adios", 0, {LINEAR: 1.0})]
    literal = make_run("sequential", 0, {LINEAR: 99.0}, preset="paper_literal")
    assert "99" not in "".join(write([*runs, literal], tmp_path).values())
    assert write([literal], tmp_path) == {}


def test_write_tables__csv(sweep: list[Run], tmp_path: Path) -> None:
    write(sweep, tmp_path)
    table = pd.read_csv(tmp_path / "table1.csv", dtype={"hash8": str, "seeds": str})
    assert len(table) == 2 * 3 + 2
    lines = {(line["label"], line["task"]): line for line in table.to_dict("records")}
    plain, adios = lines["SimCLR (demo)", "linear"], lines["+ ADIOS (demo)", "linear"]
    assert (plain["mean"], plain["std"], plain["n"], plain["seeds"]) == (44.0, 2.0, 3, "0 1 2")
    assert (adios["mean"], adios["n"], adios["failed"], adios["seeds"]) == (44.0, 2, 1, "0 1")
    assert adios["std"] == math.sqrt(2)
    assert plain["commits"] == "a" * 40
    assert math.isnan(lines["+ ADIOS (demo)", "finetune"]["mean"])
    supervised = lines["Supervised (demo)", "linear"]
    assert (supervised["mean"], supervised["eval_data"]) == (99.0, "scenes")
    assert math.isnan(supervised["std"])


def test_write_tables__caption_and_notes(sweep: list[Run], tmp_path: Path) -> None:
    texts = write(sweep, tmp_path)
    markdown = texts["table1.md"]
    settings = (
        "Preset demo; pretraining data set scenes; encoder resnet18; "
        "objective SimCLR; seeds 0, 1, 2."
    )
    assert settings in markdown
    assert settings in texts["table1.tex"]
    assert f"- Command: `{COMMAND}`" in markdown
    assert "- Results were made at commit aaaaaaaaaa." in markdown
    assert "- The table was written at commit ffffffffff." in markdown
    assert "- kNN on scenes: How knn is scored." in markdown
    assert "transfer" not in markdown
    assert "one setting" not in markdown


def test_write_tables__two_commits(make_run, tmp_path: Path) -> None:
    runs = [
        make_run("none", 0, {LINEAR: 40.0}),
        make_run("none", 1, {LINEAR: 40.0}, commit="b" * 40, dirty=True),
        make_run("none", 2, {LINEAR: 40.0}, commit=None, dirty=False),
        make_run("none", 3, {LINEAR: None}, commit="c" * 40),
    ]
    texts = write(runs, tmp_path)
    for name in ("table1.md", "table1.tex"):
        assert (
            "Results were made at different commits: "
            "aaaaaaaaaa, bbbbbbbbbb (uncommitted changes), unknown." in texts[name]
        )
    table = pd.read_csv(tmp_path / "table1.csv")
    assert table["commits"][0] == f"{'a' * 40} {'b' * 40}-dirty unknown"
    assert table["missing"][0] == 1


def test_write_tables__failed_and_missing_in_one_cell(make_run, tmp_path: Path) -> None:
    runs = [
        make_run("none", 0, {LINEAR: None}, failed=True),
        make_run("none", 1, {LINEAR: None}),
        make_run("adios", 0, {LINEAR: 1.0}),
        make_run("adios", 1, {LINEAR: None}, failed=True),
        make_run("adios", 2, {LINEAR: None}),
    ]
    rows = markdown_rows(write(runs, tmp_path)["table1.md"])
    assert rows[2][1] == "failed (1 of 2), missing (1 of 2)"
    assert rows[3][1] == "**1.00** (n=1, 1 failed, 1 missing)"


def test_write_tables__an_invalid_result_is_no_number_anywhere(make_run, tmp_path: Path) -> None:
    runs = [make_run("none", seed, {LINEAR: 77.75, KNN: 30.0}) for seed in (0, 1)]
    runs.append(make_run("adios", 0, {LINEAR: 77.75, KNN: 31.0}))
    for run in runs[1:]:
        file = run.tasks[0].result
        file.write_text(file.read_text().replace("77.75", "NaN"))
    file = runs[0].tasks[0].result
    file.write_text(file.read_text().replace('"hash8": "', '"hash8": "0'))
    written = write_tables(runs, tmp_path, command=COMMAND, commit=None)
    files = [run.tasks[0].result for run in runs]
    for file, problem in zip(files, written.problems, strict=True):
        assert problem.startswith(f"{file} ")
    rows = markdown_rows((tmp_path / "table1.md").read_text())
    assert rows[2] == ["SimCLR (demo)", "invalid (2 of 2)", "30.00 ± 0.00 (n=2)"]
    assert rows[3] == ["+ ADIOS (demo)", "invalid (1 of 1)", "**31.00** (n=1)"]
    assert "invalid (2 of 2)" in (tmp_path / "table1.tex").read_text()
    for path in written.paths:
        assert not re.search("77|nan", path.read_text(), re.IGNORECASE), path
    table = pd.read_csv(tmp_path / "table1.csv")
    assert list(table["invalid"]) == [2, 0, 1, 0]
    assert list(table["mean"].isna()) == [True, False, True, False]


def test_write_tables__evaluation_seeds_are_averaged_first(make_run, tmp_path: Path) -> None:
    scores = {(0, 0): 40.0, (0, 1): 42.0, (1, 0): 50.0, (1, 1): 52.0, (2, 0): 90.0, (2, 1): None}
    runs = [
        make_run("none", seed, {LINEAR: score}, result_file=f"0/seed{eval_seed}.json")
        for (seed, eval_seed), score in scores.items()
    ]
    text = write(runs, tmp_path)["table1.md"]
    # 41 and 51: mean 46, sample std sqrt(50); seed 2 is not finished. Heads: variance 2, 2.
    assert markdown_rows(text)[2][1] == "**46.00 ± 7.07** (n=2, 1 missing)"
    assert "within an encoder: Linear on scenes 1.41." in text


def test_write_tables__mixed_settings_are_said(make_run, tmp_path: Path) -> None:
    runs = [
        make_run("none", 0, {LINEAR: 40.0}),
        make_run("none", 0, {LINEAR: 10.0}, preset="smoke", setting="s1"),
    ]
    text = write(runs, tmp_path)["table1.md"]
    assert [row[0] for row in markdown_rows(text)[2:]] == ["SimCLR (demo)", "SimCLR (smoke)"]
    assert "Presets demo, smoke;" in text
    assert "do not share one setting" in text


def test_write_tables__empty_table_is_removed(sweep: list[Run], make_run, tmp_path: Path) -> None:
    write(sweep, tmp_path)
    assert (tmp_path / "table2.md").exists()
    texts = write([make_run("none", 0, {LINEAR: 40.0})], tmp_path)
    assert list(texts) == ["table1.md", "table1.tex", "table1.csv"]
    assert not list(tmp_path.glob("table2.*"))
    assert write([], tmp_path) == {}
    assert not list(tmp_path.glob("table*"))


def test_write_tables__nothing_finished(make_run, tmp_path: Path) -> None:
    texts = write([make_run("none", seed, {LINEAR: None}) for seed in (0, 1)], tmp_path)
    assert markdown_rows(texts["table1.md"])[2] == ["SimCLR (demo)", "missing (2 of 2)"]
    assert "Results were made" not in texts["table1.md"]


def test_write_tables__only_controls(make_run, tmp_path: Path) -> None:
    texts = write([make_run("none", 0, {LINEAR: 10.0}, control="untrained")], tmp_path)
    assert "**10.00" not in texts["table1.md"]
    assert texts["table1.tex"].count(r"\midrule") == 1
    assert "objective" not in texts["table1.md"]


def test_write_tables__metrics_that_cannot_share_a_column(make_run, tmp_path: Path) -> None:
    runs = [
        make_run("none", 0, {LINEAR: 40.0}),
        make_run("none", 1, {LINEAR: 40.0}, metric={"linear": "f1"}, protocol="p1"),
    ]
    with pytest.raises(ValueError, match=r"linear on scenes .*accuracy and f1"):
        write(runs, tmp_path)


def test_terminal_text__both_tables(sweep: list[Run], tmp_path: Path) -> None:
    written = write_tables(sweep, tmp_path, command=COMMAND, commit=None)
    text = terminal_text(written.paths)
    assert "**Table 1.** Evaluation on the pretraining data set" in text
    assert "**Table 2.** Transfer and segmentation" in text
    assert "written at commit" not in text


def test_latex__structure(sweep: list[Run], tmp_path: Path) -> None:
    text = write(sweep, tmp_path)["table1.tex"]
    for environment in ("table", "tabular", "minipage"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    grid = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in grid.splitlines() if line.endswith(r"\\")]
    assert rows[0] == r"& \multicolumn{3}{c}{scenes} \\"
    assert r"\cmidrule(lr){2-4}" in grid
    assert all(row.count("&") == 3 for row in rows[1:])
    assert r"\textbf{44.00 $\pm$ 2.00} {\scriptsize (n=3)}" in rows[2]
    assert grid.count(r"\midrule") == 2
    assert grid.rindex(r"\midrule") < grid.index("Supervised")
    assert r"x=50\%\_of\_\{a\}" in text
    assert "±" not in text


def test_escape__special_characters() -> None:
    assert escape("a_b & 50% #1 $x {y} ~^") == (
        r"a\_b \& 50\% \#1 \$x \{y\} \textasciitilde{}\textasciicircum{}"
    )
    assert escape("é \\ – ×") == r"é \textbackslash{} -- $\times$"
    assert escape("猫") == "(U+732B)"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex__compiles(sweep: list[Run], make_run, tmp_path: Path) -> None:
    longest = make_run("superpixel_budget", 0, {LINEAR: 40.0, KNN: None, TRANSFER: None})
    write([*sweep, longest], tmp_path)
    document = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}"
        r"\input{table1}\input{table2}\end{document}"
    )
    (tmp_path / "paper.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_write_tables__tasks_are_known_by_the_end_of_their_names(make_run, tmp_path: Path) -> None:
    results = {
        ("transfer", "cifar10"): 40.0,
        ("cifar10_linear", "cifar10"): 50.0,
        ("inat2021_linear", "inat2021_mini"): 60.0,
        ("streets_segmentation", "scenes"): 20.0,  # of Table 2 on whatever data
    }
    texts = write([make_run("none", 0, results)], tmp_path)
    assert "table1.md" not in texts
    header = texts["table2.md"]
    for heading in (
        "cifar10: Linear, transfer",
        "cifar10: Linear, cifar10_linear",
        "inat2021_mini: Linear ",
        "scenes: Segmentation",
    ):
        assert heading in header, heading
