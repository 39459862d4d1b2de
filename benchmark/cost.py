"""What a training step costs, counted rather than timed."""

from __future__ import annotations

import copy
import resource
import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark import processes
from benchmark.contracts import Batch
from benchmark.trainer import Trainer


@dataclass(frozen=True)
class Cost:
    """Cost of training on one image.

    Attributes:
        encoder_forwards: images that the encoder sees, the teacher's not counted.
        flops: floating-point operations.
    """

    encoder_forwards: float
    flops: float


def peak_memory(device: torch.device) -> int:
    """Bytes that this process had at a time, at most: on a GPU of its memory, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # which counts in bytes, others in KiB


def cost_per_image(trainer: Trainer, batch: Batch) -> Cost:
    """The mean over the steps after which the players' turns repeat, counted on copies."""
    parts = {
        name: copy.deepcopy(getattr(trainer, name)) for name in ("encoder", "objective", "method")
    }
    rehearsal = replace(trainer, **parts, probe=None, cuda_graphs=False)
    # The optimisers hold the originals' parameters, which get no gradient here.
    rehearsal.encoder_optimiser = torch.optim.SGD(parts["encoder"].parameters(), lr=0.0)
    if rehearsal.mask_optimiser is not None:
        rehearsal.mask_optimiser = torch.optim.SGD(parts["method"].parameters(), lr=0.0)
    seen = 0

    def count(_encoder: nn.Module, arguments: tuple[Tensor]) -> None:
        nonlocal seen
        seen += len(arguments[0])

    parts["encoder"].register_forward_pre_hook(count)
    cycle = trainer.turns.encoder_steps
    with processes.alone(), FlopCounterMode(display=False) as counter:
        for step in range(cycle):
            rehearsal.step(batch, step)
    images = len(batch.index) * cycle
    return Cost(seen / images, float(counter.get_total_flops()) / images)
