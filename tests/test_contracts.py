"""Every masking method that has a YAML file, under every objective, keeps the contract.

``data/golden_losses.json`` holds the losses of each first step, so that a change of numbers is
seen. After a change that is meant, MASKBENCH_WRITE_GOLDEN=1 with -n 0 writes them anew.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmark.build import build_trainer, load_data
from benchmark.checkpoint import (
    load_checkpoint,
    load_encoder,
    newest_checkpoint,
    save_checkpoint,
    save_encoder,
)
from benchmark.instantiate import instantiate
from benchmark.metrics import StepBuffer
from benchmark.plan import Planner
from benchmark.pretrain import Pretraining
from benchmark.schedule import Schedule

CONF = Path(__file__).parents[1] / "benchmark" / "conf"
SMALL = (
    "data.train_count=32",
    "data.test_count=16",
    "batch_size=8",
    "encoder.width=8",
    "precision=fp32",
    *(f"tasks.{t}=null" for t in ("linear", "finetune", "knn", "transfer", "segmentation")),
)
HEADS = {  # far smaller than the published ones, for time
    "simclr": ("objective.hidden_dim=32", "objective.output_dim=16"),
    "byol": ("objective.hidden_dim=32", "objective.output_dim=16", "objective.predictor_dim=32"),
    "simsiam": ("objective.hidden_dim=32", "objective.predictor_dim=16"),
}
GOLDEN = Path(__file__).parent / "data" / "golden_losses.json"
CPU = torch.device("cpu")


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def state(*modules: nn.Module) -> dict[str, Tensor]:
    return {
        f"{i}.{k}": v.clone()
        for i, m in enumerate(modules)
        for k, v in copy.deepcopy(m.state_dict()).items()
    }


def differs(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return any(not torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner()


def check_golden(name: str, terms: dict) -> None:
    """The loss before the first step, and the adversary's after it."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    found = {key: terms[key] for key in ("loss", "mask_loss") if key in terms}
    if os.environ.get("MASKBENCH_WRITE_GOLDEN"):
        golden[name] = {key: float(f"{value:.6g}") for key, value in found.items()}
        GOLDEN.write_text(json.dumps(golden, indent=0, sort_keys=True) + "\n")
    assert golden[name]["loss"] == pytest.approx(found.pop("loss"), rel=1e-4)
    # An optimiser's step lies in between, which magnifies how machines round.
    assert golden[name].keys() - {"loss"} == found.keys()
    if found:
        assert golden[name]["mask_loss"] == pytest.approx(found["mask_loss"], rel=2e-3)


@pytest.mark.parametrize("objective", options("objective"))
@pytest.mark.parametrize("method", options("method"))
def test_method__trains_and_resumes(
    method: str, objective: str, planner: Planner, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    heads = HEADS.get(objective, ())
    cfg = planner.plan([*SMALL, *heads, f"method={method}", f"objective={objective}"]).cfg
    data = planner.data(cfg)

    def begin() -> Pretraining:
        return Pretraining(
            build_trainer(cfg, data, CPU),
            data,
            data.pretraining,
            instantiate(cfg.augment),
            seed=0,
            epochs=2,
            batch_size=8,
            base_rates=(1e-2, 1e-2),
            schedule=Schedule("step", 0.0, 0.0),
            device=CPU,
            residence="auto",
            drop_last=True,
            log_every_steps=1,
            log_limits=True,
            checkpoint_every_seconds=60.0,
        )

    def steps(training: Pretraining, first: int) -> list[dict]:
        buffer = StepBuffer()
        for step in range(first, first + 2):
            index = torch.arange(8 * (step % 4), 8 * (step % 4) + 8)
            batch = training.batches.augmented(step // 4, step, training.feed.take(index))
            buffer.add(step, training.trainer.step(batch))
        return [terms for _, terms in buffer.drain()]  # refuses what is not finite

    training = begin()
    trainer = training.trainer
    encoder_before, method_before = state(trainer.encoder), state(trainer.method)
    (terms, _) = steps(training, 0)
    check_golden(f"{method}/{objective}", terms)
    assert len(terms["slot_area"]) == trainer.method.num_masks
    assert len(terms["slot_loss"]) in (1, trainer.method.num_masks)
    assert all(0 <= area <= 1 for area in terms["slot_area"])
    assert differs(encoder_before, state(trainer.encoder))
    assert differs(method_before, state(trainer.method)) == trainer.method.adversarial
    assert ("mask_loss" in terms) == trainer.method.adversarial

    save_checkpoint(tmp_path / "checkpoints", "this/seed0", trainer, 1, {"seconds": 2.0})
    again = begin()
    file = newest_checkpoint(tmp_path / "checkpoints", pytest.fail)
    assert file is not None
    assert load_checkpoint(file, "this/seed0", again.trainer) == (1, {"seconds": 2.0})
    assert steps(again, 2) == steps(training, 2)
    nets = (trainer.encoder, trainer.objective, trainer.method)
    others = (again.trainer.encoder, again.trainer.objective, again.trainer.method)
    assert not differs(state(*nets), state(*others))
    with pytest.raises(ValueError, match="belongs to this/seed0, not to this/seed1"):
        load_checkpoint(file, "this/seed1", again.trainer)

    save_encoder(tmp_path / "encoder.safetensors", trainer.encoder)
    fresh = begin().trainer.encoder
    load_encoder(tmp_path / "encoder.safetensors", fresh)
    assert not differs(state(trainer.encoder), state(fresh))


def test_encoder__a_method_changes_neither_initial_weights_nor_images(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planner = Planner()
    plain, masked = (
        planner.plan([*SMALL, f"method={m}"]).cfg for m in ("none", "superpixel_budget")
    )
    data = load_data(plain.data)
    nets = [build_trainer(cfg, data, CPU) for cfg in (plain, masked)]
    assert not differs(*(state(t.encoder, t.objective, t.probe) for t in nets))


def test_encoder__weights_load_into_torchvision(tmp_path: Path) -> None:
    import torchvision

    from benchmark.encoders import ResNet

    save_encoder(tmp_path / "encoder.safetensors", ResNet(18).to(memory_format=torch.channels_last))
    theirs = torchvision.models.resnet18()
    theirs.fc = nn.Identity()
    load_encoder(tmp_path / "encoder.safetensors", theirs)
