"""Ours and the published order of execution are the same update, in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import pytest
import torch
from reference import ReferenceStep
from torch import Tensor, nn

from benchmark.contracts import Batch
from benchmark.encoders import ResNet
from benchmark.objectives import SimCLR
from benchmark.streams import Streams, seeded
from benchmark.trainer import Trainer
from methods.adios import Adios

SIZE, NUM_MASKS, STEPS = 32, 4, 2


def make_batch(step: int, count: int = 6) -> Batch:
    with seeded(step, "test/batch"):
        views = torch.randn(2, count, 3, SIZE, SIZE, dtype=torch.float64)
    index = torch.arange(count)
    return Batch(views, views.sigmoid(), index, index % 3, None, 0.5, Streams(0, step, index))


def make_nets() -> tuple[ResNet, SimCLR, Adios]:
    with seeded(0, "test/nets"):
        encoder = ResNet(width=16, stem="imagenet").double()
        objective = SimCLR(encoder, feature_dim=128, hidden_dim=32, output_dim=16).double()
        method = Adios(SIZE, NUM_MASKS, 8, "instance", sparsity=0.92, entropy=0.71).double()
    return encoder, objective, method


def sgd(*nets: nn.Module) -> torch.optim.Optimizer:
    parameters = [p for net in nets for p in net.parameters()]
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)


def relative_error(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    pairs = [(a.detach(), b.detach()) for a, b in zip(ours, theirs, strict=True)]
    difference = sum(float((a - b).square().sum()) for a, b in pairs)
    return (difference / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5


def gradients(net: nn.Module) -> list[Tensor]:
    return [p.grad for p in net.parameters()]


@pytest.fixture(scope="module")
def reference() -> ReferenceStep:
    encoder, objective, method = make_nets()
    classifier = nn.Linear(128, 3).double()
    step = ReferenceStep(
        encoder,
        objective,
        method,
        classifier,
        sgd(encoder, objective, classifier),
        sgd(method),
    )
    counts = {"encoder": 0, "mask net": 0}

    def counter(name: str):
        def count(*_: object) -> None:
            counts[name] += 1

        return count

    encoder.register_forward_hook(counter("encoder"))
    method.unet.register_forward_hook(counter("mask net"))
    for k in range(STEPS):
        step(make_batch(k))
    assert counts == {"encoder": STEPS * (4 * NUM_MASKS + 2), "mask net": STEPS * 2}
    return step


def train(update: str, *, at_once: bool, channels_last: bool) -> tuple[Trainer, dict[str, int]]:
    encoder, objective, method = make_nets()
    if channels_last:
        for net in (encoder, objective, method):
            net.to(memory_format=torch.channels_last)
    objective.at_once = at_once
    trainer = Trainer(
        encoder=encoder,
        objective=objective,
        method=method,
        probe=None,
        encoder_optimiser=sgd(encoder, objective),
        mask_optimiser=sgd(method),
        batchnorm="adios_probe",
        precision="fp32",
        update=update,
    )
    counts = {"views": 0, "mask net": 0}
    size = len(make_batch(0).index)

    def count_views(_net: nn.Module, arguments: tuple[Tensor], _output: Tensor) -> None:
        counts["views"] += len(arguments[0]) // size

    encoder.register_forward_hook(count_views)
    method.unet.register_forward_hook(
        lambda *_: counts.update({"mask net": counts["mask net"] + 1})
    )
    for k in range(STEPS):
        trainer.step(make_batch(k))
    return trainer, counts


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("update", ["alternating", "low_memory"])
def test_step__is_the_reference_update(
    reference: ReferenceStep, update: str, at_once: bool, channels_last: bool
) -> None:
    trainer, counts = train(update, at_once=at_once, channels_last=channels_last)
    assert counts == {"views": STEPS * (2 * NUM_MASKS + 3), "mask net": STEPS}
    for ours, theirs in (
        (trainer.encoder, reference.encoder),
        (trainer.objective, reference.objective),
        (trainer.method, reference.method),
    ):
        assert relative_error(gradients(ours), gradients(theirs)) < 1e-10
        assert relative_error(ours.parameters(), theirs.parameters()) < 1e-10
    norms = [
        [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for net in (trainer.encoder, reference.encoder)
    ]
    for name in ("running_mean", "running_var"):
        ours, theirs = ([getattr(m, name) for m in same] for same in norms)
        assert relative_error(ours, theirs) < 1e-10
    counted = [[int(m.num_batches_tracked) for m in same] for same in norms]
    assert counted[0] == counted[1]


def test_step__simultaneous_trains_the_encoder_alike_and_the_adversary_otherwise(
    reference: ReferenceStep,
) -> None:
    """One step, as after it the encoders meet different masks."""
    encoder, objective, method = make_nets()
    classifier = nn.Linear(128, 3).double()
    step = ReferenceStep(
        encoder, objective, method, classifier, sgd(encoder, objective, classifier), sgd(method)
    )
    ours = copy.deepcopy((encoder, objective, method))
    trainer = Trainer(
        *ours, None, sgd(*ours[:2]), sgd(ours[2]), "once", "fp32", update="simultaneous"
    )
    views = []
    trainer.encoder.register_forward_hook(lambda *_: views.append(1))
    step(make_batch(0))
    trainer.step(make_batch(0))
    assert len(views) == NUM_MASKS + 1
    assert relative_error(gradients(trainer.encoder), gradients(encoder)) < 1e-10
    assert relative_error(gradients(trainer.method), gradients(method)) > 1e-3
