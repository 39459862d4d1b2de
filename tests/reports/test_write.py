from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports.page.report import Report, Section
from reports.tables.markup import Cell, Column, Row, Table
from reports.write import keep_only, write_tables


def report(*names: str) -> Report:
    tables = [
        Table(name, "T", "What.", [Column("c")], [Row("a ± b", [Cell("1")])]) for name in names
    ]
    return Report("title", [], [Section("s", tables=tables)], [])


def test_write_tables__each_in_three_forms(tmp_path: Path) -> None:
    made = report("table1", "cost")
    paths = write_tables(made, tmp_path / "new")
    names = [f"{name}.{kind}" for name in ("table1", "cost") for kind in ("md", "tex", "csv")]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(names)
    (table, _) = made.tables
    texts = [path.read_text(encoding="utf-8") for path in paths[:3]]
    assert texts == [table.markdown(), table.latex(), table.csv()]


def test_keep_only__removes_what_an_earlier_report_wrote(tmp_path: Path) -> None:
    keep_only(tmp_path, write_tables(report("table1", "table2"), tmp_path))
    (tmp_path / "notes.md").write_text("mine")
    keep_only(tmp_path, write_tables(report("table1"), tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "files.json", "notes.md", "table1.csv", "table1.md", "table1.tex"
    ]  # fmt: skip
    assert json.loads((tmp_path / "files.json").read_text()) == {
        "files": ["table1.csv", "table1.md", "table1.tex"]
    }


@pytest.mark.parametrize("name", ["../outside", "figures/../../outside", "/etc/x", "sub/x", ".x"])
def test_keep_only__touches_nothing_elsewhere(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    for file in (tmp_path / "outside", out / "sub" / "x", out / ".x", out / "figures" / "y"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (out / "files.json").write_text(json.dumps({"files": [name]}))
    keep_only(out, [])
    assert (tmp_path / "outside").exists()
    assert (out / "sub" / "x").exists()
    assert (out / ".x").exists()


def test_keep_only__removes_figures(tmp_path: Path) -> None:
    figure = tmp_path / "figures" / "a.png"
    figure.parent.mkdir()
    figure.touch()
    keep_only(tmp_path, [figure])
    assert figure.exists()
    keep_only(tmp_path, [])
    assert not figure.exists()


@pytest.mark.parametrize("content", ["{}", '{"files": 3}', '{"files": [3]}'])
def test_keep_only__a_list_that_is_none_removes_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "files.json").write_text(content)
    (tmp_path / "mine.md").touch()
    keep_only(tmp_path, [])
    assert (tmp_path / "mine.md").exists()
