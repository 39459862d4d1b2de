import json
import math
import subprocess
import sys

import pytest

from benchmark.lock import LOCK, exclusive
from benchmark.result_file import Result
from reports.results.collect import COLUMNS, collect

LINEAR = ("linear", "scenes")
KNN = ("knn", "scenes")
RESULT_KEYS = sorted(Result.__required_keys__)


def test_collect__one_row_per_run_and_task(make_run) -> None:
    runs = [make_run("none", seed, {LINEAR: 40.0 + seed, KNN: 30.0}) for seed in (0, 1)]
    frame = collect(runs)
    assert tuple(frame.columns) == COLUMNS
    assert set(frame["metric"]) == {"accuracy", "train_accuracy"}
    assert set(frame["status"]) == {"ok"}
    frame = frame[frame["main"]]
    assert list(frame["task"]) == ["linear", "knn", "linear", "knn"]
    assert list(frame["value"]) == [40.0, 30.0, 41.0, 30.0]
    assert set(frame["metric"]) == {"accuracy"}
    assert list(frame["path"]) == [str(task.result) for run in runs for task in run.tasks]
    assert frame["hash8"].nunique() == 1


def test_collect__status(make_run) -> None:
    runs = [
        make_run("none", 0, {LINEAR: 40.0, KNN: None}, failed=True),  # one task still worked
        make_run("none", 1, {LINEAR: None, KNN: None}),
    ]
    frame = collect(runs).query("main")
    assert list(frame["status"]) == ["ok", "failed", "missing", "missing"]
    assert list(frame["value"].isna()) == [False, True, True, True]


def test_collect__no_runs() -> None:
    assert tuple(collect([]).columns) == COLUMNS


def test_collect__same_result_planned_twice_counts_once(make_run) -> None:
    run = make_run("none", 0, {LINEAR: 40.0})
    assert len(collect([run, run])) == len(collect([run])) == 2


def refused(frame, run) -> str:
    """Why the only result of a run is in no table; the other rows are whole."""
    at_fault = frame["path"] == str(run.tasks[0].result)
    assert list(frame["status"].where(at_fault).dropna()) == ["invalid"]
    assert frame["value"].isna().equals(at_fault)
    assert set(frame["status"][~at_fault]) == {"ok"}
    (problem,) = frame["problem"].dropna()
    assert "\n" not in problem
    return str(problem)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"task": "linear"', "is broken (Expecting"),
        ("[]", "holds no JSON object"),
        ('{"task": "linear"}', "is no result (it lacks data, protocol, "),
        ("\xff", "is broken ('utf-8'"),
        ('{"metrics": {"accuracy": NaN}}', "is broken (NaN is no number of JSON)"),
        ('{"metrics": {"accuracy": -Infinity}}', "is broken (-Infinity is no number"),
        ("[" * 100_000, "is broken (it is nested too deeply)"),
    ],
)
def test_collect__broken_file(make_run, content: str, says: str) -> None:
    run, other = (make_run("none", seed, {LINEAR: 40.0}) for seed in (0, 1))
    file = run.tasks[0].result
    file.write_text(content, encoding="latin-1")
    problem = refused(collect([run, other]), run)
    assert problem.startswith(f"{file} {says}")
    assert "; delete it to have" in problem


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metrics": {}}, "it has no metrics"),
        ({"metrics": [44.1]}, "it.metrics is of type list where an object"),
        ({"metrics": {"accuracy": "44.1"}}, "it.metrics.accuracy is '44.1' where a finite number"),
        ({"metrics": {"accuracy": None}}, "it.metrics.accuracy is None where"),
        ({"metrics": {"accuracy": True}}, "it.metrics.accuracy is True where"),
        ({"metrics": {"accuracy": 10**400}}, "it.metrics.accuracy is of type int where a finite"),
        ({"metrics": {"accuracy": 1.0, "more": "x"}}, "it.metrics.more is 'x' where"),
        ({"metrics": {"\x1b[2J": 1.0}}, "a key of it.metrics is '\\x1b[2J' where printable text"),
        ({"protocol": "\ud800"}, "it.protocol is '\\ud800' where printable text"),
        ({"dirty": 1}, "it.dirty is 1 where true or false"),
        ({"eval_seed": False}, "it.eval_seed is False where a whole number"),
        ({"version": 1.0}, "it.version is 1.0 where a whole number"),
        ({"commit": 3}, "it.commit is 3 where printable text or null"),
        ({"inputs": {"encoder_sha256": "e0"}}, "it.inputs lacks data_fingerprint"),
        ({"cost": {"seconds": "1"}}, "it.cost.seconds is '1' where"),
        ({"details": []}, "it.details is of type list where an object"),
        ({"task": "knn"}, "task knn in place of linear"),
        ({"data": "digits"}, "data digits in place of scenes"),
        ({"protocol_id": "Linear-2-0123"}, "protocol_id Linear-2-0123 in place of linear-1-p0"),
        ({"hash8": "01234567"}, "hash8 01234567 in place of none-scenes-"),
        ({"pretrain_seed": 1, "eval_seed": 2}, "pretrain_seed 1 in place of 0, eval_seed 2 in"),
        (
            {"inputs": {"encoder_sha256": "e1", "data_fingerprint": "f1"}},
            "encoder_sha256 e1 in place of e0, data_fingerprint f1 in place of f0",
        ),
    ],
)
def test_collect__result_that_cannot_be_trusted(make_run, changes, says: str) -> None:
    run, other = (make_run("none", seed, {LINEAR: 40.0}) for seed in (0, 1))
    file = run.tasks[0].result
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    problem = refused(collect([run, other]), run)
    assert problem.startswith(str(file))
    assert says in problem
    assert problem.endswith("; delete it to have the task run again")


@pytest.mark.parametrize("key", RESULT_KEYS)
def test_collect__result_without_a_key(make_run, key: str) -> None:
    run, other = (make_run("none", seed, {LINEAR: 40.0}) for seed in (0, 1))
    file = run.tasks[0].result
    content = json.loads(file.read_text())
    del content[key]
    file.write_text(json.dumps(content))
    assert f"it lacks {key})" in refused(collect([run, other]), run)


def test_collect__result_that_measures_something_else(make_run) -> None:
    runs = [make_run("none", seed, {LINEAR: 40.0}) for seed in (0, 1)]
    odd = make_run("adios", 0, {LINEAR: 99.0}, metric={"linear": "f1"})
    assert " measures f1 where others of its protocol measure accuracy;" in refused(
        collect([*runs, odd]), odd
    )
    both = collect([runs[0], odd])  # which of them is right?
    assert list(both["status"]) == ["invalid", "invalid"]
    assert both["problem"].nunique() == 2


def test_collect__result_that_is_a_folder(make_run) -> None:
    run, other = (make_run("none", seed, {LINEAR: 40.0}) for seed in (0, 1))
    run.tasks[0].result.unlink()
    run.tasks[0].result.mkdir()
    assert "seed0.json cannot be read (Is a directory)" in refused(collect([run, other]), run)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"encoder_sha256": 3}', "[" * 100_000])
def test_collect__broken_record_of_the_pretraining(make_run, content: str) -> None:
    run, other = (make_run("none", seed, {LINEAR: 40.0}) for seed in (0, 1))
    run.pretraining_file.write_text(content)
    assert str(run.pretraining_file) in refused(collect([run, other]), run)


def test_collect__results_of_an_encoder_that_is_to_be_made_again(make_run) -> None:
    run = make_run("none", 0, {LINEAR: 40.0})
    run.pretraining_file.unlink()
    assert list(collect([run])["status"]) == ["missing"]


def test_collect__a_failed_task(make_run) -> None:
    run = make_run("none", 0, {LINEAR: 40.0, KNN: None})
    run.tasks[1].error_file.write_text("Traceback")
    assert list(collect([run]).query("main")["status"]) == ["ok", "failed"]


def test_collect__table_order(make_run) -> None:
    runs = [
        make_run("none", 0, {LINEAR: 1.0}, control="supervised"),
        make_run("none", 0, {LINEAR: 1.0}, control="untrained"),
        make_run("adios", 0, {LINEAR: 1.0}),
        make_run("adios", 0, {LINEAR: 1.0}, objective="byol"),
        make_run("none", 0, {LINEAR: 1.0}, objective="byol"),
        make_run("none", 0, {LINEAR: 1.0}),
    ]
    assert list(collect(runs).query("main")["label"]) == [
        "SimCLR (demo)",
        "+ ADIOS (SimCLR, demo)",
        "BYOL (demo)",
        "+ ADIOS (BYOL, demo)",
        "Untrained (demo)",
        "Supervised (demo)",
    ]


def test_collect__every_metric_has_a_row_and_the_first_is_the_main_one(make_run) -> None:
    scores = {"accuracy_10pct": 60.0, "accuracy_1pct": 40.0}
    frame = collect([make_run("none", 0, {("low_shot", "scenes"): scores})])
    rows = frame[["metric", "main", "value"]].itertuples(index=False, name=None)
    assert list(rows) == [("accuracy_10pct", True, 60.0), ("accuracy_1pct", False, 40.0)]


def test_collect__two_protocols_of_one_task(make_run) -> None:
    scores = {(*LINEAR, "p0"): 40.0, (*LINEAR, "p1"): 41.0}
    main = collect([make_run("none", 0, scores)]).query("main")
    assert list(main["protocol_id"]) == ["linear-1-p0", "linear-1-p1"]
    assert list(main["value"]) == [40.0, 41.0]


@pytest.mark.parametrize("of_task", [False, True])
def test_collect__running_while_a_living_process_holds_the_lock(make_run, of_task: bool) -> None:
    run = make_run("none", 0, {LINEAR: None, KNN: None}, failed=True)
    with exclusive(run.tasks[0].result.parent if of_task else run.folder, print):
        expected = ["running", "failed" if of_task else "running"]
        assert list(collect([run])["status"]) == expected
    assert list(collect([run])["status"]) == ["failed", "failed"]


def test_collect__a_lock_of_a_dead_process_is_none(make_run) -> None:
    run = make_run("none", 0, {LINEAR: None})
    with exclusive(run.folder, print):
        owner = json.loads((run.folder / LOCK).read_text())
    (run.folder / LOCK).write_text(json.dumps(owner | {"pid": 2**22 + 1}))
    assert list(collect([run])["status"]) == ["missing"]


def test_collect__broken_record_of_a_pretraining_without_results(make_run) -> None:
    run = make_run("none", 0, {LINEAR: None})
    run.pretraining_file.write_text("{")
    frame = collect([run])
    assert list(frame["status"]) == ["invalid"]
    assert str(run.pretraining_file) in frame["problem"][0]


def test_collect__cost_of_the_pretraining(make_run) -> None:
    cost = {"flops": 2e15, "seconds": 10.0, "images": 500.0, "memory": 1e9}
    runs = [
        make_run("none", 0, {LINEAR: 40.0}, cost=cost),
        make_run("none", 1, {LINEAR: 40.0}),
    ]
    frame = collect(runs).query("main")[["flops", "train_seconds", "images", "memory"]]
    assert list(frame.iloc[0]) == [2e15, 10.0, 500.0, 1e9]
    assert frame.iloc[1].isna().all()


def test_reports__import_no_torch() -> None:
    code = (
        "import importlib, pkgutil, sys, reports\n"
        "for module in pkgutil.iter_modules(reports.__path__, 'reports.'):\n"
        "    importlib.import_module(module.name)\n"
        "assert 'reports.tables.score_tables' in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"accuracy": 250.0}, "accuracy 250"),
        ({"accuracy": -1.0}, "accuracy -1"),
        ({"accuracy": 40.0, "train_accuracy": 100.1}, "train_accuracy 100.1"),
        ({"accuracy": 40.0, "miou_mean_mask": -0.5}, "miou_mean_mask -0.5"),
    ],
)
def test_collect__no_percentage(make_run, metrics, says: str) -> None:
    run, other = (make_run("none", seed, {LINEAR: 40.0}) for seed in (0, 1))
    file = run.tasks[0].result
    file.write_text(json.dumps(json.loads(file.read_text()) | {"metrics": metrics}))
    assert refused(collect([run, other]), run) == (
        f"{file} has {says}, which is no percentage; delete it to have the task run again"
    )


def test_collect__percentages_at_their_bounds(make_run) -> None:
    scores = {"accuracy": 0.0, "miou": 100 * 1.0000000000000002, "ari": -10.0, "loss": 250.0}
    frame = collect([make_run("none", 0, {LINEAR: scores})])
    assert list(frame["value"]) == list(scores.values())


def test_collect__a_run_without_tasks_has_a_row(make_run) -> None:
    cost = {"flops": 2e15, "seconds": 10.0, "images": 500.0, "memory": 1e9}
    run = make_run("adios", 0, {}, hash8="a")
    record = {"encoder_sha256": "e0", "commit": None, "dirty": False, "cost": cost}
    run.pretraining_file.write_text(json.dumps(record))
    other = make_run("none", 0, {LINEAR: 40.0, KNN: None}, hash8="h")
    frame = collect([run, other, run])
    (row,) = frame[frame["task"].isna()].to_dict("records")
    assert (row["status"], row["main"]) == ("no task", False)
    assert math.isnan(row["value"])
    assert frame["problem"].isna().all()
    assert (row["label"], row["row"], row["hash8"]) == ("+ ADIOS (demo)", "+ ADIOS (demo)", "a")
    assert (row["run"], row["flops"], row["memory"]) == (str(run.folder), 2e15, 1e9)
    scores = frame[frame["task"].notna()]
    assert list(scores["metric"].dropna()) == ["accuracy", "train_accuracy"]
    assert [f"{seed}" for seed in scores["eval_seed"]] == ["0", "0", "0"]  # no floats


def test_collect__a_run_without_tasks_whose_record_is_broken(make_run) -> None:
    run = make_run("none", 0, {})
    run.pretraining_file.write_text("{")
    frame = collect([run])
    assert list(frame["status"]) == ["no task"]
    assert frame["problem"][0].startswith(f"{run.pretraining_file} ")
