from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from benchmark.errors import UserError
from benchmark.runs import Run, read_config
from reports.results.collect import collect
from reports.results.found import Found, find

LINEAR, KNN = ("linear", "scenes"), ("knn", "scenes")


def places(found: Found, root: Path) -> list[str]:
    return [str(run.folder.relative_to(root)) for run in found.runs]


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def statuses(found: Found) -> list[str]:
    return list(collect(found.runs, found.configs).query("main")["status"])


def lone(sentences: list[str]) -> str:
    (sentence,) = sentences
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def other(make_run) -> Run:
    """A whole run, which must stay in all tables whatever lies beside it."""
    return make_run("none", 0, {LINEAR: 40.0}, hash8="other")


def test_find__what_was_planned_and_done(make_run, tmp_path: Path) -> None:
    made = [make_run("none", seed, {LINEAR: 40.0, KNN: None}, hash8="h") for seed in (0, 1)]
    made.append(make_run("adios", 0, {LINEAR: None}, hash8="a", config={"epochs": 5}))
    found = find([tmp_path])
    assert found.left_out == []
    assert sorted(found.runs, key=lambda run: run.folder) == sorted(made, key=lambda r: r.folder)
    assert {h: config["epochs"] for h, config in found.configs.items()} == {"a": 5}


@pytest.mark.parametrize("inside", ["", "scenes", "scenes/none-h", "scenes/none-h/seed0"])
def test_find__any_folder_above_a_run_once(make_run, tmp_path: Path, monkeypatch, inside) -> None:
    run = make_run("none", 0, {LINEAR: 40.0}, hash8="h")
    folder = tmp_path / "runs" / inside
    (found,) = find([folder, folder, tmp_path]).runs
    assert found.folder == run.folder
    monkeypatch.chdir(folder)
    assert len(find([Path()]).runs) == 1


def test_find__no_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, says in (
        (tmp_path, "holds no run"),
        (tmp_path / "nowhere", "does not exist; give"),
        (tmp_path / "file", "is no folder; give"),
    ):
        with pytest.raises(UserError, match=f"{folder} {says}"):
            find([folder])


def test_find__hidden_folders_are_passed_over(other: Run, tmp_path: Path) -> None:
    shutil.copytree(other.folder.parent, tmp_path / "runs/scenes/.trash/none-other")
    found = find([tmp_path])
    assert (places(found, tmp_path), found.left_out) == (["runs/scenes/none-other/seed0"], [])


def test_find__a_copy_of_all_runs_counts_once(other: Run, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "runs", tmp_path / "saved")
    found = find([tmp_path])
    copy = tmp_path / "saved/scenes/none-other/seed0"
    assert places(found, tmp_path) == ["runs/scenes/none-other/seed0"]
    assert lone(found.left_out).startswith(f"{copy} is the same run as {other.folder}, which")


@pytest.mark.parametrize("name", ["none-other/seed7", "none-copy/seed0", "adios-other/seed0"])
def test_find__a_folder_under_another_name_is_left_out(other: Run, tmp_path, name: str) -> None:
    renamed = other.folder.parents[1] / name
    shutil.copytree(other.folder, renamed)
    found = find([tmp_path])
    assert places(found, tmp_path) == ["runs/scenes/none-other/seed0"]
    assert lone(found.left_out).startswith(
        f"{renamed} is no folder of scenes/none-other/seed0, the run that it holds; put it back"
    )


def test_find__what_is_left_out_gives_no_configuration(make_run, tmp_path: Path) -> None:
    make_run("none", 0, {LINEAR: 40.0}, hash8="h", config={"epochs": 5})
    forged = tmp_path / "runs/scenes/a-copy/seed0"  # is found first
    shutil.copytree(tmp_path / "runs/scenes/none-h/seed0", forged)
    config = forged / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 5", "epochs: 99"))
    assert find([tmp_path]).configs["h"]["epochs"] == 5


def test_find__plan_and_configuration_of_two_runs(make_run, other: Run, tmp_path: Path) -> None:
    mixed = make_run("none", 0, {LINEAR: 99.0}, hash8="mixed", config={})
    strange = make_run("none", 1, {}, hash8="strange", config={}).folder
    shutil.copy(strange / "config.yaml", mixed.folder)
    shutil.rmtree(strange)
    found = find([tmp_path])
    assert places(found, tmp_path) == ["runs/scenes/none-other/seed0"]
    assert lone(found.left_out).startswith(f"{mixed.folder} has plan.json and config.yaml of two")


@pytest.mark.parametrize("content", ["{", "[]", '{"run": {}}', '{"run": {}, "tasks": []}', "\xff"])
@pytest.mark.parametrize("name", ["plan.json", "config.yaml"])
def test_find__a_broken_plan_or_configuration(
    make_run, other: Run, tmp_path: Path, name: str, content: str
) -> None:
    run = make_run("adios", 0, {LINEAR: 99.0}, hash8="h", config={})
    (run.folder / name).write_text(content, encoding="latin-1")
    found = find([tmp_path])
    assert places(found, tmp_path) == ["runs/scenes/none-other/seed0"]
    assert lone(found.left_out).startswith(f"{run.folder / name} ")


def test_find__a_run_without_a_plan(make_run, tmp_path: Path) -> None:
    run = make_run("none", 0, {LINEAR: 40.0}, hash8="h", planned=False, config={})
    (found,) = find([tmp_path]).runs
    assert found == run


def test_find__results_that_no_plan_names(make_run, tmp_path: Path) -> None:
    run = make_run("none", 0, {LINEAR: 40.0, KNN: 30.0}, hash8="h")
    edit(run.folder / "plan.json", tasks=[])
    (found,) = find([tmp_path]).runs
    assert set(found.tasks) == set(run.tasks)


@pytest.mark.parametrize("content", ["{", "{}", '{"task": "linear"}'])
def test_find__a_broken_result_that_no_plan_names(make_run, tmp_path, content: str) -> None:
    run = make_run("none", 0, {LINEAR: 40.0, KNN: 30.0}, hash8="h")
    edit(run.folder / "plan.json", tasks=[])
    file = run.tasks[0].result
    file.write_text(content)
    found = find([tmp_path])
    assert found.runs[0].tasks == run.tasks[1:]
    assert lone(found.left_out).startswith(f"{file} ")


def test_find__a_result_in_the_place_of_another(make_run, tmp_path: Path) -> None:
    run = make_run("none", 0, {LINEAR: 40.0}, hash8="h")
    edit(run.folder / "plan.json", tasks=[])
    file = run.tasks[0].result
    shutil.copy(file, file.with_name("seed1.json"))
    found = find([tmp_path])
    assert found.runs[0].tasks == run.tasks
    assert lone(found.left_out) == (
        f"{file.with_name('seed1.json')} is of linear-scenes-*/seed0.json; put it back, or delete "
        "it"
    )


def test_find__a_plan_that_points_elsewhere(make_run, tmp_path: Path) -> None:
    run = make_run("none", 0, {LINEAR: None}, hash8="h")
    plan = json.loads((run.folder / "plan.json").read_text())
    plan["tasks"][0]["result"] = "../../secret.json"
    edit(run.folder / "plan.json", **plan)
    found = find([tmp_path])
    assert found.runs[0].tasks == ()
    assert "../../secret.json, which is no place of results" in lone(found.left_out)


def test_find__plans_of_an_earlier_version(make_run, tmp_path: Path) -> None:
    """A task that is not done has its protocol from a run in which it is."""
    made = [
        make_run("none", 0, {LINEAR: 40.0, KNN: None}, hash8="h", earlier=True),
        make_run("none", 1, {LINEAR: None, KNN: None}, hash8="h", earlier=True),
        make_run("adios", 0, {LINEAR: None, KNN: None}, hash8="a", earlier=True),
    ]
    found = {run.folder: run for run in find([tmp_path]).runs}
    for run in made:
        linear, knn = found[run.folder].tasks
        assert linear == run.tasks[0]
        assert (knn.name, knn.protocol_id, knn.fingerprint) == ("knn", "", "")
    main: pd.DataFrame = collect(list(found.values())).query("main")
    assert main.groupby("task")["protocol_id"].nunique().to_dict() == {"linear": 1, "knn": 1}


def test_find__a_broken_result_of_an_earlier_version(make_run, tmp_path: Path) -> None:
    runs = [make_run("none", s, {LINEAR: 40.0}, hash8="h", earlier=True) for s in (0, 1)]
    runs[1].tasks[0].result.write_text("{")
    found = find([tmp_path])
    assert sorted(statuses(found)) == ["invalid", "ok"]
    frame = collect(found.runs)
    assert frame["protocol_id"].nunique() == 1
    assert lone(list(frame["problem"].dropna())).startswith(f"{runs[1].tasks[0].result} ")


@pytest.mark.parametrize(
    "changes",
    [
        {"hash8": "strange"},
        {"pretrain_seed": 1},
        {"inputs": {"encoder_sha256": "e1", "data_fingerprint": "f0"}},
        {"metrics": {"accuracy": float("nan")}},
    ],
)
@pytest.mark.parametrize("planned", ["now", "earlier", "not"])
def test_find__a_result_that_cannot_be_trusted_is_named_and_no_number(
    make_run, tmp_path: Path, changes, planned: str
) -> None:
    runs = [make_run("none", s, {LINEAR: 40.0}, hash8="h", earlier=planned == "earlier")
            for s in (0, 1)]  # fmt: skip
    file = runs[0].tasks[0].result
    edit(file, **changes)
    if planned == "not":
        edit(runs[0].folder / "plan.json", tasks=[])
    found = find([tmp_path])
    frame = collect(found.runs)
    assert set(frame["status"]) <= {"ok", "invalid", "no task"}
    assert set(frame.dropna(subset="value")["seed"]) == {1}
    assert lone([*found.left_out, *frame["problem"].dropna()]).startswith(f"{file} ")


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("name", ["knn-scenes-00", "knn-scenes-zz"])  # before it, and after
def test_find__a_copied_result_counts_once(make_run, tmp_path, name: str, planned: bool) -> None:
    run = make_run("none", 0, {KNN: 30.0, LINEAR: 40.0}, hash8="h")
    own = run.tasks[0].result  # knn-scenes-p0
    copy = own.parents[1] / name / own.name
    shutil.copytree(own.parent, copy.parent)
    if not planned:
        edit(run.folder / "plan.json", tasks=[])
    found = find([tmp_path])
    kept, gone = (own, copy) if planned or name > "knn-scenes-p0" else (copy, own)
    assert {task.result for task in found.runs[0].tasks} == {kept, run.tasks[1].result}
    assert lone(found.left_out) == (
        f"{gone} is of the same task, data, protocol and seed as {kept}, which counts; delete it"
    )
    assert statuses(found) == ["ok", "ok"]


def test_find__two_protocols_evaluation_seeds_and_data_are_no_copies(make_run, tmp_path) -> None:
    results = {(*KNN, "p0"): [30.0, 31.0], (*KNN, "p1"): 32.0, ("knn", "digits"): 33.0}
    run = make_run("none", 0, results, hash8="h")
    found = find([tmp_path])
    assert (found.runs, found.left_out) == ([run], [])


def test_find__protocols_that_no_plan_tells_are_no_copies(make_run, tmp_path: Path) -> None:
    results = {(*KNN, "p0"): None, (*KNN, "p1"): None}
    make_run("none", 0, results, hash8="h", earlier=True)
    found = find([tmp_path])
    assert (len(found.runs[0].tasks), found.left_out) == (2, [])


@pytest.mark.parametrize("kept", ["pretraining.json", "results"])
def test_find__results_without_a_plan_or_configuration(make_run, other, tmp_path, kept) -> None:
    folder = make_run("adios", 0, {LINEAR: 99.0}, hash8="h").folder
    (folder / "plan.json").unlink()
    if kept == "results":
        (folder / "pretraining.json").unlink()
    else:
        shutil.rmtree(folder / "results")
    found = find([tmp_path])
    assert places(found, tmp_path) == ["runs/scenes/none-other/seed0"]
    assert lone(found.left_out).startswith(f"{folder} has neither plan.json nor config.yaml, ")


def test_find__a_folder_that_only_looks_like_a_run(other: Run, tmp_path: Path) -> None:
    (tmp_path / "runs/notes/seed0").mkdir(parents=True)
    (tmp_path / "runs/notes/seed0/notes.txt").touch()
    assert find([tmp_path]).left_out == []


def test_find__a_linked_folder_is_named_until_its_target_is_given(make_run, other, tmp_path):
    away = make_run("adios", 0, {LINEAR: 99.0}, hash8="h", root="away").folder
    link = tmp_path / "runs/scenes/adios-h"
    link.symlink_to(away.parent)
    (tmp_path / "runs/notes.txt").symlink_to(other.pretraining_file)
    (tmp_path / "runs/.cache").symlink_to(away)
    (tmp_path / "runs/tables").mkdir()
    (tmp_path / "runs/tables/latest").symlink_to(away)
    found = find([tmp_path / "runs"])
    assert places(found, tmp_path) == ["runs/scenes/none-other/seed0"]
    assert lone(found.left_out) == f"{link} is a link, which is not followed; give its target too"
    both = find([tmp_path / "runs", tmp_path / "away"])
    assert (len(both.runs), both.left_out) == (2, [])


def test_find__nothing_but_a_link(make_run, tmp_path: Path) -> None:
    away = make_run("adios", 0, {LINEAR: 99.0}, root="away").folder
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/link").symlink_to(away)
    with pytest.raises(
        UserError, match=r"runs holds no run .*, and .*link is a link, .*; give its"
    ):
        find([tmp_path / "runs"])


def test_find__a_folder_that_cannot_be_listed(make_run, other, tmp_path, monkeypatch) -> None:
    closed = make_run("adios", 0, {LINEAR: 99.0}, hash8="h").folder.parent
    scandir = os.scandir

    def refuse(path: str):
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find([tmp_path])
    assert places(found, tmp_path) == ["runs/scenes/none-other/seed0"]
    assert (
        lone(found.left_out) == f"{closed} cannot be listed (Permission denied); make it readable"
    )


SETTINGS = {"epochs": 5, "method": {"budget": 0.1, "fill": None}, "jobs": 1}


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"epochs": 500}, "epochs"),
        ({"method": {"budget": 0.5, "fill": None}}, "method.budget"),
        ({"method": {"budget": 0.1, "fill": None, "more": 1}}, "method.more"),
        ({"method": {"fill": None}}, "method.budget"),
    ],
)
def test_find__seeds_of_one_configuration_note_the_same(
    make_run, tmp_path: Path, changes, key: str, planned: bool
) -> None:
    for seed, config in enumerate([SETTINGS, SETTINGS | changes, SETTINGS]):
        make_run("none", seed, {LINEAR: 40.0}, hash8="h", config=config, planned=planned)
    found = find([tmp_path])
    folder = tmp_path / "runs/scenes/none-h"
    assert places(found, folder) == ["seed0", "seed2"]
    assert lone(found.left_out) == (
        f"{folder}/seed1/config.yaml has another '{key}' than {folder}/seed0/config.yaml, of "
        "another seed of its configuration; delete the folder of the wrong one to run again"
    )
    assert found.configs["h"]["epochs"] == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"jobs": 8, "slurm": {"time": 60}},
        {"epochs": 5.0},
        {"data": {"data_dir": "/elsewhere"}},
        {"sync_batchnorm": False},
        {"later": {"key": None}},  # which earlier versions do not have
    ],
)
def test_find__what_seeds_of_one_configuration_may_differ_in(make_run, tmp_path, changes) -> None:
    settings = SETTINGS | {"data": {"data_dir": "here"}, "sync_batchnorm": True}
    for seed, config in enumerate([settings, settings | changes]):
        make_run("none", seed, {LINEAR: 40.0}, hash8="h", config=config)
    found = find([tmp_path])
    assert (len(found.runs), found.left_out) == (2, [])


def test_find__the_configuration_of_another_seed(make_run, tmp_path: Path) -> None:
    runs = [make_run("none", s, {LINEAR: 40.0}, hash8="h", config=SETTINGS) for s in (0, 1, 2)]
    shutil.copy(runs[0].folder / "config.yaml", runs[1].folder)
    found = find([tmp_path])
    assert places(found, runs[0].folder.parent) == ["seed0", "seed2"]
    assert lone(found.left_out).startswith(f"{runs[1].folder} has plan.json and config.yaml of two")


def test_find__configurations_of_one_text_are_read_once(make_run, tmp_path, monkeypatch) -> None:
    for seed in range(3):
        make_run("none", seed, {LINEAR: 40.0}, hash8="h", config=SETTINGS)
        make_run("none", seed, {LINEAR: 40.0}, hash8="i", config=SETTINGS | {"jobs": seed % 2})
    read = []

    def count(folder: Path):
        read.append(f"{folder.parent.name}/{folder.name}")
        return read_config(folder)

    monkeypatch.setattr("reports.results.found.read_config", count)
    assert len(find([tmp_path]).runs) == 6
    assert read == ["none-h/seed0", "none-i/seed0", "none-i/seed1"]
