"""The rule by which BatchNorm's running statistics move in a phase of a training step.

Encoding the clean view once saves a third of the encoder's work but changes how often its batch
statistics enter the running ones. So each phase only records what every forward saw, and the
running statistics are then set in closed form, as if the forwards of the stated rule had run:

- ``once``: each distinct view once, in the encoder phase only, so that evaluation sees the
  statistics of the encoder's own training and the adversary leaves no trace in its buffers;
- ``adios``: as in the ADIOS code, clean view and hidden view in turn for every mask, in both
  phases (x, m1, x, m2, ...).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

RULES = ("once", "adios")


def forward_order(rule: str, forwards: int, *, adversary: bool) -> list[int]:
    """Which recorded forwards enter the running statistics, and in which order."""
    if rule == "once":
        return [] if adversary else list(range(forwards))
    return [view for hidden in range(1, forwards) for view in (0, hidden)]


@contextmanager
def running_statistics(
    modules: Iterable[nn.Module], rule: str, *, adversary: bool
) -> Iterator[None]:
    """Let the forwards inside move the running statistics by ``rule``."""
    norms = [m for module in modules for m in module.modules() if isinstance(m, _BatchNorm)]
    norms = [m for m in norms if m.training and m.track_running_stats]
    recorded: dict[nn.Module, list[Tensor]] = {m: [] for m in norms}

    def record(norm: nn.Module, _inputs: object, _output: object) -> None:
        # With momentum 1 the running statistics are this batch's own.
        recorded[norm].append(torch.stack([norm.running_mean, norm.running_var]))  # type: ignore[list-item]

    before = [(torch.stack([m.running_mean, m.running_var]), m.momentum) for m in norms]  # type: ignore[list-item]
    counts = [m.num_batches_tracked.clone() for m in norms]  # type: ignore[union-attr]
    hooks = [m.register_forward_hook(record) for m in norms]
    for norm in norms:
        norm.momentum = 1.0
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (old, momentum), count in zip(norms, before, counts, strict=True):
            norm.momentum = momentum
            order = forward_order(rule, len(recorded[norm]), adversary=adversary)
            new = _moving_average(old, recorded[norm], order, momentum or 0.0)
            # New tensors: autograd holds the old ones and refuses a change in place.
            norm.running_mean, norm.running_var = new[0].clone(), new[1].clone()
            norm.num_batches_tracked = count + len(order)


def _moving_average(
    old: Tensor, recorded: list[Tensor], order: list[int], momentum: float
) -> Tensor:
    """``old <- (1 - momentum) old + momentum recorded[i]`` for each i of ``order``, at once."""
    weights = [0.0] * len(recorded)
    for age, i in enumerate(reversed(order)):
        weights[i] += momentum * (1 - momentum) ** age
    new = old * (1 - momentum) ** len(order)
    for weight, statistics in zip(weights, recorded, strict=True):
        if weight:
            new = new + weight * statistics
    return new
