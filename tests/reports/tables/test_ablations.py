from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reports.results.collect import collect
from reports.results.entrants import entrants
from reports.tables.ablations import ablation_tables, varied_alone
from reports.tables.markup import Table

LINEAR = ("linear", "scenes")


@pytest.fixture
def mixed(make_run):
    """Runs of a method by hash8, each with its settings, and one score per seed."""

    def make(configs: Mapping[str, Any], scores: Mapping[str, Sequence[float | None]] | None = None,
             **changes) -> tuple[list, Mapping[str, Any]]:  # fmt: skip
        runs = [
            make_run("sequential", seed, {LINEAR: score}, hash8=hash8, **changes)
            for hash8 in configs
            for seed, score in enumerate((scores or {}).get(hash8, [40.0]))
        ]
        return runs, configs

    return make


def groups(runs, configs) -> dict[str, list[list[str]]]:
    found = varied_alone(entrants(collect(runs), configs).values())
    return {key: [[one.hash8 for one in group] for group in own] for key, own in found.items()}


def tables(runs, configs, **options) -> list[Table]:
    frame = collect(runs, configs)
    return list(ablation_tables(frame, entrants(frame, configs), **options))


def config(budget: float = 0.1, epochs: int = 5, **more: Any) -> dict[str, Any]:
    return {"method": {"budget": budget}, "epochs": epochs, **more}


def test_varied_alone__one_key(mixed) -> None:
    configs = {"a": config(0.1), "b": config(0.2), "c": config(0.3)}
    assert groups(*mixed(configs)) == {"method.budget": [["a", "b", "c"]]}


def test_varied_alone__two_keys_have_groups_each(mixed) -> None:
    configs = {"a": config(0.1, 5), "b": config(0.1, 10), "c": config(0.2, 5), "d": config(0.2, 10)}
    assert groups(*mixed(configs)) == {
        "method.budget": [["a", "c"], ["b", "d"]],
        "epochs": [["a", "b"], ["c", "d"]],
    }


def test_varied_alone__what_differs_in_two_keys_is_no_ablation(mixed) -> None:
    configs = {"a": config(0.1, 5), "b": config(0.2, 10), "c": config(0.3, 5)}
    assert groups(*mixed(configs)) == {"method.budget": [["a", "c"]]}


def test_varied_alone__keys_that_vary_together_count_once(mixed) -> None:
    configs = {
        "a": config(0.1, schedule={"budget": 0.1}),
        "b": config(0.2, schedule={"budget": 0.2}),
    }
    assert groups(*mixed(configs)) == {"method.budget": [["a", "b"]]}


def test_varied_alone__what_changes_no_encoder_does_not_count(mixed) -> None:
    configs = {"a": config(seed=0, device="cpu"), "b": config(0.2, seed=1, device="cuda")}
    assert groups(*mixed(configs)) == {"method.budget": [["a", "b"]]}
    assert groups(*mixed({"a": config(jobs=1), "b": config(jobs=2)})) == {}


def test_varied_alone__a_key_that_some_lack(mixed) -> None:
    configs = {"a": {"epochs": 5}, "b": {"epochs": 5, "fill": "blur"}}
    assert groups(*mixed(configs)) == {"fill": [["a", "b"]]}


@pytest.mark.parametrize(
    "changes", [{"control": "supervised"}, {"data": "digits"}, {"preset": "p"}]
)
def test_varied_alone__within_one_method_data_and_preset(mixed, make_run, changes) -> None:
    runs, configs = mixed({"a": config(0.1)})
    runs.append(make_run("sequential", 0, {LINEAR: 1.0}, hash8="b", **changes))
    runs.append(make_run("adios", 0, {LINEAR: 1.0}, hash8="c"))
    assert groups(runs, {**configs, "b": config(0.2), "c": config(0.3)}) == {}


def test_varied_alone__without_configurations(mixed) -> None:
    runs, _ = mixed({"a": config(0.1), "b": config(0.2)})
    assert groups(runs, {}) == {}


def test_ablation_tables__cells(mixed) -> None:
    scores = {"a": [40.0, 42.0], "b": [10.0, 12.1], "c": [39.0, None]}
    runs, configs = mixed({"a": config(10), "b": config(9), "c": config(0.5)}, scores)
    (table,) = tables(runs, configs)
    assert (table.name, table.title) == ("ablation_method_budget", "Ablation of method.budget")
    assert [(row.label, row.cells[0].plain, row.cells[0].mark) for row in table.rows] == [
        ("+ Sequential (demo), budget=0.5", "39.00 (n=1, 1 not run)", ""),
        ("+ Sequential (demo), budget=9", "11.05 ± 1.48", ""),
        ("+ Sequential (demo), budget=10", "41.00 ± 1.41", "best"),
    ]
    assert "differ in nothing else. Mean" in table.caption
    assert "over n=2 seeds, where a cell says no other n" in table.caption
    assert len({row.block for row in table.rows}) == 1
    assert table.rows[2].cells[0].runs == tuple(str(run.folder) for run in runs[:2])
    assert not any("cannot find a row worse" in note for note in table.notes)  # a lone seed rests


def test_ablation_tables__numbers_to_go_on_with(mixed) -> None:
    made = mixed({"a": config(0.1), "b": config(0.2)}, {"a": [40.0, 42.0], "b": [None, 50.0]})
    (table,) = tables(*made)
    lines = {line["hash8"]: line for line in table.data.to_dict("records")}
    assert [lines[h]["value"] for h in "ab"] == [0.1, 0.2]
    assert {line["setting"] for line in lines.values()} == {"method.budget"}
    assert [lines[h]["n"] for h in "ab"] == [2, 1]
    assert [lines[h]["missing"] for h in "ab"] == [0, 1]
    assert [lines[h]["best"] for h in "ab"] == [True, False]  # one seed may be the best by luck
    assert lines["a"]["mean"] == 41.0
    assert lines["a"]["std"] == pytest.approx(np.std([40, 42], ddof=1))
    low, high = stats.t.interval(0.95, 1, loc=41, scale=stats.sem([40, 42]))
    assert (lines["a"]["low"], lines["a"]["high"]) == pytest.approx((low, high))
    assert lines["b"]["mean"] == 50.0
    assert np.isnan(lines["b"]["std"])


def test_ablation_tables__blocks_are_ranked_apart_and_told_apart(mixed) -> None:
    configs = {"a": config(0.1, 5), "b": config(0.1, 10), "c": config(0.2, 5), "d": config(0.2, 10)}
    scores = {"a": [40.0], "b": [50.0], "c": [41.0], "d": [49.0]}
    by_budget, by_epochs = tables(*mixed(configs, scores))
    assert [(row.block, row.cells[0].mark) for row in by_budget.rows] == [
        ("group0", ""), ("group0", "best"), ("group1", "best"), ("group1", "")
    ]  # fmt: skip
    assert len({row.label for row in by_epochs.rows}) == 4
    assert by_epochs.rows[0].label == "+ Sequential (demo) [budget=0.1 epochs=5], epochs=5"


def test_ablation_tables__underlining(mixed) -> None:
    scores = {"a": [50.0, 51.0, 52.0], "b": [52.0, 50.0, 50.0], "c": [40.0, 41.1, 42.0]}
    made = mixed({"a": config(1), "b": config(2), "c": config(3)}, scores)
    (table,) = tables(*made)
    assert [row.cells[0].mark for row in table.rows] == ["best", "tied", ""]
    assert "best of the block (paired t test" in table.notes[0]
    (table,) = tables(*made, test="sign-flip")
    assert [row.cells[0].mark for row in table.rows] == ["best", "", ""]


def test_ablation_tables__what_varies_with_the_key_is_told(mixed) -> None:
    configs = {"a": config(0.1, 5), "b": config(0.2, 10)}
    (table,) = tables(*mixed(configs))
    assert "differ in nothing else but epochs, which vary with it." in table.caption


def test_ablation_tables__keys_are_no_paths(mixed) -> None:
    keys = ("../../x", "a.b", "a_b", "#%")
    base = dict.fromkeys(keys, 0)
    configs = {"base": base} | {f"h{k}": base | {key: 1} for k, key in enumerate(keys)}
    names = [table.name for table in tables(*mixed(configs))]
    assert names == ["ablation__x", "ablation_a_b", "ablation_a_b_more", "ablation__"]
