"""Presets say what they promise, in numbers written down again from their sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from benchmark.config import compose
from benchmark.plan import Planner
from benchmark.run import plan as plan_line
from benchmark.sweep import with_experiment

CONF = Path(__file__).parents[2] / "benchmark" / "conf"
# What nets of the published size are planned with here, for time.
SMALL = ("data.train_count=256", "data.test_count=16", "threads=1")


def names(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def get(overrides: list[str], *keys: str) -> list:
    composed = compose(overrides)
    return [OmegaConf.select(composed, key) for key in keys]


def test_paper__tables_3_and_4_and_appendix_e() -> None:
    common = ("epochs", "batch_size", "encoder_optimiser.lr", "encoder_optimiser.momentum")
    shared = (*common, "objective.temperature", "encoder.depth", "encoder.width")
    for method in ("none", "adios", "sequential"):
        found = get(["preset=paper", f"method={method}"], *shared)
        assert found == [500, 256, 0.11, 0.9, 0.2, 18, 64]
    keys = [f"method.{k}" for k in ("num_masks", "entropy", "sparsity")]
    assert get(["preset=paper", "method=adios"], *keys) == [4, 0.71, 0.93]
    keys = ("num_masks", "budget", "overlap_weight", "consistency_weight", "consistency_kernel")
    found = get(["preset=paper", "method=sequential"], *(f"method.{k}" for k in keys))
    assert found == [5, 0.25, 1e-4, 1e-4, 3]
    for task, rate in (("linear", 0.1), ("finetune", 0.5)):
        keys = [f"tasks.{task}.{k}" for k in ("lr", "batch_size", "weight_decay")]
        assert get(["preset=paper"], *keys) == [rate, 256, 0.0]


def test_paper_literal__is_the_paper_but_for_its_budget_word_for_word() -> None:
    for method in ("none", "adios", "sequential"):
        paper, literal = (
            OmegaConf.to_container(compose([f"preset={p}", f"method={method}"]))
            for p in ("paper", "paper_literal")
        )
        for composed in (paper, literal):
            del composed["hydra"]
        assert (paper == literal) == (method != "sequential")
    keys = ("budget_side", "budget_unit", "budget_weight", "penalty_size")
    found = get(["preset=paper_literal", "method=sequential"], *(f"method.{k}" for k in keys))
    assert found == ["two", "literal", 1.0, 32]


@pytest.mark.parametrize(
    ("objective", "rates", "decay", "net", "method"),
    [
        ("simclr", (0.1112770223, 0.0145150242), 1e-4, ("instance", 32), (4, 0.9229467944)),
        ("byol", (0.2414, 0.0660), 1e-5, ("group", 16), (6, 0.4038)),
        ("simsiam", (0.8471, 0.0802), 1e-5, ("group", 16), (4, 0.2003)),
    ],
)
def test_adios__scripts(objective: str, rates, decay: float, net, method) -> None:
    line = ["preset=adios", "method=adios", f"objective={objective}"]
    assert get(line, "encoder_optimiser.lr", "mask_optimiser.lr") == list(rates)
    keys = ("encoder_optimiser.weight_decay", "mask_optimiser.weight_decay")
    assert get(line, *keys) == [decay, decay]
    assert get(line, "mask_net.norm", "mask_net.width") == list(net)
    assert get(line, "method.num_masks", "method.sparsity") == list(method)
    assert get(line, "mask_both_views") == [objective == "simsiam"]
    quirks = {
        "batch_size": 128,
        "encoder_optimiser.name": "lars",
        "mask_optimiser.name": "lars",
        "method.reduction": "sum",
        "method.entropy_reduction": "sum",
        "batchnorm": "adios_probe",
        "turns.encoder_mode": "train",
        "normalisation.std": [0.228, 0.224, 0.225],
        "schedule.per": "epoch",
        "schedule.warmup_start_lr": 0.003,
        "drop_last": True,
        "tasks.finetune.freeze_batchnorm": True,
    }
    assert get(line, *quirks) == list(quirks.values())
    # The one quirk that belongs to small images only.
    small = [
        *line,
        "encoder.stem=small",
        "encoder.stem_padding=2",
        "tasks.finetune.reset_stem=true",
    ]
    assert get(small, "encoder.stem_padding") == [2]


@pytest.mark.parametrize("preset", ["paper", "paper_literal", "adios", "base"])
def test_presets__every_method_can_be_planned(preset: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    planner = Planner()
    for method in ("adios", "sequential", "superpixel_budget"):
        planned = planner.plan([*SMALL, f"preset={preset}", f"method={method}"])
        assert planned.run.preset == preset
    assert planned.cfg.normalisation.std == ([0.228, 0.224, 0.225] if preset == "adios" else None)


@pytest.mark.parametrize("preset", ["demo", "paper", "adios"])
def test_presets__swapped_differs_from_its_inner_method_in_nothing_else(preset: str) -> None:
    line = [f"preset={preset}"]
    for method in ("sequential", "superpixel_budget"):
        (plain,) = get([*line, f"method={method}"], "method")
        (inner,) = get([*line, "method=swapped", f"method@method.inner={method}"], "method.inner")
        assert inner == plain
    sizes = [
        get([*line, f"method={method}"], "method.num_masks")
        for method in ("sequential", "superpixel", "superpixel_budget")
    ]
    assert sizes == [[4 if preset == "demo" else 5]] * 3


@pytest.mark.parametrize("experiment", names("experiment"))
def test_experiments__open_with_their_command_and_compose(experiment: str) -> None:
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    line = with_experiment([f"experiment={experiment}"])
    swept = [o for o in line if not o.startswith("experiment=")]
    assert ("sweeper" in text) == bool(swept)
    if swept:
        assert f"benchmark/run.py -m experiment={experiment}" in text
    compose([o.split(",")[0] for o in line])


def test_experiment__the_command_line_has_the_last_word(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["experiment=budget_weight", "method.budget_side=two", "seed=3"]
    plans, _ = plan_line(Planner(), line, multirun=True)
    assert len(plans) == 4
    assert {p.run.seed for p in plans} == {3}
    assert {p.cfg.method["budget_side"] for p in plans} == {"two"}
    assert [p.cfg.method["budget_weight"] for p in plans] == [1, 10, 30, 100]
