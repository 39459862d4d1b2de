"""Ways of running a step: which are the same update, which is not, and what a step waits for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.contracts import Batch, Objective
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.objectives import BYOL, SimCLR, SimSiam, Supervised
from benchmark.optim import build_optimiser
from benchmark.probe import OnlineProbe
from benchmark.streams import Streams, seeded
from benchmark.trainer import Trainer
from benchmark.turns import Turns, check_update
from methods.adios import Adios
from methods.adios_s import AdiosS
from methods.gradient import Gradient
from methods.none import NoMask
from methods.random_patches import RandomPatches
from methods.sequential import Sequential
from methods.superpixel import Superpixel
from methods.superpixel_budget import SuperpixelBudget
from methods.swapped import Swapped

SIZE, COUNT, STEPS = 32, 4, 2


def make_batch(step: int = 0) -> Batch:
    with seeded(step, "test/batch"):
        views = torch.randn(2, COUNT, 3, SIZE, SIZE, dtype=torch.float64)
    index = torch.arange(COUNT)
    pixels = views.sigmoid()
    return Batch(views, pixels, index, index % 3, None, 0.5, Streams(0, step, index))


def sequential(**settings: object) -> Sequential:
    return Sequential(SIZE, 3, 8, "batch", **{"budget": 0.25, **settings})


def adios() -> Adios:
    return Adios(SIZE, 2, 8, "instance", sparsity=0.9, entropy=0.7)


def superpixel_budget() -> Sequential:
    rule = SuperpixelBudget(SIZE, 16, 0.1, 2, "rgb", None, 3, "descending", 0.05, 0.5)
    return sequential(budget=rule)


def simclr(encoder: nn.Module) -> Objective:
    return SimCLR(encoder, feature_dim=64, hidden_dim=16, output_dim=8)


def byol(encoder: nn.Module) -> Objective:
    return BYOL(encoder, feature_dim=64, hidden_dim=16, output_dim=8, predictor_dim=16)


def simsiam(encoder: nn.Module) -> Objective:
    return SimSiam(encoder, feature_dim=64, hidden_dim=16, predictor_dim=8)


def supervised(encoder: nn.Module) -> Objective:
    return Supervised(encoder, feature_dim=64, num_classes=3)


def make_trainer(make_method, make_objective=simclr, *, at_once=False, **rules) -> Trainer:
    with seeded(0, "test/nets"):
        encoder = ResNet(width=8, stem="stride2").double()
        objective, method = make_objective(encoder).double(), make_method().double()
        probe = OnlineProbe(64, 3, lr=0.1).double()
    objective.at_once = at_once
    sgd = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
    return Trainer(
        encoder=encoder,
        objective=objective,
        method=method,
        probe=probe,
        encoder_optimiser=build_optimiser((encoder, objective), **sgd),
        mask_optimiser=build_optimiser((method,), **sgd) if method.adversarial else None,
        **{"batchnorm": "once", "precision": "fp32", **rules},
    )


def trained(trainer: Trainer) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """State after some steps, and what the steps told."""
    terms = [trainer.step(make_batch(k), k) for k in range(STEPS)]
    parts = {"encoder": trainer.encoder, "objective": trainer.objective, "method": trainer.method}
    state = {f"{p}.{k}": v for p, part in parts.items() for k, v in part.state_dict().items()}
    return state, terms


@pytest.mark.parametrize("make_objective", [simclr, byol, simsiam, supervised])
@pytest.mark.parametrize("make_method", [sequential, adios, NoMask])
@pytest.mark.parametrize(
    "way", [{"at_once": True}, {"update": "low_memory"}, {"update": "low_memory", "at_once": True}]
)
def test_step__same_update_whichever_way(make_method, make_objective, way) -> None:
    rules = {"batchnorm": "adios_probe"}  # the one with the most forwards to keep in order
    plain, terms = trained(make_trainer(make_method, make_objective, **rules))
    other, told = trained(make_trainer(make_method, make_objective, **rules, **way))
    for ours, theirs in zip([plain, *terms], [other, *told], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    "rules",
    [
        {"mask_both_views": True},
        {"unmasked_pair": True},
        {"turns": Turns(first="mask", mask_steps=2, encoder_mode="eval")},
    ],
)
@pytest.mark.parametrize("way", [{"update": "low_memory"}, {"at_once": True}])
def test_step__the_way_does_not_matter_under_any_rule(rules: dict, way: dict) -> None:
    plain, _ = trained(make_trainer(sequential, **rules))
    other, _ = trained(make_trainer(sequential, **way, **rules))
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-10, msg=name)


def test_step__simultaneous_reads_the_adversarys_gradient_off_the_encoders_forward() -> None:
    """Its step is the one against the encoder as it was before its own."""
    trainer = make_trainer(sequential, update="simultaneous")
    with_turns = make_trainer(sequential)
    side = (make_batch(), with_turns.propose(make_batch()))
    with_turns._mask_step([side])  # before the encoder's
    views = []
    trainer.encoder.register_forward_hook(lambda *_: views.append(1))
    trainer.step(make_batch())
    assert len(views) == 1 + 3
    expected = with_turns.method.state_dict()
    for name, value in trainer.method.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-10)
    trainer, with_turns = make_trainer(sequential, update="simultaneous"), make_trainer(sequential)
    trainer.step(make_batch())
    with_turns._encoder_step([(make_batch(), with_turns.propose(make_batch()))])
    expected = with_turns.encoder.state_dict()
    for name, value in trainer.encoder.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"update": "both"}, "update=both is not one of alternating, simultaneous, low_memory"),
        ({"turns": Turns(mask_steps=2)}, "no turns"),
        ({"unmasked_pair": True}, "unmasked_pair=true"),
        ({"same_masks": False}, "the same masks"),
    ],
)
def test_check_update__refuses(changes: dict, words: str) -> None:
    fine = {"turns": Turns(), "unmasked_pair": False, "same_masks": True}
    check_update("simultaneous", **fine)
    check_update("low_memory", **{**fine, "unmasked_pair": True, "same_masks": False})
    with pytest.raises(UserError, match=re.escape(words)):
        check_update(**{"update": "simultaneous", **fine, **changes})


def test_trainer__refuses_one_forward_for_two_kinds_of_masks() -> None:
    with pytest.raises(UserError, match="update=simultaneous"):
        make_trainer(lambda: Swapped(sequential()), update="simultaneous")


@contextmanager
def saved_megabytes() -> Iterator[list[float]]:
    """Fills with what autograd keeps for backward at a time, in megabytes."""
    live: dict[int, int] = {}
    sizes: list[float] = []

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor
            self.key = tensor.untyped_storage().data_ptr()
            live[self.key] = tensor.untyped_storage().nbytes()
            sizes.append(sum(live.values()) / 1e6)

        def __del__(self) -> None:
            live.pop(self.key, None)

    def pack(tensor: Tensor) -> object:
        # Weights are kept anyway.
        return tensor if isinstance(tensor, nn.Parameter) else Kept(tensor)

    def unpack(kept: object) -> Tensor:
        return kept.tensor if isinstance(kept, Kept) else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield sizes


def peak(update: str) -> float:
    trainer = make_trainer(lambda: Sequential(SIZE, 6, 8, "none", budget=0.25), update=update)
    with saved_megabytes() as sizes:
        trainer.step(make_batch())
    return max(sizes)


def test_step__low_memory_keeps_less() -> None:
    assert peak("low_memory") < 0.6 * peak("alternating")


def test_mask_step__keeps_nothing_for_the_frozen_weights() -> None:
    trainer = make_trainer(sequential)
    sides = [(make_batch(), trainer.propose(make_batch()))]
    with saved_megabytes() as for_the_encoder:
        trainer._encoder_step(sides)
    with saved_megabytes() as for_the_masks:
        trainer._mask_step(sides)
    assert max(for_the_masks) < 0.9 * max(for_the_encoder)
    assert all(p.requires_grad for p in trainer.encoder.parameters())


class NoWaiting(TorchDispatchMode):
    """Refuses the operations for which a GPU would have to be waited for."""

    WAITS = (
        "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "bincount",
        "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
    )  # fmt: skip

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_truth = name.startswith(("index", "_index")) and any(
            i is not None and i.dtype == torch.bool for a in args if isinstance(a, list) for i in a
        )
        counted = name == "repeat_interleave" and isinstance(args[-1], Tensor)
        waits = name in self.WAITS or by_truth or counted
        assert not waits, f"{name} reads a value of the device"
        return func(*args, **(kwargs or {}))


METHODS = {
    "none": NoMask,
    "sequential": sequential,
    "auto": lambda: sequential(budget_weight="auto", budget_side="two"),
    "hard": lambda: sequential(budget_side="hard"),
    "hard_concrete": lambda: sequential(activation="hard_concrete"),
    "adios": adios,
    "adios_s": lambda: AdiosS(SIZE, 2, 8, "instance", sparsity=0.9, entropy=0.7),
    "superpixel_budget": superpixel_budget,
    "superpixel": lambda: Superpixel(SIZE, 3, 16, 0.1, 2, 3, "lab"),
    "gradient": lambda: Gradient(SIZE, ratio=0.3, patch_size=8),
    "random": lambda: RandomPatches(SIZE, ratio=0.3, patch_size=8),
    "swapped": lambda: Swapped(sequential()),
}


EVERYTHING = {"at_once": True, "batchnorm": "adios_probe", "mask_both_views": True}


@pytest.mark.parametrize("rules", [{}, EVERYTHING, {"update": "low_memory", "unmasked_pair": True}])
@pytest.mark.parametrize("name", METHODS)
def test_step__reads_no_value_of_the_device(name: str, rules: dict) -> None:
    trainer = make_trainer(METHODS[name], **rules)
    batch = make_batch()
    trainer.step(batch)  # optimisers make their state
    with NoWaiting():
        trainer.step(batch, 1, diagnose=True)


@pytest.mark.parametrize("name", ["sgd", "lars", "adam"])
def test_optimiser__reads_no_value_of_the_device(name: str) -> None:
    net = ResNet(width=8, stem="stride2")
    optimiser = build_optimiser((net,), name=name, lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        net(torch.randn(2, 3, SIZE, SIZE)).sum().backward()
        with NoWaiting():
            optimiser.step()


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0].item(),
        lambda x: bool(x[0]),
        lambda x: x[x > 1],
        lambda x: x.__setitem__(x > 1, torch.zeros(1)),
        lambda x: x.unique(),
        lambda x: x.masked_select(x > 1),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: x.long().bincount(),
    ],
)
def test_no_waiting__would_find_a_read(read) -> None:
    with pytest.raises(AssertionError, match="reads a value"), NoWaiting():
        read(torch.arange(3.0))


def test_costly_nets__are_those_of_the_method_inside() -> None:
    inner = sequential()
    assert Swapped(inner).costly_nets() == inner.costly_nets() == (inner.heads.unet,)
    assert NoMask().costly_nets() == ()
