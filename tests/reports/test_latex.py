"""Tables through pdflatex, alone and in an article: no warning but boxes that are too full."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark.runs import Run
from reports.assemble import assemble
from reports.results.collect import collect
from reports.tables.markup import Cell, Column, Row, Table

pytestmark = pytest.mark.browser

PDFLATEX = shutil.which("pdflatex")
COMMAND = "benchmark/run.py -m method=none,adios seed=0,1,2 x=50%_of_{a} runs_dir=/a/b/c"
HOSTILE = "[2] a_b & 50% #1 $x {y} ~^ \\input{z} \\end{table} <b> | é đ 猫 \n\n \x1b \u202e `q"
METRIC = {"segmentation": "miou", "clustering": "nmi", "mask_quality": "ari"}


@pytest.fixture(autouse=True)
def _installed() -> None:
    if PDFLATEX is None:
        give_up = pytest.fail if os.environ.get("MASKBENCH_NEED_BROWSER") == "1" else pytest.skip
        give_up("pdflatex not installed: apt-get install texlive-latex-recommended")


def compiled(file: Path) -> str:
    """The log of the second run, which knows the labels."""
    for _ in range(2):
        done = subprocess.run(
            [str(PDFLATEX), "-interaction=nonstopmode", "-halt-on-error", file.name],
            cwd=file.parent,
            capture_output=True,
        )
        log = file.with_suffix(".log").read_text(encoding="latin-1")
        assert done.returncode == 0, f"{file}: {log[-2000:]}"
    assert file.with_suffix(".pdf").stat().st_size > 1000
    return log


def complaints(log: str) -> list[str]:
    """Errors and warnings; full boxes of LaTeX are none."""
    return [line for line in log.splitlines() if line.startswith("!") or "Warning" in line]


def check_alone(tables: Sequence[Table], folder: Path) -> None:
    for table in tables:
        file = folder / f"{table.name}.tex"
        file.write_text(table.latex(), encoding="utf-8")
        assert complaints(compiled(file)) == [], table.name


def check_in_article(tables: Sequence[Table], folder: Path) -> None:
    """Some are read by ``input``, the others pasted, and all are referred to."""
    parts = []
    for number, table in enumerate(tables):
        (folder / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")
        parts.append(rf"\input{{{table.name}}}" if number % 2 else table.latex())
        parts.append(rf"Text on Table~\ref{{tab:{table.name}}}.")
    lines = [r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}"]
    file = folder / "article.tex"
    file.write_text("\n\n".join([*lines, *parts, r"\end{document}"]), encoding="utf-8")
    assert complaints(compiled(file)) == []


def config(method: str, budget: float) -> dict[str, Any]:
    return {
        "method": {"_target_": f"methods.{method}", "budget": budget, "reduction": "mean"},
        "objective": {"temperature": 0.2},
        "encoder_optimiser": {"name": "adam", "lr": 0.002},
        "epochs": 6,
        "batch_size": 64,
        "threads": 1,
    }


def log_of(run: Run) -> None:
    lines = [
        {"epoch": k, "step": 10 * k, "loss": 1.0, "probe": 10.0 + k, "flops": 1e14 * k}
        for k in range(1, 21)
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def report(make_run) -> list[Table]:
    """What a sweep over methods, data sets and a budget is reported as."""
    runs, configs = [], {}
    for data, classes in (("scenes", 10), ("stl10", 40), ("imagenet100s", 60)):
        entries = [("none", 0.0, None), ("adios", 0.1, None), ("superpixel_budget", 0.1, None)]
        entries += [("sequential", budget, None) for budget in (0.1, 0.2, 0.25)]
        entries += [("none", 0.0, "supervised"), ("none", 0.0, "untrained")]
        for number, (method, budget, control) in enumerate(entries):
            hash8 = f"{data[:2]}{number:06d}"
            configs[hash8] = config(method, budget)
            for seed in (0, 1, 2):
                lost = number == 2 and seed == 2
                score = classes + number + (7 * seed + number) % 5
                scores: dict[tuple[str, ...], Any] = {
                    ("linear", data): [score, score + 0.5],
                    ("finetune", data): None if lost else score + 20.0,
                    ("knn", data): score - 5.0,
                    ("clustering", data): score - 3.0,
                    ("low_shot", data): {"accuracy_1pct": score - 8.0, "accuracy_10pct": score},
                    ("robustness", data): {"accuracy_noise": score - 2.0},
                    ("segmentation", "voc2012"): score / 2,
                    ("transfer", "cifar10"): score + 1.0,
                    ("linear", data, "p1"): score + 2.0,
                }
                cost = {"flops": 2e15 * (1 + number % 3), "seconds": 5000.0, "images": 1e6,
                        "memory": 2e9}  # fmt: skip
                run = make_run(
                    method, seed, scores, hash8=hash8, data=data, control=control, cost=cost,
                    setting=f"s{data}", metric=METRIC, failed=lost, commit=f"{seed}" * 40,
                )  # fmt: skip
                log_of(run)
                runs.append(run)
    made = assemble(
        collect(runs, configs), runs, configs, command=COMMAND, commit="f" * 40, left_out=["x"]
    )
    return made.tables


def test_latex__a_report_compiles(report: list[Table], tmp_path: Path) -> None:
    names = {table.name for table in report}
    assert names >= {
        "table1", "table2", "table3", "table4", "claims", "comparisons", "overall", "published",
        "cost", "compute", "noise", "low_shot", "robustness", "ablation_method_budget",
    }  # fmt: skip
    assert any(len(table.rows) > 80 for table in report)
    check_alone(report, tmp_path)
    check_in_article(report, tmp_path)


def test_latex__hostile_words(tmp_path: Path) -> None:
    rows = [Row(HOSTILE, [Cell(HOSTILE, HOSTILE, mark), Cell()]) for mark in ("best", "tied", "")]
    columns = [Column(HOSTILE, HOSTILE), Column("c")]
    table = Table(
        "t", HOSTILE, HOSTILE, columns, [*rows, Row("", [Cell(), Cell()], "controls")] * 12,
        notes=[HOSTILE, HOSTILE], details=[HOSTILE], head=HOSTILE,
    )  # fmt: skip
    check_alone([table], tmp_path)
    check_in_article([table], tmp_path)


def test_latex__every_letter_is_one_or_its_code_point(tmp_path: Path) -> None:
    letters = [chr(code) for code in range(0x300) if not 0xD800 <= code < 0xE000]
    text = "".join(letters)
    pieces = [text[k : k + 20] for k in range(0, len(text), 20)]
    rows = [Row(piece, [Cell(piece, piece, mark)]) for piece in pieces for mark in ("best", "tied")]
    check_alone([Table("t", "T", pieces[-1], [Column("c")], rows, notes=[f"`{text}`"])], tmp_path)


def test_latex__a_table_without_rows_or_columns(tmp_path: Path) -> None:
    check_alone([Table("t", "T", "Nothing.", [], [])], tmp_path)


def test_complaints__are_found(tmp_path: Path) -> None:
    file = tmp_path / "bad.tex"
    file.write_text(
        r"\documentclass{article}\begin{document}\ref{tab:none}" + "x " * 999 + r"\end{document}"
    )
    assert any(re.search("Reference .tab:none. on page 1 undefined", c) for c in
               complaints(compiled(file)))  # fmt: skip
