import json
import subprocess
import sys

import pytest

from benchmark.result_file import Result
from reports.collect import COLUMNS, collect, row_labels, spelled

LINEAR = ("linear", "scenes")
KNN = ("knn", "scenes")
RESULT_KEYS = sorted(Result.__annotations__)


def test_collect__one_row_per_run_and_task(make_run) -> None:
    runs = [make_run("none", seed, {LINEAR: 40.0 + seed, KNN: 30.0}) for seed in (0, 1)]
    frame = collect(runs)
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["task"]) == ["linear", "knn", "linear", "knn"]
    assert list(frame["value"]) == [40.0, 30.0, 41.0, 30.0]
    assert set(frame["metric"]) == {"accuracy"}
    assert set(frame["status"]) == {"ok"}
    assert list(frame["path"]) == [str(task.result) for run in runs for task in run.tasks]
    assert frame["hash8"].nunique() == 1


def test_collect__status(make_run) -> None:
    runs = [
        make_run("none", 0, {LINEAR: 40.0, KNN: None}, failed=True),  # one task still worked
        make_run("none", 1, {LINEAR: None, KNN: None}),
    ]
    frame = collect(runs)
    assert list(frame["status"]) == ["ok", "failed", "missing", "missing"]
    assert list(frame["value"].isna()) == [False, True, True, True]


def test_collect__no_runs() -> None:
    assert tuple(collect([]).columns) == COLUMNS


def test_collect__same_result_planned_twice_counts_once(make_run) -> None:
    run = make_run("none", 0, {LINEAR: 40.0})
    assert len(collect([run, run])) == 1


def test_collect__two_protocols_under_one_name(make_run) -> None:
    runs = [make_run("none", 0, {LINEAR: 40.0}, result_file=f"{k}/seed0.json") for k in "ab"]
    with pytest.raises(ValueError, match=r"linear-scenes-a and .*linear-scenes-b score"):
        collect(runs)


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
    assert list(collect([run])["status"]) == ["ok", "failed"]


def test_spelled__known_and_unknown_names() -> None:
    names = ("adios", "adios_s", "superpixel_budget", "random", "byol", "simsiam")
    spellings = ["ADIOS", "ADIOS-s", "Superpixel budget", "Random", "BYOL", "SimSiam"]
    assert [spelled(name) for name in names] == spellings


def labels(runs) -> list[str]:
    return list(row_labels(runs).values())


def test_row_labels__as_in_the_paper(make_run) -> None:
    runs = [make_run(name, 0, {}) for name in ("none", "adios", "superpixel_budget")]
    runs.append(make_run("none", 0, {}, control="untrained"))
    expected = ["SimCLR", "+ ADIOS", "+ Superpixel budget", "Untrained"]
    assert labels(runs) == [f"{label} (demo)" for label in expected]


def test_row_labels__mixed_presets_and_objectives(make_run) -> None:
    runs = [
        make_run("none", 0, {}),
        make_run("none", 0, {}, objective="byol"),
        make_run("adios", 0, {}, objective="byol", preset="smoke"),
        make_run("none", 0, {}, control="supervised"),
    ]
    assert labels(runs) == [
        "SimCLR (demo)",
        "BYOL (demo)",
        "+ ADIOS (BYOL, smoke)",
        "Supervised (demo)",
    ]


def test_row_labels__another_update_is_told(make_run) -> None:
    runs = [
        make_run("adios", 0, {}, update=u) for u in ("alternating", "simultaneous", "low_memory")
    ]
    assert labels(runs) == [
        "+ ADIOS (demo)",
        "+ ADIOS (demo, simultaneous update)",
        "+ ADIOS (demo, low memory update)",
    ]


def test_row_labels__what_the_sweep_varied_before_the_hash(make_run) -> None:
    runs = [
        make_run("sequential", 0, {}, hash8=f"{k:08d}", varied=varied)
        for k, varied in enumerate([("mask_net.num_masks=2",), ("mask_net.num_masks=3",), (), ()])
    ]
    runs.append(make_run("none", 0, {}, varied=("mask_net.num_masks=2",)))
    assert labels(runs) == [
        "+ Sequential (demo) [mask_net.num_masks=2]",
        "+ Sequential (demo) [mask_net.num_masks=3]",
        "+ Sequential (demo) [00000002]",
        "+ Sequential (demo) [00000003]",
        "SimCLR (demo)",
    ]


def test_row_labels__hash_as_last_resort(make_run) -> None:
    runs = [make_run("adios", 0, {}, hash8=f"{k:08d}") for k in (1, 2)]
    runs.append(make_run("none", 0, {}))
    assert labels(runs) == [
        "+ ADIOS (demo) [00000001]",
        "+ ADIOS (demo) [00000002]",
        "SimCLR (demo)",
    ]


def test_collect__table_order(make_run) -> None:
    runs = [
        make_run("none", 0, {LINEAR: 1.0}, control="supervised"),
        make_run("none", 0, {LINEAR: 1.0}, control="untrained"),
        make_run("adios", 0, {LINEAR: 1.0}),
        make_run("adios", 0, {LINEAR: 1.0}, objective="byol"),
        make_run("none", 0, {LINEAR: 1.0}, objective="byol"),
        make_run("none", 0, {LINEAR: 1.0}),
    ]
    assert list(collect(runs)["label"]) == [
        "SimCLR (demo)",
        "+ ADIOS (SimCLR, demo)",
        "BYOL (demo)",
        "+ ADIOS (BYOL, demo)",
        "Untrained (demo)",
        "Supervised (demo)",
    ]


def test_reports__import_no_torch() -> None:
    code = (
        "import importlib, pkgutil, sys, reports\n"
        "for module in pkgutil.iter_modules(reports.__path__, 'reports.'):\n"
        "    importlib.import_module(module.name)\n"
        "assert 'reports.tables' in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
