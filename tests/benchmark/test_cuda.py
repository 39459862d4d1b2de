"""What only a GPU can show: whole steps that wait for nothing, compiled and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmark.contracts import Batch
from benchmark.encoders import ResNet
from benchmark.execution import compile_nets
from benchmark.objectives import SimCLR
from benchmark.optim import build_optimiser
from benchmark.streams import Streams, seeded
from benchmark.trainer import Trainer
from methods.sequential import Sequential

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
SIZE = 32


def make_batch(step: int) -> Batch:
    with seeded(step, "test/batch"):
        views = torch.randn(2, 16, 3, SIZE, SIZE).cuda()
    index = torch.arange(16, device="cuda")
    return Batch(views, views.sigmoid(), index, None, None, 0.5, Streams(0, step, index))


def make_trainer(mode: str = "off", *, at_once: bool = True, precision: str = "fp32") -> Trainer:
    with seeded(0, "test/nets"):
        encoder = ResNet(width=16, stem="stride2").cuda()
        objective = SimCLR(encoder, feature_dim=128, hidden_dim=32, output_dim=16).cuda()
        method = Sequential(SIZE, 3, 8, "instance", budget=0.25).cuda()
    objective.at_once = at_once
    lars = {"name": "lars", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
    trainer = Trainer(
        encoder=encoder,
        objective=objective,
        method=method,
        probe=None,
        encoder_optimiser=build_optimiser((encoder, objective), **lars),
        mask_optimiser=build_optimiser((method,), **lars),
        batchnorm="adios_probe",
        precision=precision,
        cuda_graphs=mode == "reduce-overhead",
    )
    compile_nets((encoder, *method.costly_nets()), mode)
    return trainer


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("at_once", [False, True])
def test_step__waits_for_nothing(at_once: bool, precision: str) -> None:
    trainer = make_trainer(at_once=at_once, precision=precision)
    trainer.step(make_batch(0), 0, diagnose=True)
    batch = make_batch(1)
    with no_waiting():
        trainer.step(batch, 1, diagnose=True)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_step__compiled_it_trains_the_same(mode: str) -> None:
    compiled, plain = make_trainer(mode), make_trainer()
    for step in range(4):
        told = compiled.step(make_batch(step), step, diagnose=step == 2)
        expected = plain.step(make_batch(step), step, diagnose=step == 2)
        for name in ("loss", "mask_loss"):
            torch.testing.assert_close(told[name], expected[name], rtol=1e-2, atol=1e-3)
    for ours, theirs in zip(compiled.encoder.buffers(), plain.encoder.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
