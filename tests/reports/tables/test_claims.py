from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from benchmark.runs import Run, identity
from reports.results.collect import collect
from reports.results.entrants import entrants
from reports.results.mask_runs import of_runs
from reports.tables.claims import CLAIMS, claims_table
from reports.tables.mask_evidence import SlotEvidence, order_kept, roughness
from reports.tables.published import read_paper

LINEAR, FINETUNE = ("linear", "imagenet100s"), ("finetune", "imagenet100s")
SEGMENTATION = ("voc2012_segmentation", "voc2012")
BETTER, EQUAL, WORSE = (60.0, 60.1, 60.2), (56.0, 56.1, 54.3), (50.0, 50.1, 50.2)
ADIOS = (55.0, 55.1, 55.3)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), np.uint8)


def sweep(make_run, method: str, scores: Sequence[float], task=LINEAR, **changes: Any) -> list[Run]:
    given = {"data": "imagenet100s", **changes}
    return [make_run(method, k, {task: score}, **given) for k, score in enumerate(scores)]


def leave_masks(run: Run, masks: np.ndarray, lines: Sequence[Mapping[str, Any]] = ()) -> None:
    config = {"run": identity(run), "method": {}}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    (run.folder / "masks").mkdir(exist_ok=True)
    np.savez(run.folder / "masks" / "test.npz", images=IMAGES, masks=masks.astype(np.uint8))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "metrics.jsonl").write_text(text)


def claimed(runs: Sequence[Run], configs: Mapping[str, Any] | None = None) -> dict[str, list[dict]]:
    """The lines of each claim."""
    frame = collect(runs)
    own = entrants(frame, configs or {})
    found = of_runs(
        {run.folder: run.hash8 for run in runs}, {one.hash8: one.label for one in own.values()}
    )
    masks = {c.first.run.hash8: {m.run.seed: m for m in c.runs} for c in found.configurations}
    table = claims_table(frame, own, SlotEvidence(masks))
    lines: dict[str, list[dict]] = {}
    for line in table.data.to_dict("records"):
        lines.setdefault(str(line["claim"]), []).append(line)
    return lines


def test_claims__without_runs_each_says_what_it_needs(make_run) -> None:
    lines = claimed([make_run("none", 0, {LINEAR: 1.0})])
    assert list(lines) == list(CLAIMS) == [f"C{k}" for k in range(1, 10)]
    for (line,) in lines.values():
        assert line["verdict"] == "not run"
        assert line["where"].startswith("needs ")


@pytest.mark.parametrize(
    ("ours", "verdict"), [(BETTER, "supported"), (EQUAL, "undecided"), (WORSE, "refuted")]
)
@pytest.mark.parametrize(
    ("claim", "task"), [("C1", LINEAR), ("C2", FINETUNE), ("C3", SEGMENTATION)]
)
def test_claims__sequential_above_adios(make_run, claim, task, ours, verdict) -> None:
    runs = sweep(make_run, "sequential", ours, task) + sweep(make_run, "adios", ADIOS, task)
    (line,) = claimed(runs)[claim]
    assert line["verdict"] == verdict
    assert line["n"] == 3
    p = stats.ttest_rel(ours, ADIOS).pvalue
    assert line["test"] == f"paired t test: p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    difference = np.mean(ours) - np.mean(ADIOS)
    assert line["effect"].startswith(f"{difference:+.2f} points [")
    assert line["unlike"].startswith("encoder.width; epochs; batch_size; ")
    assert (line["needed"] is None) == (verdict != "undecided")


def test_claims__other_data_than_the_papers_are_told(make_run) -> None:
    task = ("linear", "scenes")
    runs = sweep(make_run, "sequential", BETTER, task, data="scenes")
    runs += sweep(make_run, "adios", ADIOS, task, data="scenes")
    assert claimed(runs)["C1"][0]["unlike"].startswith("linear on scenes after scenes; ")
    runs = sweep(make_run, "sequential", BETTER) + sweep(make_run, "adios", ADIOS)
    assert " after " not in claimed(runs)["C1"][0]["unlike"]
    task = ("segmentation", "voc2012")  # the paper has it after ImageNet100-S
    runs = sweep(make_run, "sequential", BETTER, task, data="stl10")
    runs += sweep(make_run, "adios", ADIOS, task, data="stl10")
    assert "segmentation on voc2012 after stl10" in claimed(runs)["C3"][0]["unlike"]


def as_in_the_paper(run: Run, **changes: Any) -> dict[str, Any]:
    paper = read_paper()
    return {**paper.settings, **paper.methods[run.method], "encoder": "resnet18", **changes}


def told(runs: Sequence[Run], configs: Mapping[str, Any], claim: str, task: str) -> list[str]:
    """The verdicts on a claim, of results with the paper's settings of a task."""
    frame = collect(runs)
    frame["settings"] = [read_paper().tasks[task]] * len(frame)
    table = claims_table(frame, entrants(frame, configs), SlotEvidence({}))
    return [row.cells[1].text for row in table.rows if row.label.startswith(claim)]


def test_claims__a_verdict_elsewhere_is_not_about_the_paper(make_run) -> None:
    runs = sweep(make_run, "sequential", BETTER) + sweep(make_run, "adios", ADIOS)
    assert told(runs, {}, "C1", "linear") == ["supported elsewhere"]
    configs = {run.hash8: as_in_the_paper(run) for run in runs}
    assert told(runs, configs, "C1", "linear") == ["supported"]
    assert told(runs, configs, "C1", "finetune") == ["supported elsewhere"]  # another protocol
    frame = collect(runs)  # which does not know the protocol
    table = claims_table(frame, entrants(frame, configs), SlotEvidence({}))
    assert table.rows[0].cells[1].text == "supported elsewhere"


def test_claims__both_sides_must_be_the_papers(make_run) -> None:
    runs = sweep(make_run, "sequential", BETTER) + sweep(make_run, "adios", ADIOS)
    configs = {run.hash8: as_in_the_paper(run, **{"method.num_masks": 5}) for run in runs}
    assert told(runs, configs, "C1", "linear") == ["supported elsewhere"]
    frame = collect(runs)
    frame["settings"] = [read_paper().tasks["linear"]] * len(frame)
    row = claims_table(frame, entrants(frame, configs), SlotEvidence({})).rows[0]
    assert row.cells[0].text.endswith(" (unlike the paper: method.num_masks)")


@pytest.mark.parametrize(("epochs", "verdict"), [((500, 2000), ""), ((2, 8), " elsewhere")])
def test_claims__equal_compute_varies_the_epochs_without_masks(
    make_run, epochs: tuple[int, int], verdict: str
) -> None:
    cost = {"flops": 1e18, "seconds": 1.0}
    runs = sweep(make_run, "sequential", BETTER, cost=cost)
    runs += sweep(make_run, "none", ADIOS, cost=cost)
    configs = {
        run.hash8: {
            **read_paper().settings,
            **(read_paper().methods["sequential"] if run.method == "sequential" else {}),
            "encoder": "resnet18",
            "epochs": epochs[run.method == "none"],
        }
        for run in runs
    }
    assert told(runs, configs, "C8", "linear") == [f"supported{verdict}"]


@pytest.mark.parametrize(("data", "verdict"), [("voc2012", ""), ("clevr", " elsewhere")])
def test_claims__evaluation_data_count(make_run, data: str, verdict: str) -> None:
    task = ("segmentation", data)
    runs = sweep(make_run, "sequential", BETTER, task) + sweep(make_run, "adios", ADIOS, task)
    configs = {run.hash8: as_in_the_paper(run) for run in runs}
    assert told(runs, configs, "C3", "segmentation") == [f"supported{verdict}"]


def test_claims__what_a_claim_varies_is_not_unlike_the_paper(make_run) -> None:
    runs = sweep(make_run, "sequential", (55.0, 55.2, 55.1), hash8="five")
    runs += sweep(make_run, "sequential", ADIOS, hash8="four")
    configs = {
        run.hash8: as_in_the_paper(run, **{"method.num_masks": 5 if run.hash8 == "five" else 4})
        for run in runs
    }
    assert told(runs, configs, "C4", "linear") == ["supported"]
    configs = {h: config | {"epochs": 10} for h, config in configs.items()}
    assert told(runs, configs, "C4", "linear") == ["supported elsewhere"]


def test_claims__one_seed_decides_nothing(make_run) -> None:
    runs = sweep(make_run, "sequential", BETTER[:1]) + sweep(make_run, "adios", ADIOS[:1])
    (line,) = claimed(runs)["C1"]
    assert (line["verdict"], line["test"]) == ("undecided", "too few shared seeds")


def test_claims__methods_of_other_settings_are_not_compared(make_run) -> None:
    runs = sweep(make_run, "sequential", BETTER, setting="s1") + sweep(make_run, "adios", ADIOS)
    assert claimed(runs)["C1"][0]["verdict"] == "not run"


@pytest.mark.parametrize(
    ("five", "verdict"),
    [
        ((55.0, 55.2, 55.1), "supported"),
        ((54.6, 54.7, 54.9), "supported"),  # less, but within a point
        ((52.0, 52.1, 52.2), "refuted"),
        ((50.0, 60.0, 55.0), "undecided"),
    ],
)
def test_claims__five_masks_no_worse_than_four(make_run, five, verdict) -> None:
    runs = sweep(make_run, "sequential", five, hash8="five")
    runs += sweep(make_run, "sequential", ADIOS, hash8="four")
    configs = {
        "five": {"method": {"num_masks": 5, "budget": 0.25}},
        "four": {"method": {"num_masks": 4, "budget": 0.25}},
    }
    (line,) = claimed(runs, configs)["C4"]
    assert line["verdict"] == verdict
    configs["four"]["method"]["budget"] = 0.3  # then two things differ
    assert claimed(runs, configs)["C4"][0]["verdict"] == "not run"


@pytest.mark.parametrize(("empty", "verdict"), [(3, "undecided"), (6, "supported"), (0, "refuted")])
def test_claims__last_slot_empty(make_run, empty: int, verdict: str) -> None:
    seeds = max(empty, 3 if empty else 6)
    runs = sweep(make_run, "sequential", [55.0] * seeds)
    for k, run in enumerate(runs):
        last = 1.001 if k < empty else 1.5
        line = {"epoch": 1, "step": 9, "unmasked_loss": 1.0, "blank_loss": 2.0}
        line["slot_area"] = [0.25, 0.25]
        early = {**line, "epoch": 0, "step": 0, "slot_loss": [1.9, 1.9]}
        leave_masks(run, np.full((6, 2, 8, 8), 100), [early, {**line, "slot_loss": [1.5, last]}])
    (found,) = claimed(runs)["C5"]
    assert found["verdict"] == verdict
    assert found["effect"] == f"last empty, first not, in {empty} of {seeds} seeds"
    if verdict == "undecided":
        assert found["needed"] == 6


def test_claims__consistency_smooths_and_does_not_hurt(make_run) -> None:
    runs = sweep(make_run, "sequential", (55.0, 55.1, 55.2), hash8="with")
    runs += sweep(make_run, "sequential", (55.1, 55.2, 55.0), hash8="without")
    draws = np.random.default_rng(1)
    for run in runs:
        noisy = draws.integers(0, 256, (6, 2, 8, 8))
        leave_masks(run, noisy if run.hash8 == "without" else np.full((6, 2, 8, 8), 90))
    configs = {
        "with": {"method": {"consistency_weight": 1e-4}},
        "without": {"method": {"consistency_weight": 0.0}},
    }
    smooth, accurate = claimed(runs, configs)["C6"]
    assert smooth["verdict"] == accurate["verdict"] == "supported"
    assert "less rough" in smooth["effect"]


def test_roughness__by_hand() -> None:
    flat, dot = np.ones((1, 1, 5, 5)), np.zeros((1, 1, 5, 5))
    dot[0, 0, 2, 2] = 1
    assert roughness(flat) == 0
    # The dot is 8/9 above its average, its eight neighbours 1/9 below theirs.
    expected = 100 * np.sqrt(((8 / 9) ** 2 + 8 * (1 / 9) ** 2) / 25)
    assert roughness(dot) == pytest.approx(expected)


def test_order_kept__swapped_slots() -> None:
    left, right = np.zeros((2, 1, 4, 4)), np.zeros((2, 1, 4, 4))
    left[..., :2], right[..., 2:] = 1, 1
    ordered = np.concatenate([left, right], 1)
    assert order_kept(ordered, ordered) == pytest.approx(100)
    assert order_kept(ordered, ordered[:, ::-1]) == pytest.approx(-100)
    assert order_kept(ordered[:, :1], ordered[:, :1]) == 0  # one slot has no order


@pytest.mark.parametrize(("seeds", "n", "verdict"), [(2, 1, "undecided"), (6, 3, "supported")])
def test_claims__slots_keep_their_place(make_run, seeds: int, n: int, verdict: str) -> None:
    left, right = np.zeros((6, 1, 8, 8)), np.zeros((6, 1, 8, 8))
    left[..., :4], right[..., 4:] = 255, 255
    noise = np.random.default_rng(2)
    scores = [55.0 + k for k in range(seeds)]
    runs = sweep(make_run, "sequential", scores) + sweep(make_run, "adios", scores)
    for run in runs:
        slots = [left, right]
        if run.method == "adios" and run.seed % 2:
            slots.reverse()
        leave_masks(run, np.concatenate(slots, 1) * noise.uniform(0.8, 1, (6, 2, 8, 8)))
    (line,) = claimed(runs)["C7"]
    assert (line["n"], line["verdict"]) == (n, verdict)  # pairs of seeds, which share none
    assert float(line["effect"].split()[0]) == pytest.approx(200, abs=1)


def test_claims__gain_at_equal_compute(make_run) -> None:
    cost = {"seconds": 1.0, "flops": 1e12}
    runs = sweep(make_run, "sequential", BETTER, setting="s1", cost=cost)
    runs += sweep(make_run, "none", ADIOS, setting="s2", cost=cost | {"flops": 1.03e12})
    runs += sweep(make_run, "adios", ADIOS, setting="s1", cost=cost | {"flops": 2e12})
    epochs = {"sequential": 2, "none": 8, "adios": 2}
    configs = {
        r.hash8: {"epochs": epochs[r.method], "method": {"reduction": "mean", "n": r.method}}
        for r in runs
    }
    compute, reduction = claimed(runs, configs)["C8"]
    assert compute["where"].startswith("equal compute: linear on imagenet100s, + Sequential")
    assert "SimCLR" in compute["where"]
    assert reduction["where"].startswith("equal reduction: ")
    assert compute["verdict"] == reduction["verdict"] == "supported"


@pytest.mark.parametrize(
    ("gain", "verdict"), [(6.0, "supported"), (-6.0, "refuted"), (0.0, "undecided")]
)
def test_claims__dynamic_budget_on_several_objects(make_run, gain: float, verdict: str) -> None:
    runs: list[Run] = []
    for data, more in (("scenes", gain), ("imagenet100s", 0.0)):
        task = ("linear", data)
        runs += sweep(make_run, "sequential", (50.0, 50.5, 51.0), task, data=data)
        values = (50.2 + more, 50.4 + more, 51.1 + more)
        runs += sweep(make_run, "superpixel_budget", values, task, data=data)
    (line,) = claimed(runs)["C9"]
    assert line["verdict"] == verdict
    assert line["where"].startswith("gain on scenes less gain on imagenet100s, simclr, resnet18")
    assert line["effect"].startswith(f"{gain:+.2f} points [")
