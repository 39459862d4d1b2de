from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.optim import build_lars
from benchmark.streams import permutation, seeded
from tasks.heads import Heads
from tasks.training import Training

POINTS = [
    {"lr": lr, "weight_decay": wd} for lr, wd in itertools.product((0.01, 0.3, 2.0), (0.0, 0.05))
]


def slow_optimiser(name: str, head: nn.Linear, point: dict[str, float]) -> torch.optim.Optimizer:
    if name == "lars":
        return build_lars(
            [{"params": list(head.parameters())}],
            momentum=0.9,
            trust_coefficient=1e-3,
            clip=False,
            **point,
        )
    if name == "adamw":
        return torch.optim.AdamW(head.parameters(), betas=(0.9, 0.999), **point)
    return torch.optim.SGD(head.parameters(), momentum=0.9, **point)


@pytest.mark.parametrize("optimiser", ["sgd", "lars", "adamw"])
def test_heads__trained_at_once_equal_each_trained_alone(optimiser: str) -> None:
    """Against a loop with one optimiser and one layer at a time."""
    with seeded(0, "test/features"):
        features, labels = 3 * torch.randn(50, 7).double(), torch.randint(0, 4, (50,))
        first = nn.Linear(7, 4).double()
    heads = Heads(nn.Identity(), first, len(POINTS))
    training = Training("linear", 4, 16, 0.0, "cosine", 0.9, 0.0, optimiser)
    groups = [
        {"params": list(layer.parameters()), **point}
        for layer, point in zip(heads.layers, POINTS, strict=True)
    ]
    training.fit(
        lambda _, index: heads.losses(features[index], labels[index]),
        groups,
        count=50,
        eval_seed=5,
    )
    for layer, point in zip(heads.layers, POINTS, strict=True):
        alone = copy.deepcopy(first)
        slow = slow_optimiser(optimiser, alone, point)
        step = 0
        for epoch in range(4):
            for index in permutation(5, "linear/order", epoch, 50).tensor_split(4):
                factor = (1 + math.cos(math.pi * step / 16)) / 2
                for group in slow.param_groups:
                    group["lr"] = point["lr"] * factor
                slow.zero_grad()
                F.cross_entropy(alone(features[index]), labels[index]).backward()
                slow.step()
                step += 1
        torch.testing.assert_close(layer.weight, alone.weight, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(layer.bias, alone.bias, rtol=1e-9, atol=1e-12)


def test_heads__losses_are_each_layers_own() -> None:
    features, labels = torch.randn(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])
    heads = Heads(nn.Identity(), nn.Linear(3, 2), 3)
    for k, layer in enumerate(heads.layers):
        nn.init.constant_(layer.weight[0], float(k))
    expected = [F.cross_entropy(head(features), labels) for head in heads.apart()]
    torch.testing.assert_close(heads.losses(features, labels), torch.stack(expected))
