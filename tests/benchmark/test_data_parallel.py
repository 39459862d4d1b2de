"""Two processes with half a batch each train as one does with the whole; they run this file too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmark import processes
from benchmark.contracts import Batch, MaskingMethod, Objective
from benchmark.encoders import ResNet
from benchmark.metrics import NonFiniteLossError, StepBuffer
from benchmark.objectives import BYOL, SimCLR, SimSiam, nt_xent
from benchmark.optim import build_optimiser
from benchmark.streams import Streams, seeded
from benchmark.trainer import Trainer
from methods.adios import Adios
from methods.none import NoMask
from methods.sequential import Sequential

pytestmark = pytest.mark.slow

SIZE, BATCH, STEPS = 32, 8, 2
CLOSE = {"rtol": 1e-8, "atol": 1e-10}  # rounding of float64, after two steps of both players


def adios() -> MaskingMethod:
    return Adios(
        SIZE, num_masks=2, width=8, norm="batch", sparsity=0.9, entropy=0.7, entropy_reduction="sum"
    )


def sequential(**options: object) -> MaskingMethod:
    return Sequential(SIZE, num_masks=2, width=8, norm="instance", budget=0.3, **options)


def over_the_batch() -> MaskingMethod:
    return sequential(budget_over="batch", budget_side="two")


def with_multipliers() -> MaskingMethod:
    return sequential(budget_weight="auto", budget_side="two")


def simclr(encoder: ResNet) -> Objective:
    return SimCLR(encoder, feature_dim=64, hidden_dim=16, output_dim=8)


def byol(encoder: ResNet) -> Objective:
    return BYOL(encoder, feature_dim=64, hidden_dim=16, output_dim=8, predictor_dim=16)


def simsiam(encoder: ResNet) -> Objective:
    return SimSiam(encoder, feature_dim=64, hidden_dim=16, predictor_dim=8)


@dataclass(frozen=True)
class Case:
    method: Callable[[], MaskingMethod]
    objective: Callable[[ResNet], Objective]
    rules: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        rules = "-".join(f"{key}={value}" for key, value in self.rules.items())
        return "-".join(filter(None, (self.method.__name__, self.objective.__name__, rules)))


CASES = (
    Case(sequential, simclr),
    Case(adios, byol),
    Case(NoMask, simsiam),
    Case(over_the_batch, simclr, {"update": "low_memory"}),
    Case(with_multipliers, simclr, {"update": "simultaneous"}),
    Case(sequential, simsiam, {"batchnorm": "adios", "mask_both_views": True}),
)


def make_trainer(case: Case, *, sync_batchnorm: bool) -> Trainer:
    """The same in every process."""
    with seeded(0, "test/nets"):
        encoder = ResNet(width=8, stem="stride2").double()
        objective = case.objective(encoder).double()
        method = case.method().double()
    sgd = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
    return Trainer(
        encoder=encoder,
        objective=objective,
        method=method,
        probe=None,
        encoder_optimiser=build_optimiser((encoder, objective), **sgd),
        mask_optimiser=build_optimiser((method,), **sgd) if method.adversarial else None,
        **{"batchnorm": "once", "precision": "fp32", **case.rules},
        sync_batchnorm=sync_batchnorm,
    )


def make_batch(step: int) -> Batch:
    """This process' share."""
    with seeded(step, "test/batch"):
        views = torch.randn(2, BATCH, 3, SIZE, SIZE, dtype=torch.float64)
    index = processes.share(torch.arange(BATCH))
    views = views[:, index]
    streams = Streams(0, 0, index)
    return Batch(views, views.sigmoid(), index, None, None, step / STEPS, streams)


def trained(case: Case, *, sync_batchnorm: bool = True) -> dict[str, Tensor]:
    """Losses, gradients, weights and buffers of two steps, by name."""
    trainer = make_trainer(case, sync_batchnorm=sync_batchnorm)
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        terms = trainer.step(make_batch(step), step)
        found |= {f"{step}/{name}": processes.averaged(term) for name, term in terms.items()}
    for net in ("encoder", "objective", "method"):
        module = getattr(trainer, net)
        found |= {f"{net}/{name}": value for name, value in module.state_dict().items()}
        gradients = ((name, p.grad) for name, p in module.named_parameters())
        found |= {f"{net}/{name}/grad": g for name, g in gradients if g is not None}
    return found


def nt_xent_of_fixed_features() -> tuple[Tensor, Tensor]:
    """Loss of the batch, and the gradient of this process' features."""
    with seeded(0, "test/features"):
        z = torch.randn(2, BATCH, 5, dtype=torch.float64)
    own = z[:, processes.share(torch.arange(BATCH))].requires_grad_()
    loss = nt_xent(own[0], own[1], temperature=0.2)
    loss.backward()
    return processes.averaged(loss.detach()), own.grad / processes.count()


def drained() -> list[object]:
    """What is logged of terms that differ, and of one that is not finite in one process."""
    rank, buffer = processes.rank(), StepBuffer()
    buffer.add(0, {"loss": torch.tensor(2.0 * rank), "slot": torch.tensor([1.0, rank])})
    lines: list[object] = [*buffer.drain()]
    buffer.add(1, {"loss": torch.tensor(float("nan") if rank else 1.0)})
    try:
        buffer.drain()
    except NonFiniteLossError as error:
        lines.append(str(error))
    return lines


@pytest.fixture(scope="module")
def found(in_processes) -> list[dict]:
    """What each of two processes finds, in rank order."""
    return in_processes(Path(__file__), 2)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_step__two_processes_train_as_one(case: Case, found) -> None:
    whole = trained(case)
    moved = [key for key in whole if key.endswith("running_mean")]
    gradients = [key for key in whole if key.startswith("encoder/") and key.endswith("/grad")]
    assert moved
    assert gradients
    for one in found:
        assert one[str(case)].keys() == whole.keys()
        torch.testing.assert_close(one[str(case)], whole, **CLOSE)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_step__the_processes_stay_together_to_the_bit(case: Case, found) -> None:
    first, second = (one[str(case)] for one in found)
    assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []


def test_step__without_synchronised_batchnorm_it_is_another_training(found) -> None:
    whole = trained(CASES[0])
    for one in found:
        apart = one["apart"]
        assert abs(apart["0/loss"] - whole["0/loss"]) > 1e-4
    first, second = (one["apart"] for one in found)
    weights = [key for key in first if key.endswith("weight")]
    assert all(torch.equal(first[key], second[key]) for key in weights)
    assert not torch.equal(first["encoder/bn1.running_mean"], second["encoder/bn1.running_mean"])


def test_nt_xent__fixed_features_against_those_of_all(found) -> None:
    loss, gradient = nt_xent_of_fixed_features()
    for one in found:
        torch.testing.assert_close(one["nt_xent"][0], loss, rtol=0, atol=1e-12)
    gradients = torch.cat([one["nt_xent"][1] for one in found], dim=1)
    torch.testing.assert_close(gradients, gradient, rtol=0, atol=1e-12)


def test_metrics__of_the_whole_batch_and_a_bad_loss_is_everybodys(found) -> None:
    expected = [(0, {"loss": 1.0, "slot": [1.0, 0.5]}), "step 1: loss is nan; training stopped"]
    assert [one["drained"] for one in found] == [expected, expected]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes.joined():
        results = {str(case): trained(case) for case in CASES}
        results["apart"] = trained(CASES[0], sync_batchnorm=False)
        results["nt_xent"] = nt_xent_of_fixed_features()
        results["drained"] = drained()
        torch.save(results, Path(sys.argv[1]) / f"{processes.rank()}.pt")
