from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence

import pandas as pd
import pytest

from benchmark.lock import exclusive
from benchmark.runs import Run
from reports.results.collect import collect
from reports.tables.markup import Table
from reports.tables.score_tables import score_tables

LINEAR, FINETUNE, KNN = ("linear", "scenes"), ("finetune", "scenes"), ("knn", "scenes")
TRANSFER, SEGMENTATION = ("transfer", "digits"), ("segmentation", "scenes")


def tables(runs: Sequence[Run], **options) -> dict[str, Table]:
    return {table.name: table for table in score_tables(collect(runs), **options)}


def cells(table: Table) -> dict[str, list[str]]:
    """What a reader of the Markdown sees, by label."""
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {label: row for label, *row in rows if set(label) != {"-"}}


def marks(table: Table, column: int = 0) -> dict[str, str]:
    return {row.label: row.cells[column].mark for row in table.rows}


def numbers(table: Table) -> dict[tuple[str, str], dict]:
    """Lines of the CSV by label and task."""
    frame = pd.read_csv(io.StringIO(table.csv()), dtype={"seeds": str, "hash8": str})
    return {(line["label"], line["task"]): line for line in frame.to_dict("records")}


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


def test_score_tables__cells(sweep: list[Run]) -> None:
    found = tables(sweep)
    # 42, 44, 46: mean 44, sample std 2. 43, 45: mean 44, sample std sqrt(2).
    assert cells(found["table1"]) == {
        "Method": ["scenes: Linear", "scenes: Fine Tune", "scenes: kNN"],
        "SimCLR (demo)": ["**44.00 ± 2.00**", "**51.00 ± 1.00**", "**30.00 ± 0.00**"],
        "+ ADIOS (demo)": [
            "**44.00 ± 1.41** (n=2, 1 failed)",
            "failed (3 of 3)",
            "**30.00 ± 0.00**",
        ],
        "*Supervised (demo)*": ["*99.00 (n=1)*", "*–*", "*not run (1 of 1)*"],
    }
    assert cells(found["table2"]) == {
        "Method": ["scenes: Segmentation (mIoU)", "digits: Linear"],
        "SimCLR (demo)": ["20.00 ± 0.00", "**90.00 ± 0.00**"],
        "+ ADIOS (demo)": ["**21.00 ± 0.00**", "**90.00 ± 0.00**"],
    }


def test_score_tables__cells_name_their_runs(sweep: list[Run]) -> None:
    linear = {row.label: row.cells[0].runs for row in tables(sweep)["table1"].rows}
    for label, method in (("SimCLR (demo)", "none"), ("+ ADIOS (demo)", "adios")):
        runs = [run for run in sweep if run.method == method and run.control is None]
        assert linear[label] == tuple(str(run.folder) for run in runs)


def test_score_tables__numbers(sweep: list[Run]) -> None:
    lines = numbers(tables(sweep)["table1"])
    assert len(lines) == 2 * 3 + 2
    plain, adios = lines["SimCLR (demo)", "linear"], lines["+ ADIOS (demo)", "linear"]
    assert (plain["mean"], plain["std"], plain["n"], plain["seeds"]) == (44.0, 2.0, 3, "0 1 2")
    assert plain["low"] == pytest.approx(44 - 4.3027 * 2 / math.sqrt(3), abs=1e-3)
    assert plain["high"] == pytest.approx(44 + 4.3027 * 2 / math.sqrt(3), abs=1e-3)
    assert (adios["mean"], adios["n"], adios["failed"], adios["seeds"]) == (44.0, 2, 1, "0 1")
    assert adios["std"] == math.sqrt(2)
    assert plain["commits"] == "a" * 40
    assert plain["protocol_id"] == "linear-1-p0"
    assert plain["hash8"] == sweep[0].hash8
    assert plain["best"]
    assert adios["best"]
    assert math.isnan(lines["+ ADIOS (demo)", "finetune"]["mean"])
    supervised = lines["Supervised (demo)", "linear"]
    assert (supervised["mean"], supervised["eval_data"]) == (99.0, "scenes")
    assert math.isnan(supervised["std"])
    assert not supervised["best"]


def test_score_tables__numbers_of_each_data_set_and_protocol(make_run) -> None:
    """Rows of Table 1 hold several data sets, and a task may have two metrics."""
    runs = [
        make_run("none", 0, {("linear", "scenes"): 40.0}),
        make_run("none", 0, {("linear", "digits", "p1"): 90.0}, data="digits", commit="b" * 40,
                 metric={"linear": "f1"}),
    ]  # fmt: skip
    (table,) = tables(runs).values()
    frame = table.frame()
    assert list(frame["data"]) == list(frame["eval_data"]) == ["scenes", "digits"]
    assert list(frame["metric"]) == ["accuracy", "f1"]
    assert list(frame["commits"]) == ["a" * 40, "b" * 40]
    two = make_run("none", 0, {(*LINEAR, "p0"): 40.0, (*LINEAR, "p1"): {"f1": 50.0}})
    assert list(tables([two])["table1"].frame()["metric"]) == ["accuracy", "f1"]


def test_score_tables__two_protocols_are_two_columns(make_run) -> None:
    runs = [
        make_run("none", 0, {(*LINEAR, "p0"): 40.0, (*LINEAR, "p1"): 50.0}),
        make_run("adios", 0, {(*LINEAR, "p1"): 51.0}),
    ]
    assert cells(tables(runs)["table1"]) == {
        "Method": ["scenes: Linear, p0", "scenes: Linear, p1"],
        "SimCLR (demo)": ["**40.00**", "50.00"],
        "+ ADIOS (demo)": ["–", "**51.00**"],
    }


def test_score_tables__data_sets_share_rows_in_table_1_only(make_run) -> None:
    runs = [
        make_run("none", 0, {("linear", data): 40.0, ("transfer", "cifar10"): score}, data=data)
        for data, score in (("scenes", 50.0), ("digits", 60.0))
    ]
    found = tables(runs)
    assert cells(found["table1"]) == {
        "Method": ["scenes: Linear", "digits: Linear"],
        "SimCLR (demo)": ["**40.00**", "**40.00**"],
    }
    assert cells(found["table2"]) == {
        "Method": ["cifar10: Linear"],
        "SimCLR (scenes, demo)": ["50.00"],
        "SimCLR (digits, demo)": ["**60.00**"],
    }


def test_score_tables__why_a_cell_is_empty(make_run) -> None:
    runs = [
        make_run("none", 0, {LINEAR: None}, failed=True),
        make_run("none", 1, {LINEAR: None}),
        make_run("none", 2, {LINEAR: 40.0}),
        make_run("adios", 0, {LINEAR: 1.0}),
        make_run("adios", 1, {LINEAR: None}, failed=True),
        make_run("adios", 2, {LINEAR: None}),
        make_run("random", 0, {LINEAR: None}),
    ]
    runs[2].tasks[0].result.write_text("{")
    with exclusive(runs[6].folder, print):
        rows = cells(tables(runs)["table1"])
    assert rows["SimCLR (demo)"] == ["failed (1 of 3), invalid (1 of 3), not run (1 of 3)"]
    assert rows["+ ADIOS (demo)"] == ["**1.00** (n=1, 1 failed, 1 not run)"]
    assert rows["+ Random (demo)"] == ["running (1 of 1)"]


def test_score_tables__n_is_told_where_it_is_not_the_n_asked_for(make_run) -> None:
    runs = [make_run("none", seed, {LINEAR: 40.0 + seed}) for seed in (0, 1, 2)]
    runs += [make_run("adios", seed, {LINEAR: 10.0 + seed}) for seed in (0, 1)]
    table = tables(runs)["table1"]
    assert "over n=3 seeds, where a cell says no other n" in table.caption
    assert [row[0] for row in cells(table).values()][1:] == [
        "**41.00 ± 1.00**",
        "10.50 ± 0.71 (n=2)",
    ]
    assert tables(runs[:1])["table1"].caption.startswith(
        "Evaluation on the pretraining data set: one seed, in percent"
    )


def test_score_tables__an_invalid_result_is_no_number_anywhere(make_run) -> None:
    runs = [make_run("none", seed, {LINEAR: 77.75, KNN: 30.0}) for seed in (0, 1)]
    runs.append(make_run("adios", 0, {LINEAR: 77.75, KNN: 31.0}))
    for run in runs[1:]:
        file = run.tasks[0].result
        file.write_text(file.read_text().replace("77.75", "NaN"))
    file = runs[0].tasks[0].result
    file.write_text(file.read_text().replace('"hash8": "', '"hash8": "0'))
    problems = collect(runs)["problem"].dropna()
    for run, problem in zip(runs, problems, strict=True):
        assert problem.startswith(f"{run.tasks[0].result} ")
    table = tables(runs)["table1"]
    rows = cells(table)
    assert rows["SimCLR (demo)"] == ["invalid (2 of 2)", "**30.00 ± 0.00**"]
    assert rows["+ ADIOS (demo)"] == ["invalid (1 of 1)", "31.00 (n=1)"]
    for text in (table.markdown(), table.latex(), table.csv()):
        assert not re.search(r"77|\bnan\b", text, re.IGNORECASE)
    assert list(table.frame()["invalid"]) == [2, 0, 1, 0]
    assert list(table.frame()["mean"].isna()) == [True, False, True, False]


def test_score_tables__evaluation_seeds(make_run) -> None:
    scores = [[40.0, 42.0], [50.0, 52.0], [90.0, None]]
    table = tables([make_run("none", k, {LINEAR: own}) for k, own in enumerate(scores)])["table1"]
    # 41 and 51: mean 46, sample std sqrt(50). Variance within an encoder 2, between 50 - 2/2.
    assert cells(table)["SimCLR (demo)"] == ["**46.00 ± 7.07** (n=2, 1 not run)"]
    assert (
        "A seed counts with the mean over its evaluation seeds. Standard deviations of pretraining "
        "and of the probe apart, pooled over rows: Linear on scenes 7.00 and 1.41." in table.notes
    )
    assert "evaluation seeds" not in "".join(
        tables([make_run("random", 0, {LINEAR: 1.0})])["table1"].notes
    )


def three(make_run, **scores: Sequence[float]) -> list[Run]:
    """Seeds of methods, in the order given."""
    return [
        make_run(method, seed, {LINEAR: score})
        for method, own in scores.items()
        for seed, score in enumerate(own)
    ]


def test_score_tables__underlining(make_run) -> None:
    # Differences of random -2, 1, 2: p = 0.81. Of none 10.1, 10, 10.
    runs = three(
        make_run, none=[39.9, 41.0, 42.0], adios=[50.0, 51.0, 52.0], random=[52.0, 50.0, 50.0]
    )
    table = tables(runs)["table1"]
    assert list(marks(table).values()) == ["", "best", "tied"]
    (note,) = [note for note in table.notes if "nderlined" in note]
    assert note.startswith("Underlined: not significantly worse than the best of the column")
    assert "paired t test over shared seeds, Holm-corrected within the column, level 0.05" in note
    assert "<u>50.67 ± 1.15</u>" in table.markdown()
    assert r"\underline{50.67 $\pm$ 1.15}" in table.latex()
    line = numbers(table)["+ Random (demo)", "linear"]
    assert line["tied"]
    assert line["p"] == pytest.approx(0.81, abs=0.01)
    assert any("Seeds that would tell" in detail for detail in table.details)


@pytest.mark.parametrize(
    ("seeds", "test", "words"),
    [
        (1, "t", "with 1 shared seed the paired t test cannot"),
        (3, "sign-flip", "with 3 shared seeds the test that flips the signs of paired diff"),
    ],
)
def test_score_tables__no_underline_where_the_test_cannot_reject(
    make_run, seeds: int, test, words: str
) -> None:
    runs = three(make_run, none=[50.0, 51.0, 52.0][:seeds], adios=[10.0, 20.0, 51.9][:seeds])
    table = tables(runs, test=test)["table1"]
    assert list(marks(table).values()) == ["best", ""]
    (note,) = [note for note in table.notes if "nderlined" in note]
    assert note.startswith(f"Nothing is underlined: {words}")


def test_score_tables__a_column_whose_test_cannot_reject_beside_one_whose_can(make_run) -> None:
    runs = [
        make_run("none", seed, {LINEAR: 50.0 + seed, KNN: 50.0 if seed == 0 else None})
        for seed in (0, 1, 2)
    ]
    runs += [
        make_run("adios", seed, {LINEAR: near, KNN: 49.0 if seed == 0 else None})
        for seed, near in enumerate((52.0, 50.0, 50.0))
    ]
    table = tables(runs)["table1"]
    assert [marks(table, k)["+ ADIOS (demo)"] for k in (0, 1)] == ["tied", ""]
    assert (
        "Neither underlined nor found worse are some rows of kNN on scenes: with their shared "
        "seeds the paired t test cannot find a row worse." in table.notes
    )


def test_score_tables__all_found_worse_needs_no_note(make_run) -> None:
    runs = three(make_run, none=[50.0, 51.0, 52.0], adios=[10.0, 11.1, 12.0])
    table = tables(runs)["table1"]
    assert list(marks(table).values()) == ["best", ""]
    assert not any("nderlined" in note for note in table.notes)


def test_score_tables__controls_never_compete(make_run) -> None:
    runs = three(make_run, none=[50.0, 51.0, 52.0])
    runs += [make_run("none", k, {LINEAR: 50.0 + k}, control="supervised") for k in range(3)]
    assert list(marks(tables(runs)["table1"]).values()) == ["best", ""]
    alone = tables(runs[3:])["table1"]
    assert list(marks(alone).values()) == [""]
    assert alone.latex().count(r"\midrule") == 1
    assert "objective" not in alone.caption


def test_score_tables__caption_and_notes(sweep: list[Run]) -> None:
    table = tables(sweep, notes=["Command: `x`"])["table1"]
    settings = (
        "Preset demo; pretraining data set scenes; encoder resnet18; "
        "objective SimCLR; seeds 0, 1, 2."
    )
    assert table.caption.endswith(settings)
    assert table.notes[0] == "Command: `x`"
    assert "Results were made at commit aaaaaaaaaa." in table.notes
    assert "kNN on scenes: How knn is scored." in table.details
    assert "transfer" not in table.markdown()
    assert "one setting" not in table.markdown()


def test_score_tables__two_commits(make_run) -> None:
    runs = [
        make_run("none", 0, {LINEAR: 40.0}),
        make_run("none", 1, {LINEAR: 40.0}, commit="b" * 40, dirty=True),
        make_run("none", 2, {LINEAR: 40.0}, commit=None, dirty=False),
        make_run("none", 3, {LINEAR: None}, commit="c" * 40),
    ]
    table = tables(runs)["table1"]
    assert (
        "Results were made at different commits: "
        "aaaaaaaaaa, bbbbbbbbbb (uncommitted changes), unknown." in table.notes
    )
    assert table.frame()["commits"][0] == f"{'a' * 40} {'b' * 40}-dirty unknown"
    assert table.frame()["missing"][0] == 1


@pytest.mark.parametrize("control", [None, "untrained"])
def test_score_tables__mixed_settings_are_said(make_run, control) -> None:
    runs = [
        make_run("none", 0, {LINEAR: 40.0}),
        make_run("none", 0, {LINEAR: 10.0}, preset="smoke", setting="s1"),
    ]
    digits = {("linear", "digits"): 1.0}
    runs.append(make_run("none", 0, digits, data="digits", setting="s2", control=control))
    table = tables(runs)["table1"]
    assert list(cells(table))[1:3] == ["SimCLR (demo)", "SimCLR (smoke)"]
    assert "Presets demo, smoke;" in table.caption
    assert any("do not share one setting" in note for note in table.notes)


def test_score_tables__one_setting_on_each_data_set_is_none_to_tell(make_run) -> None:
    runs = [
        make_run("none", 0, {("linear", data): 40.0}, data=data, setting=data)
        for data in ("scenes", "digits")
    ]
    assert not any("one setting" in note for note in tables(runs)["table1"].notes)


def test_score_tables__nothing_finished(make_run) -> None:
    table = tables([make_run("none", seed, {LINEAR: None}) for seed in (0, 1)])["table1"]
    assert cells(table)["SimCLR (demo)"] == ["not run (2 of 2)"]
    assert not any("Results were made" in note for note in table.notes)


def test_score_tables__only_those_with_columns(make_run) -> None:
    assert list(tables([make_run("none", 0, {TRANSFER: 1.0})])) == ["table2"]
    assert tables([]) == {}


def test_score_tables__what_was_not_planned_is_told(make_run) -> None:
    runs = [make_run("adios", 0, {LINEAR: 40.0, KNN: 30.0}), make_run("none", 0, {LINEAR: 41.0})]
    told = "–: no such task was planned for that row."
    (table,) = score_tables(collect(runs))
    assert any(note.startswith(told) for note in table.notes)
    (table,) = score_tables(collect(runs[:1]))
    assert not any(note.startswith(told) for note in table.notes)
