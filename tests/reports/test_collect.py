import math
import subprocess
import sys

import pytest

from reports.collect import COLUMNS, collect, row_labels, spelled

LINEAR = ("linear", "scenes")
KNN = ("knn", "scenes")


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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"task": "linear"', "Expecting"),
        ("[]", "holds no JSON object"),
        ('{"task": "linear"}', "lacks data, pretrain_seed, metrics"),
        ("\xff", "utf-8"),
    ],
)
def test_collect__broken_file(make_run, content: str, says: str) -> None:
    run = make_run("none", 0, {LINEAR: 40.0})
    run.tasks[0].result.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=says) as caught:
        collect([run])
    assert str(run.tasks[0].result) in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, "44.1"])
def test_collect__value_that_is_no_number(make_run, value) -> None:
    run = make_run("none", 0, {LINEAR: value})
    with pytest.raises(ValueError, match=r"seed0\.json .*no finite numbers"):
        collect([run])


def test_collect__no_metrics(make_run) -> None:
    run = make_run("none", 0, {LINEAR: 40.0})
    path = run.tasks[0].result
    path.write_text(path.read_text().replace('"accuracy": 40.0, "train_accuracy": 99.0', ""))
    with pytest.raises(ValueError, match=r"seed0\.json has no metrics"):
        collect([run])


def test_collect__result_of_another_run(make_run) -> None:
    run = make_run("none", 0, {LINEAR: 40.0})
    other = make_run("none", 1, {LINEAR: 41.0})
    run.tasks[0].result.write_text(other.tasks[0].result.read_text())
    with pytest.raises(ValueError, match=r"seed0\.json.*'pretrain_seed': 1.*'pretrain_seed': 0"):
        collect([run])


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
