from __future__ import annotations

from reports.results.collect import collect
from reports.tables.markup import Table
from reports.tables.metric_tables import metric_tables

LOW, ROBUST = ("low_shot", "scenes"), ("robustness", "scenes")


def rows(table: Table) -> dict[str, list[str]]:
    return {row.label: [cell.plain for cell in row.cells] for row in table.rows}


def shares(one: float, ten: float) -> dict[str, float]:
    return {"accuracy_1pct": one, "accuracy_10pct": ten}


def test_metric_tables__each_metric_is_a_column(make_run) -> None:
    runs = [
        make_run("none", 0, {LOW: shares(20.0, 60.0), ("linear", "scenes"): 1.0}),
        make_run("none", 1, {LOW: shares(22.0, 60.0)}),
        make_run("adios", 0, {LOW: shares(10.0, 61.0)}),
        make_run("adios", 1, {LOW: None}, failed=True),
        make_run("none", 0, {LOW: shares(90.0, 90.0)}, control="supervised"),
    ]
    (table,) = metric_tables(collect(runs))
    assert table.name == "low_shot"
    assert [column.heading for column in table.columns] == ["1%", "10%"]
    assert rows(table) == {
        "SimCLR (demo)": ["21.00 ± 1.41", "60.00 ± 0.00"],
        "+ ADIOS (demo)": ["10.00 (n=1, 1 failed)", "61.00 (n=1, 1 failed)"],
        "Supervised (demo)": ["90.00 (n=1)", "90.00 (n=1)"],
    }
    marks = [[cell.mark for cell in row.cells] for row in table.rows]
    assert marks == [["best", "best"], ["", ""], ["", ""]]  # a lone seed does not compete
    assert "over n=2 seeds" in table.caption
    assert list(table.notes) == []
    frame = table.frame().set_index(["label", "metric"])
    assert frame.loc[("SimCLR (demo)", "accuracy_1pct"), "mean"] == 21.0


def test_metric_tables__controls_do_not_say_how_many_seeds_were_asked_for(make_run) -> None:
    runs = [make_run("none", 0, {LOW: shares(20.0, 60.0)})]
    runs += [make_run("none", k, {LOW: shares(20.0, 60.0)}, control="untrained") for k in (0, 1)]
    (table,) = metric_tables(collect(runs))
    assert rows(table)["SimCLR (demo)"] == ["20.00", "60.00"]
    assert rows(table)["Untrained (demo)"] == ["20.00 ± 0.00 (n=2)", "60.00 ± 0.00 (n=2)"]


def test_metric_tables__underlining(make_run) -> None:
    near = {"none": (50.0, 51.0, 52.0), "adios": (52.0, 50.0, 50.0)}
    runs = [
        make_run(method, seed, {LOW: shares(score, 50.0)})
        for method, scores in near.items()
        for seed, score in enumerate(scores)
    ]
    (table,) = metric_tables(collect(runs))
    assert [row.cells[0].mark for row in table.rows] == ["best", "tied"]
    assert table.notes[0].startswith("Underlined: not significantly worse than the best of the col")


def test_metric_tables__each_evaluation_has_a_table(make_run) -> None:
    noise = {"accuracy_noise": 40.0, "accuracy_motion_blur": 50.0}
    scores = {(*ROBUST, "p0"): noise, (*ROBUST, "p1"): noise, LOW: shares(1.0, 2.0)}
    found = list(metric_tables(collect([make_run("none", 0, scores)])))
    assert [table.name for table in found] == ["low_shot", "robustness", "robustness_more"]
    assert "(Robustness, p1)" in found[2].caption
    assert [column.heading for column in found[1].columns] == ["noise", "motion blur"]


def test_metric_tables__nothing_finished(make_run) -> None:
    assert list(metric_tables(collect([make_run("none", 0, {LOW: None})]))) == []
