"""Optimisers for the two players."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from timm.optim.lars import Lars
from torch import nn

from benchmark.contracts import UserError

NAMES = ("sgd", "lars", "adam")


def build_optimiser(
    modules: Iterable[nn.Module], *, name: str, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Build one optimiser over the trainable parameters of ``modules``.

    Biases and norm scales (one dimension) get no weight decay. "lars" is timm's Lars with the
    settings under which it equals the LARS of the ADIOS code: trust coefficient 0.02, clipped at
    the plain learning rate, and no adaptation for parameters of one dimension.

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
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    matrices: dict[str, Any] = {
        "params": [p for p in parameters if p.ndim > 1],
        "weight_decay": weight_decay,
    }
    vectors: dict[str, Any] = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0}
    if name == "lars":
        matrices |= {"always_adapt": True, "trust_clip": True, "trust_coeff": 0.02}
        vectors |= {"always_adapt": False}
        return Lars([matrices, vectors], lr=lr, momentum=momentum)
    if name == "sgd":
        return torch.optim.SGD([matrices, vectors], lr=lr, momentum=momentum, fused=True)
    return torch.optim.Adam([matrices, vectors], lr=lr, betas=(momentum, 0.999), fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = lr
