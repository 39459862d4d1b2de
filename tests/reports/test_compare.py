import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from benchmark.lock import exclusive
from benchmark.runs import PlannedTask, Run, identity, note_plans
from reports.archive import main as archive
from reports.compare import compare, main
from reports.sets.set_comparison import Change
from reports.stats import holm

ROOT = Path(__file__).parents[2]
Scores = Mapping[int, float | None]  # by seed; None where the result is missing
SAME = {0: 40.0, 1: 42.0, 2: 41.0}


def lay_out(
    runs: Path,
    scores: Scores = SAME,
    *,
    method: str = "adios",
    hash8: str = "0123abcd",
    task: str = "linear",
    protocol_id: str = "Linear-1-p0",
    fingerprint: str = "f0",
    settings: Mapping[str, Any] | None = None,
    torch: str = "2.11.0",
    host: str = "one",
    commit: str = "a" * 40,
    cost: Mapping[str, float] | None = None,
) -> Path:
    """Seeds of one configuration with the results of one task; called again, of another task."""
    for seed, score in scores.items():
        folder = runs / "scenes" / f"{method}-{hash8}" / f"seed{seed}"
        result = folder / f"results/{task}-scenes-00000000/seed0.json"
        planned = PlannedTask(task, "scenes", fingerprint, 0, result, protocol_id)
        names = (method, "simclr", "resnet18", "scenes", "demo", seed, None, "f0", hash8, "s0")
        run = Run(*names, folder, (planned,))
        note_plans([run])
        config = {"run": identity(run), **(settings or {"epochs": 1})}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        attempt = {"versions": {"torch": torch}, "machine": {"host": host, "device": "cpu"}}
        (folder / "provenance.json").write_text(json.dumps({"attempts": [attempt]}))
        record = {"encoder_sha256": f"e{seed}", "commit": commit, "dirty": False}
        record["cost"] = {"seconds": 10.0, "flops": 2e15} | dict(cost or {})
        (folder / "pretraining.json").write_text(json.dumps(record))
        if score is None:
            continue
        found = {
            "task": task,
            "data": "scenes",
            "protocol": "How it is scored.",
            "protocol_id": protocol_id,
            "version": 1,
            "hash8": hash8,
            "pretrain_seed": seed,
            "eval_seed": 0,
            "metrics": {"accuracy": score},
            "details": {},
            "cost": {"seconds": 1.5},
            "inputs": {"encoder_sha256": f"e{seed}", "data_fingerprint": fingerprint},
            "commit": commit,
            "dirty": False,
            "encoder_commit": commit,
            "encoder_dirty": False,
        }
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(found))
    return runs


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return tmp_path / "a"


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return tmp_path / "b"


def only(a: Path, b: Path) -> Change:
    (change,) = compare(a, b).found.changes
    return change


def gaps(a: Path, b: Path) -> list[tuple[str, str]]:
    return [(gap.label, gap.why) for gap in compare(a, b).found.gaps]


# One cell


def test_compare__identical(a: Path, b: Path, capsys) -> None:
    assert only(lay_out(a), lay_out(b)).verdict == "identical"
    assert main([str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("**Comparison.** 1 cell compared: 1 identical. A is")
    assert "not the same" not in out


def test_compare__one_shared_seed_can_be_identical(a: Path, b: Path) -> None:
    assert only(lay_out(a, {0: 40}), lay_out(b, {0: 40})).verdict == "identical"


def test_compare__last_bit_is_no_longer_identical(a: Path, b: Path) -> None:
    change = only(lay_out(a), lay_out(b, {**SAME, 2: math.nextafter(41.0, 42.0)}))
    assert change.verdict == "not told apart"


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        ({0: 39.0, 1: 43.0, 2: 41.5}, "not told apart"),
        ({0: 45.0, 1: 47.1, 2: 46.1}, "higher"),
        ({0: 35.0, 1: 37.1, 2: 36.1}, "lower"),
        ({0: 41.0, 1: 43.0, 2: 42.0}, "higher"),  # by exactly one point each
    ],
)
def test_compare__paired_over_shared_seeds(a: Path, b: Path, theirs: Scores, verdict: str) -> None:
    change = only(lay_out(a, {**SAME, 3: 90.0}), lay_out(b, {**theirs, 4: 10.0}))
    x, y = [SAME[k] for k in range(3)], [theirs[k] for k in range(3)]
    assert change.tested.test == "paired t, 3 seeds"
    assert change.tested.difference == pytest.approx(np.mean(y) - np.mean(x))
    if np.ptp(np.subtract(y, x)) > 1e-9:
        oracle = stats.ttest_rel(y, x)
        assert change.tested.p == pytest.approx(oracle.pvalue)
        interval = (change.tested.low, change.tested.high)
        assert interval == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert change.verdict == verdict


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        ({2: 39.0, 3: 43.0, 4: 41.5}, "not told apart"),
        ({3: 50.0, 4: 52.0, 5: 53.0, 6: 51.0}, "higher"),
        ({2: 30.0, 3: 31.0}, "lower"),
    ],
)
def test_compare__welch_with_fewer_than_two_shared_seeds(
    a: Path, b: Path, theirs: Scores, verdict: str
) -> None:
    change = only(lay_out(a), lay_out(b, theirs))
    x, y = np.array([*SAME.values()]), np.array([*theirs.values()], float)
    errors = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    freedom = sum(errors) ** 2 / (errors[0] ** 2 / (len(x) - 1) + errors[1] ** 2 / (len(y) - 1))
    t = (y.mean() - x.mean()) / math.sqrt(sum(errors))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(errors))
    assert change.tested.test == f"Welch, 3 and {len(y)} seeds"
    assert change.tested.p == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    difference = y.mean() - x.mean()
    found = (change.tested.difference, change.tested.low, change.tested.high)
    assert found == pytest.approx((difference, difference - half, difference + half))
    assert change.verdict == verdict


@pytest.mark.parametrize(("score", "verdict"), [(40.0, "not told apart"), (41.0, "higher")])
def test_compare__welch_without_noise(a: Path, b: Path, score: float, verdict: str) -> None:
    change = only(lay_out(a, {0: 40, 1: 40}), lay_out(b, {2: score, 3: score}))
    assert change.verdict == verdict


@pytest.mark.parametrize(
    ("ours", "theirs"), [({0: 40}, {0: 41}), ({0: 40}, {1: 40}), ({0: 40, 1: 41, 2: 42}, {0: 50})]
)
def test_compare__too_few_seeds(a: Path, b: Path, ours: Scores, theirs: Scores, capsys) -> None:
    change = only(lay_out(a, ours), lay_out(b, theirs))
    assert change.verdict == "too few seeds"
    assert change.tested.test == ""
    assert main([str(a), str(b)]) == 1
    out = capsys.readouterr().out
    assert "nan" not in out
    assert out.splitlines()[-1].startswith("not the same: 1 too few seeds")


# All cells


def test_compare__identical_cells_are_not_in_the_family(a: Path, b: Path) -> None:
    theirs = {0: 30.0, 1: 32.2, 2: 30.5}
    lay_out(lay_out(a), task="knn")
    lay_out(lay_out(b), theirs, task="knn")
    same, other = sorted(compare(a, b).found.changes, key=lambda change: change.verdict)
    assert (same.verdict, other.verdict) == ("identical", "lower")
    assert same.tested.test == ""
    assert all(map(math.isnan, (same.p, same.tested.p, same.tested.low, same.tested.high)))
    assert other.p == other.tested.p
    table = compare(a, b).tables[0]
    row = next(row for row in table.rows if row.cells[-1].text == "identical")
    assert [cell.text for cell in row.cells[3:7]] == ["+0.00", "", "", ""]
    assert table.data is not None
    line = table.data.set_index("verdict").loc["identical"]
    assert line[["low", "high", "p", "p_holm"]].isna().all()


def test_compare__holm_over_all_cells(a: Path, b: Path) -> None:
    tasks = {"linear": 0.04, "knn": 0.02, "finetune": 0.01}
    for task, shift in tasks.items():
        lay_out(a, task=task, method="none", hash8="0000000a")
        moved = {k: v + shift * (1 + k / 3) * 100 for k, v in SAME.items()}
        lay_out(b, moved, task=task, method="none", hash8="0000000a")
    found = compare(a, b).found.changes
    assert len(found) == 3
    assert "identical" not in [one.verdict for one in found]
    assert [one.p for one in found] == pytest.approx(holm([one.tested.p for one in found]))
    alone = min(one.tested.p for one in found)
    assert min(one.p for one in found) == pytest.approx(3 * alone)
    assert "corrected for all cells that are tested" in compare(a, b).tables[0].caption


def test_compare__summary_names_what_is_told_apart(a: Path, b: Path, capsys) -> None:
    lay_out(a)
    lay_out(b)
    lay_out(a, task="knn")
    lay_out(b, {0: 30.0, 1: 32.1, 2: 31.0}, task="knn")
    summary = "2 cells compared: 1 identical, 1 lower (+ ADIOS (demo), kNN on scenes: -9.97)."
    assert compare(a, b).summary == summary
    assert main([str(a), str(b)]) == 1
    assert capsys.readouterr().out.startswith(f"**Comparison.** {summary}")


# The exit status


def last_line(a: Path, b: Path, capsys, status: int) -> str:
    """What is told last; the status is the same with the sides exchanged."""
    assert main([str(b), str(a)]) == status
    capsys.readouterr()
    assert main([str(a), str(b)]) == status
    return capsys.readouterr().out.splitlines()[-1]


def test_compare__status_not_told_apart(a: Path, b: Path, capsys) -> None:
    lay_out(lay_out(a), task="knn")
    lay_out(lay_out(b), {0: 39.0, 1: 43.0, 2: 41.5}, task="knn")
    assert "not the same" not in last_line(a, b, capsys, 0)
    assert compare(a, b).differing == ""
    assert compare(a, b).summary == "2 cells compared: 1 identical, 1 not told apart."


def test_compare__status_says_all_that_differs(a: Path, b: Path, capsys) -> None:
    lay_out(lay_out(a), task="knn")
    lay_out(lay_out(b), {0: 30.0, 1: 32.1, 2: 31.0}, task="knn")
    lay_out(lay_out(a, task="finetune"), task="segmentation")
    lay_out(a, {0: 40}, method="random", hash8="0000000a")
    lay_out(b, {0: 41}, method="random", hash8="0000000a")
    lay_out(b, method="none", hash8="0000000b")
    lay_out(b, {7: 0}, method="none", hash8="0000000b")
    (b / "scenes/none-0000000b/seed7/plan.json").write_text("{")
    assert last_line(a, b, capsys, 1) == (
        "not the same: 1 lower, 1 too few seeds, 1 configuration only in B, 2 cells only in A, "
        "1 result left out"
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (SAME, {**SAME, 3: 40.0}, "1 cell with unshared seeds"),
        (SAME, {**SAME, 3: None}, "1 cell with unshared seeds"),
        ({**SAME, 3: None}, {**SAME, 3: None}, "1 cell with unshared seeds"),
    ],
)
def test_compare__status_seeds(
    a: Path, b: Path, capsys, ours: Scores, theirs: Scores, words: str
) -> None:
    lay_out(a, ours)
    lay_out(b, theirs)
    assert last_line(a, b, capsys, 1) == f"not the same: {words}"


@pytest.mark.parametrize(
    ("ours", "theirs", "other", "words"),
    [
        (SAME, {0: None, 1: None, 2: None}, {}, "1 cell only in A"),
        ({0: None, 1: None, 2: None}, {0: None, 1: None, 2: None}, {}, "1 cell in neither"),
        (SAME, SAME, {"protocol_id": "KNN-2-p1"}, "1 cell not comparable"),
    ],
)
def test_compare__status_cells(
    a: Path, b: Path, capsys, ours: Scores, theirs: Scores, other: Any, words: str
) -> None:
    lay_out(lay_out(a), ours, task="knn")
    lay_out(lay_out(b), theirs, task="knn", **other)
    assert last_line(a, b, capsys, 1) == f"not the same: {words}"


def test_compare__status_left_out(a: Path, b: Path, capsys) -> None:
    lay_out(a)
    lay_out(b, {**SAME, 3: 40.0})
    (b / "scenes/adios-0123abcd/seed3/plan.json").write_text("{")
    assert last_line(a, b, capsys, 1) == "not the same: 1 result left out"


def test_compare__help_tells_the_status(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "0  every cell is identical or not told apart, and nothing is missing" in (
        capsys.readouterr().out
    )


# What is not compared


def test_compare__configurations_of_one_side(a: Path, b: Path) -> None:
    lay_out(lay_out(a), method="none", hash8="0000000a")
    lay_out(lay_out(b), method="random", hash8="0000000b")
    assert gaps(a, b) == [
        ("SimCLR (demo)", "only in A (0000000a)"),
        ("+ Random (demo)", "only in B (0000000b)"),
    ]


def test_compare__missing_results(a: Path, b: Path) -> None:
    lay_out(lay_out(a), task="knn")
    lay_out(lay_out(b), dict.fromkeys(SAME), task="knn")
    assert gaps(a, b) == [("+ ADIOS (demo)", "missing in B (3 missing)")]
    assert gaps(b, a) == [("+ ADIOS (demo)", "missing in A (3 missing)")]
    assert gaps(b, b) == [("+ ADIOS (demo)", "missing in A (3 missing) and B (3 missing)")]


def test_compare__seeds_of_one_side(a: Path, b: Path) -> None:
    lay_out(a, {**SAME, 3: 40.0})
    lay_out(b, {**SAME, 1: None, 4: 40.0, 5: 40.0, 6: None})
    why = "seeds 1 3 only in A, seeds 4 5 only in B, seed 6 in neither"
    assert gaps(a, b) == [("+ ADIOS (demo)", why)]


def test_compare__another_protocol(a: Path, b: Path) -> None:
    lay_out(lay_out(a), task="knn", protocol_id="KNN-1-p0")
    lay_out(lay_out(b), task="knn", protocol_id="KNN-2-p1")
    why = "not comparable: another protocol (KNN-1-p0 in A, KNN-2-p1 in B)"
    assert gaps(a, b) == [("+ ADIOS (demo)", why)]


def test_compare__a_protocol_that_both_have_and_one_that_differs(a: Path, b: Path) -> None:
    for runs in (a, b):
        lay_out(runs, protocol_id="Linear-1-both")
    for runs, own in ((a, "Linear-1-a"), (b, "Linear-1-b")):
        for place in runs.rglob("linear-scenes-00000000"):
            place.rename(place.with_name("linear-scenes-11111111"))
        lay_out(runs, protocol_id=own)
    assert only(a, b).column.protocol_id == "Linear-1-both"
    why = "not comparable: another protocol (Linear-1-a in A, Linear-1-b in B)"
    assert gaps(a, b) == [("+ ADIOS (demo)", why)]


def test_compare__other_data(a: Path, b: Path) -> None:
    lay_out(lay_out(a), task="knn")
    lay_out(lay_out(b), task="knn", fingerprint="f1")
    assert gaps(a, b) == [("+ ADIOS (demo)", "not comparable: other data (f0 in A, f1 in B)")]


def test_compare__nothing_in_common(a: Path, b: Path, capsys) -> None:
    lay_out(a, method="none", hash8="0000000a")
    assert main([str(a), str(lay_out(b))]) == 2
    told = capsys.readouterr()
    assert "share no cell" in told.err
    assert "only in B (0123abcd)" in told.out


# Rows


def test_compare__rows_of_one_label(a: Path, b: Path) -> None:
    lay_out(a, settings={"epochs": 100, "runs_dir": "x"})
    lay_out(b, hash8="ffffffff", settings={"epochs": 200, "runs_dir": "y"})
    found = compare(a, b).found
    assert [change.verdict for change in found.changes] == ["identical"]
    assert found.settings == [
        "+ ADIOS (demo): 0123abcd in A and ffffffff in B are compared by their label; A has "
        "epochs=100, B has epochs=200."
    ]
    assert compare(a, b, "setting").found.changes == []
    assert len(compare(a, b, "setting").found.gaps) == 2


def test_compare__same_setting_comes_before_same_label(a: Path, b: Path) -> None:
    lay_out(a)
    lay_out(lay_out(b), hash8="ffffffff", settings={"epochs": 2})
    found = compare(a, b).found
    assert [(pair.a.hash8, pair.b.hash8) for pair in found.matches] == [("0123abcd", "0123abcd")]
    assert "only in B (ffffffff)" in [gap.why for gap in found.gaps]


def test_compare__no_setting_differs(a: Path, b: Path) -> None:
    lay_out(b, hash8="ffffffff")
    assert "no setting differs" in compare(lay_out(a), b).found.settings[0]


# Around it


def test_compare__origins(a: Path, b: Path) -> None:
    lay_out(a)
    lay_out(b, torch="2.15.0", host="two", commit="b" * 40)
    (b / "scenes/adios-0123abcd/seed2/plan.json").write_text("{")
    origins = compare(a, b).tables[3]
    rows = {row.label: [cell.text for cell in row.cells] for row in origins.rows}
    assert rows["Commits"] == ["a" * 10, "b" * 10, "yes"]
    assert rows["PyTorch"] == ["2.11.0", "2.15.0", "yes"]
    assert rows["Hosts"] == ["one", "two", "yes"]
    assert rows["Devices"] == ["cpu", "cpu", "no"]
    assert rows["Runs"] == ["3", "2", "yes"]
    assert rows["Left out"] == ["0", "1", "yes"]
    assert "plan.json" in origins.notes[0]


def test_compare__broken_provenance_is_not_known(a: Path, b: Path) -> None:
    for file in lay_out(b).rglob("provenance.json"):
        file.write_text('{"attempts": [{"machine": 3}]}')
    rows = {row.label: row.cells for row in compare(lay_out(a), b).tables[3].rows}
    assert rows["Hosts"][1].text == ""


def test_compare__invalid_results_are_left_out(a: Path, b: Path) -> None:
    broken = lay_out(b) / "scenes/adios-0123abcd/seed0/results/linear-scenes-00000000/seed0.json"
    broken.write_text("{")
    compared = compare(lay_out(a), b)
    assert compared.found.changes[0].b.n == 2
    assert [str(broken) in sentence for sentence in compared.found.b.left_out] == [True]


def test_compare__cost(a: Path, b: Path) -> None:
    lay_out(b, cost={"seconds": 30.0, "flops": 1e15})
    (row,) = compare(lay_out(a), b).tables[2].rows
    assert [cell.text for cell in row.cells] == ["10", "30", "3", "2", "1", "0.5"]


def test_compare__archive_for_a_folder(a: Path, b: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.tar.gz"
    assert archive(["export", str(lay_out(b)), "--out", str(file)]) == 0
    compared = compare(lay_out(a), file)
    assert compared.summary == "1 cell compared: 1 identical."
    assert f"B is {file}" in compared.tables[0].caption


@pytest.mark.parametrize("place", ["nowhere", "empty", "file"])
def test_compare__no_result_set(a: Path, tmp_path: Path, capsys, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no archive")
    assert main([str(lay_out(a)), str(tmp_path / place)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert place in told


def test_compare__files(a: Path, b: Path, tmp_path: Path) -> None:
    assert main([str(lay_out(a)), str(lay_out(b)), "--out", str(tmp_path / "out")]) == 0
    names = [
        f"compare{part}.{suffix}"
        for part in ("", "_cost", "_gaps", "_origins")
        for suffix in ("csv", "md", "tex")
    ]
    listed = "compare_files.json"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*names, listed])
    (cells,) = pd.read_csv(tmp_path / "out/compare.csv").to_dict("records")
    assert (cells["verdict"], cells["mean_b"], cells["n_b"]) == ("identical", 41.0, 3)
    assert "(U+" not in (tmp_path / "out/compare.tex").read_text(), "unknown to LaTeX"


def test_compare__removes_files_of_an_earlier_comparison_alone(
    a: Path, b: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("compare_old.csv", "table1.csv"):
        (out / name).touch()
    (out / "files.json").write_text('{"files": ["table1.csv"]}')  # a report's
    (out / "compare_files.json").write_text('{"files": ["compare_old.csv"]}')
    assert main([str(lay_out(a)), str(lay_out(b)), "--out", str(out)]) == 0
    assert not (out / "compare_old.csv").exists()
    assert (out / "table1.csv").exists()
    assert json.loads((out / "files.json").read_text()) == {"files": ["table1.csv"]}


def test_compare__waits_for_who_writes_there(a: Path, b: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = [str(lay_out(a)), str(lay_out(b)), "--out", str(out)]
    with ThreadPoolExecutor() as threads:
        with exclusive(out, lambda owner: None):
            done = threads.submit(main, line)
            with pytest.raises(TimeoutError):
                done.result(1)
            assert [path.name for path in out.iterdir()] == [".lock"]
        assert done.result() == 0


def test_compare__reader_that_leaves_early(a: Path, b: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    line = [sys.executable, str(ROOT / "reports/compare.py"), str(lay_out(a)), str(lay_out(b))]
    done = subprocess.run(line, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")  # 141 in a shell
