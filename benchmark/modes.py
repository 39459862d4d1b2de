"""What nets are for a while: frozen, or in another mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(nets: Iterable[nn.Module]) -> Iterator[None]:
    """Forwards inside keep nothing for gradients of the weights, which get none."""
    weights = [p for net in nets for p in net.parameters() if p.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


@contextmanager
def in_mode(nets: Iterable[nn.Module], mode: str) -> Iterator[None]:
    """Training nets are in ``mode`` inside, "train" or "eval"."""
    changed = [m for net in nets for m in net.modules() if m.training and mode == "eval"]
    for module in changed:
        module.training = False
    try:
        yield
    finally:
        for module in changed:
            module.training = True
