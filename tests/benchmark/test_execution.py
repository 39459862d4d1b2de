"""Compiled nets: the same numbers, no break in their graphs, and few of these.

Proofs of compiling run as scripts: under the types that the tests check, torch cannot trace.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from benchmark.batchnorm import over_views, record_statistics, running_statistics
from benchmark.contracts import Batch
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.execution import Execution, compile_nets
from benchmark.objectives import SimCLR
from benchmark.optim import build_optimiser
from benchmark.streams import Streams, seeded
from benchmark.trainer import Trainer
from methods.sequential import Sequential

SIZE = 32


def make_batch(step: int) -> Batch:
    with seeded(step, "test/batch"):
        views = torch.randn(2, 4, 3, SIZE, SIZE)
    index = torch.arange(4)
    return Batch(views, views.sigmoid(), index, None, None, 0.5, Streams(0, step, index))


def make_trainer() -> Trainer:
    with seeded(0, "test/nets"):
        encoder = ResNet(width=8, stem="stride2")
        objective = SimCLR(encoder, feature_dim=64, hidden_dim=16, output_dim=8)
        method = Sequential(SIZE, 3, 8, "instance", budget=0.25)
    objective.at_once = True
    sgd = {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
    return Trainer(
        encoder=encoder,
        objective=objective,
        method=method,
        probe=None,
        encoder_optimiser=build_optimiser((encoder, objective), **sgd),
        mask_optimiser=build_optimiser((method,), **sgd),
        batchnorm="once",
        precision="fp32",
    )


def losses(trainer: Trainer) -> tuple[list[Tensor], list[Tensor]]:
    """Of three steps, one of them with the two losses that explain the others; and the buffers."""
    told = [trainer.step(make_batch(k), k, diagnose=k == 1) for k in range(3)]
    return [t["loss"] for t in told], list(trainer.encoder.buffers())


def same(
    ours: tuple[list[Tensor], list[Tensor]], theirs: tuple[list[Tensor], list[Tensor]]
) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-4)


def whole_graphs() -> None:
    """Clean and hidden views in both phases, and for the diagnosis; and the mask net."""
    trainer = make_trainer()
    counter = CompileCounterWithBackend("aot_eager")
    for net in (trainer.encoder, *trainer.method.costly_nets()):
        net.compile(backend=counter, dynamic=False, fullgraph=True)
    compiled = losses(trainer)
    same(compiled, losses(make_trainer()))
    graphs = counter.frame_count
    assert graphs <= 7, graphs
    trainer.step(make_batch(9), 9, diagnose=True)
    assert counter.frame_count == graphs, "compiled again"


def machine_code() -> None:
    """Two views in one batch, forwards and backwards."""
    found = []
    for mode in ("default", "off"):
        with seeded(0, "test/small"):
            net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
            views = torch.randn(2, 4, 3, 8, 8)
        record_statistics(net)
        compile_nets((net,), mode)
        with running_statistics((net,), "once", 1, adversary=False):
            over_views(net, views, at_once=True).square().sum().backward()
        found.append([*(p.grad for p in net.parameters()), *net.buffers()])
    same((found[0], []), (found[1], []))


@pytest.mark.parametrize(
    "proof",
    [
        "whole_graphs",
        pytest.param(
            "machine_code",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not shutil.which("g++"), reason="needs a compiler: g++"),
            ],
        ),
    ],
)
def test_compiled__same_numbers_from_few_whole_graphs(proof: str) -> None:
    done = subprocess.run(
        [sys.executable, __file__, proof], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_execution__auto_is_the_device_s() -> None:
    assert Execution().on(torch.device("cpu")) == Execution("loop", "off")
    assert Execution().on(torch.device("cuda")) == Execution("batch", "default")
    assert Execution("batch", "default").on(torch.device("cpu")) == Execution("batch", "default")


def test_check__without_a_compiler_there_is_no_compiling(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    Execution().check(torch.device("cpu"))
    with pytest.raises(UserError, match=r"trainer\.compile=default needs a C compiler"):
        Execution().check(torch.device("cuda"))


@pytest.mark.parametrize("key", ["branches", "compile"])
def test_execution__refuses(key: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"trainer.{key}=some is not one of auto")):
        Execution(**{key: "some"})


if __name__ == "__main__":
    {"whole_graphs": whole_graphs, "machine_code": machine_code}[sys.argv[1]]()
