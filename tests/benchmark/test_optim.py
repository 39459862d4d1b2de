from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.optim import build_lars, build_optimiser
from benchmark.streams import seeded

SETTINGS = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.1}


def net_and_gradients() -> tuple[nn.Module, list[list[Tensor]]]:
    with seeded(0, "test/optim"):
        net = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)).double()
        gradients = [[torch.randn_like(p) for p in net.parameters()] for _ in range(4)]
    return net, gradients


def stepped(net: nn.Module, optimiser: torch.optim.Optimizer, gradients: list[list[Tensor]]):
    for step in gradients:
        for p, g in zip(net.parameters(), step, strict=True):
            p.grad = g.clone()
        optimiser.step()
    return [p.detach() for p in net.parameters()]


def slow_lars(
    net: nn.Module, gradients: list[list[Tensor]], coefficient: float, clip: bool
) -> list[Tensor]:
    """The LARS of the ADIOS code (arXiv 1708.03888, eq. 6, and LARC's clipping), one by one."""
    lr, momentum, decay = SETTINGS.values()
    weights = [p.detach().clone() for p in net.parameters()]
    velocity = [torch.zeros_like(p) for p in weights]
    for step in gradients:
        for i, (p, g) in enumerate(zip(weights, step, strict=True)):
            if p.ndim > 1:
                ratio = coefficient * p.norm() / (g.norm() + decay * p.norm())
                if clip:
                    ratio = min(ratio / lr, 1.0)
                g = (g + decay * p) * ratio
            velocity[i] = momentum * velocity[i] + g
            weights[i] = p - lr * velocity[i]
    return weights


@pytest.mark.parametrize(("coefficient", "clip"), [(1e-3, False), (0.02, True), (5.0, True)])
def test_build_lars__equals_a_loop(coefficient: float, clip: bool) -> None:
    net, gradients = net_and_gradients()
    expected = slow_lars(net, gradients, coefficient, clip)
    groups = [{"params": list(net.parameters())}]
    optimiser = build_lars(groups, **SETTINGS, trust_coefficient=coefficient, clip=clip)
    torch.testing.assert_close(stepped(net, optimiser, gradients), expected, rtol=1e-6, atol=1e-12)


def test_build_optimiser__lars_is_that_of_pretraining() -> None:
    net, gradients = net_and_gradients()
    expected = slow_lars(net, gradients, 0.02, clip=True)
    optimiser = build_optimiser((net,), name="lars", **SETTINGS)
    torch.testing.assert_close(stepped(net, optimiser, gradients), expected, rtol=1e-6, atol=1e-12)


def test_build_lars__groups_keep_their_learning_rates() -> None:
    net, _ = net_and_gradients()
    groups = [{"params": list(net[0].parameters()), "lr": 2.0}, {"params": net[2].parameters()}]
    optimiser = build_lars(groups, **SETTINGS, trust_coefficient=1e-3, clip=False)
    assert [group["lr"] for group in optimiser.param_groups] == [2.0, 2.0, 0.3, 0.3]
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.1, 0, 0.1, 0]
    assert [group["always_adapt"] for group in optimiser.param_groups] == [True, False, True, False]


@pytest.mark.parametrize("name", ["sgd", "adam", "lars"])
def test_build_optimiser__vectors_do_not_decay(name: str) -> None:
    net, _ = net_and_gradients()
    before = [p.detach().clone() for p in net.parameters()]
    nothing = [[torch.zeros_like(p) for p in before]]
    after = stepped(net, build_optimiser((net,), name=name, **SETTINGS), nothing)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new) == (old.ndim <= 1)


def test_build_optimiser__refuses() -> None:
    with pytest.raises(UserError, match="'rmsprop' is unknown; choose one of sgd, lars, adam"):
        build_optimiser((nn.Linear(1, 1),), name="rmsprop", **SETTINGS)
    with pytest.raises(UserError, match=r"momentum=1\.0 must be below 1"):
        build_optimiser((nn.Linear(1, 1),), name="sgd", **SETTINGS | {"momentum": 1.0})
