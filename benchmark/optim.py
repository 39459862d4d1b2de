"""Optimisers for the two players."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError

NAMES = ("sgd", "lars", "adam")


def build_optimiser(
    modules: Iterable[nn.Module], *, name: str, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Build one optimiser over the trainable parameters of ``modules``.

    Biases and norm scales (one dimension) get no weight decay. "lars" has the settings of
    pretraining in the ADIOS code: trust coefficient 0.02, clipped at the plain learning rate.

    Raises:
        UserError: for an unknown name, or numbers out of range.
    """
    if name not in NAMES:
        raise UserError(f"optimiser {name!r} is unknown; choose one of {', '.join(NAMES)}")
    for key, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
        if value < 0:
            raise UserError(f"optimiser {key}={value} must not be negative")
    if momentum >= 1:
        raise UserError(f"optimiser momentum={momentum} must be below 1")
    everything = {"params": [p for m in modules for p in m.parameters() if p.requires_grad]}
    if name == "lars":
        return build_lars(
            [everything],
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=0.02,
            clip=True,
        )
    groups = by_dimension(everything, weight_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)
    return torch.optim.Adam(groups, lr=lr, betas=(momentum, 0.999), fused=True)


def build_lars(
    groups: Iterable[Mapping[str, Any]],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    clip: bool,
) -> torch.optim.Optimizer:
    """Build timm's Lars with the settings under which it equals the LARS of the ADIOS code.

    Parameters of one dimension get neither weight decay nor adaptation. The others are adapted
    also without weight decay, where timm left to itself would not.

    Args:
        groups: "params", and "lr" or "weight_decay" for a group with one of its own.
        lr: learning rate of the other groups.
        momentum: of SGD, after the adaptation.
        weight_decay: of the other groups, added to the gradient before the adaptation.
        trust_coefficient: length of the adapted gradient as a share of the weights' length.
        clip: adapt downwards only: no step is longer than that of SGD.
    """
    from timm.optim.lars import Lars  # here, as timm takes long to import and few runs use LARS

    split = []
    for group in groups:
        matrices, vectors = by_dimension(group, weight_decay)
        matrices |= {"always_adapt": True, "trust_clip": clip, "trust_coeff": trust_coefficient}
        split += [matrices, vectors | {"always_adapt": False}]
    return Lars(split, lr=lr, momentum=momentum)


def by_dimension(
    group: Mapping[str, Any], weight_decay: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a group: parameters of several dimensions with weight decay, those of one without.

    Args:
        group: "params", and "weight_decay" if it has its own.
        weight_decay: of the matrices if the group has none.
    """
    parameters: list[Tensor] = list(group["params"])
    matrices = {"weight_decay": weight_decay, **group}
    matrices["params"] = [p for p in parameters if p.ndim > 1]
    vectors = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0}
    return matrices, {**group, **vectors}


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = lr
