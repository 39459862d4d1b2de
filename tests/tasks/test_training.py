from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.streams import seeded
from tasks.training import SCHEDULES, Training

SGD: dict[str, Any] = {
    "purpose": "test",
    "epochs": 30,
    "batch_size": 256,
    "lr": 0.1,
    "schedule": "constant",
    "momentum": 0.9,
    "weight_decay": 0.0,
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "linear"}, "schedule=linear is not one of constant, cosine, poly"),
        ({"optimiser": "adam"}, "optimiser=adam is not one of sgd, lars, adamw"),
        ({"warmup_epochs": 2.0}, "warmup_epochs=2 needs schedule=warmup_cosine"),
        ({"schedule": "warmup_cosine"}, "warmup_epochs=0 must lie above 0 and below"),
        (
            {"schedule": "warmup_cosine", "warmup_epochs": 30.0},
            "warmup_epochs=30 must lie above 0 and below epochs=30",
        ),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"lr": -1.0}, "lr=-1.0 must not be negative"),
        ({"momentum": 1.0}, "momentum=1.0 must be below 1"),
    ],
)
def test_training__refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Training(**SGD | settings)


def test_str__names_every_number() -> None:
    assert str(Training(**SGD | {"weight_decay": 1e-4})) == (
        "SGD for 30 epochs in batches of 256 with learning rate 0.1 (constant), momentum 0.9 and "
        "weight decay 0.0001"
    )
    lars = str(Training(**SGD | {"optimiser": "lars", "schedule": "step"}))
    assert "SGD with LARS (trust coefficient 0.001, weight matrices only) for 30 epochs" in lars
    assert "a tenth after 60% and again after 80% of the steps" in lars
    assert lars.endswith("weight decay 0 of weight matrices")
    adamw = Training(
        **SGD
        | {
            "optimiser": "adamw",
            "exclude_bias_and_norm": True,
            "schedule": "warmup_cosine",
            "warmup_epochs": 2.0,
        }
    )
    assert adamw.sentence("x", "y") == (
        "AdamW for 30 epochs in batches of 256 with learning rate x (warmup_cosine, 2 epochs "
        "linearly from 0), betas 0.9 and 0.999 and weight decay y of weight matrices"
    )


def fitted(epochs: int = 2, schedule: str = "constant", **fit: Any) -> tuple[list[list[int]], Any]:
    """Fit two numbers whose loss falls by 1 per unit; returns the batches and how far they went."""
    body, head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(body.weight)
    nn.init.zeros_(head.weight)
    batches = []

    def loss(epoch: int, index: Tensor) -> Tensor:
        batches.append(index.tolist())
        fall: Tensor = (body.weight + head.weight).sum() * fit.get("blow_up", 1.0)
        return -fall

    training = Training(
        "test",
        epochs,
        4,
        0.5,
        schedule,
        momentum=0.0,
        weight_decay=0.0,
        warmup_epochs=1.0 if schedule == "warmup_cosine" else 0.0,
    )
    groups = [{"params": [head.weight], "lr": fit.get("head_lr", 0.5)}, {"params": [body.weight]}]
    training.fit(loss, groups, count=9, eval_seed=fit.get("eval_seed", 0))
    return batches, (body.weight.item(), head.weight.item())


def test_fit__orders_are_permutations_that_differ_by_epoch_and_seed() -> None:
    batches, _ = fitted()
    first, second = (list(itertools.chain(*batches[k : k + 3])) for k in (0, 3))
    assert [len(batch) for batch in batches[:3]] == [3, 3, 3]
    assert sorted(first) == sorted(second) == list(range(9))
    assert first != second
    assert fitted()[0] == batches
    assert fitted(eval_seed=1)[0] != batches


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_fit__learning_rate_follows_the_schedule(schedule: str) -> None:
    _, (body, head) = fitted(epochs=5, schedule=schedule, head_lr=2.0)
    # Five epochs of three steps, of which the warm-up takes one epoch.
    factors = {
        "constant": [1.0] * 15,
        "cosine": [(1 + math.cos(math.pi * step / 15)) / 2 for step in range(15)],
        "poly": [(1 - step / 15) ** 0.9 for step in range(15)],
        "step": [1.0] * 9 + [0.1] * 3 + [0.01] * 3,
        "warmup_cosine": [
            *(0, 0.5, 1),
            *((1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)),
        ],
    }[schedule]
    assert body == pytest.approx(0.5 * sum(factors), rel=1e-5)
    assert head == pytest.approx(2.0 * sum(factors), rel=1e-5)


def test_fit__stops_at_a_loss_that_is_not_finite() -> None:
    with pytest.raises(FloatingPointError, match="epoch 0; lower the lr"):
        fitted(blow_up=math.inf)


def test_fit__goes_on_while_one_of_several_losses_is_finite() -> None:
    numbers = [nn.Parameter(torch.zeros(())) for _ in range(2)]
    rates = (0.5, 1e38)
    groups = [{"params": [p], "lr": lr} for p, lr in zip(numbers, rates, strict=True)]

    def losses(epoch: int, index: Tensor) -> Tensor:
        first, second = numbers
        return torch.stack([-first, (second - 1).square()])

    training = Training(**SGD | {"epochs": 5, "momentum": 0.0})
    training.fit(losses, groups, count=2, eval_seed=0)
    assert numbers[0].item() == pytest.approx(2.5)
    assert not numbers[1].isfinite()


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9, 33])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_smallest_batch__is_that_of_an_epoch(count: int, batch_size: int) -> None:
    sizes, weight = [], nn.Parameter(torch.zeros(()))

    def loss(epoch: int, index: Tensor) -> Tensor:
        sizes.append(len(index))
        value: Tensor = weight.square()
        return value

    training = Training(**SGD | {"epochs": 1, "batch_size": batch_size})
    training.fit(loss, [{"params": [weight]}], count=count, eval_seed=0)
    assert training.smallest_batch(count) == min(sizes)


def test_at__refuses_what_training_refuses() -> None:
    training = Training(**SGD).at({"lr": 0.5, "weight_decay": 0.1})
    assert training == Training(**SGD | {"lr": 0.5, "weight_decay": 0.1})
    with pytest.raises(UserError, match=r"weight_decay=-1\.0 must not be negative"):
        training.at({"lr": 0.5, "weight_decay": -1.0})


def net_and_copy() -> tuple[nn.Sequential, nn.Sequential]:
    with seeded(0, "test/net"):
        net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)).double()
        nn.init.uniform_(net[1].weight)
    return net, copy.deepcopy(net)


def error(net: nn.Module) -> Tensor:
    with seeded(0, "test/data"):
        inputs, target = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    value: Tensor = (net(inputs) - target).square().mean()
    return value


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_fit__lars_equals_a_loop(weight_decay: float) -> None:
    """LARS of the ADIOS code's evaluations (arXiv 1708.03888, eq. 6), then SGD with momentum."""
    net, slow = net_and_copy()
    training = Training("test", 3, 8, 0.5, "constant", 0.9, weight_decay, "lars")
    groups = [{"params": net[3].parameters(), "lr": 0.2}, {"params": net[:3].parameters()}]
    training.fit(lambda *_: error(net), groups, count=8, eval_seed=0)

    rates = [(p, 0.5) for p in slow[:3].parameters()] + [(p, 0.2) for p in slow[3].parameters()]
    velocity = [torch.zeros_like(p) for p, _ in rates]
    for _ in range(3):
        gradients = torch.autograd.grad(error(slow), [p for p, _ in rates])
        for i, ((p, rate), g) in enumerate(zip(rates, gradients, strict=True)):
            with torch.no_grad():
                if p.ndim > 1:
                    length, slope = math.sqrt((p**2).sum()), math.sqrt((g**2).sum())
                    adapted = (g + weight_decay * p) * 1e-3 * length
                    g = adapted / (slope + weight_decay * length)
                velocity[i] = 0.9 * velocity[i] + g
                p -= rate * velocity[i]
    for p, (q, _) in zip(net.parameters(), rates, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_fit__weight_decay_may_spare_what_has_one_dimension(optimiser: str, exclude: bool) -> None:
    """SGD adds the decay to the gradient, AdamW subtracts it from the weights (1711.05101)."""
    net, slow = net_and_copy()
    training = Training(
        **SGD
        | {"epochs": 3, "weight_decay": 0.1, "optimiser": optimiser}
        | {"exclude_bias_and_norm": exclude}
    )
    training.fit(lambda *_: error(net), [{"params": net.parameters()}], count=8, eval_seed=0)

    weights = list(slow.parameters())
    first, second = ([torch.zeros_like(p) for p in weights] for _ in range(2))
    for step in range(1, 4):
        gradients = torch.autograd.grad(error(slow), weights)
        for i, (p, g) in enumerate(zip(weights, gradients, strict=True)):
            decay = 0.0 if exclude and p.ndim == 1 else 0.1
            with torch.no_grad():
                if optimiser == "sgd":
                    first[i] = 0.9 * first[i] + g + decay * p
                    p -= 0.1 * first[i]
                    continue
                first[i] = 0.9 * first[i] + 0.1 * g
                second[i] = 0.999 * second[i] + 0.001 * g**2
                p *= 1 - 0.1 * decay
                unbiased = second[i] / (1 - 0.999**step)
                p -= 0.1 * first[i] / (1 - 0.9**step) / (unbiased.sqrt() + 1e-8)
    for p, q in zip(net.parameters(), weights, strict=True):
        torch.testing.assert_close(p, q)
