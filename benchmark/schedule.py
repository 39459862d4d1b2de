"""Schedules in closed form."""

from __future__ import annotations

import math


def warmup_cosine(tick: int, *, base: float, start: float, warmup: int, total: int) -> float:
    """Linear warm-up, then a cosine to 0, over ticks that are epochs or steps.

    The last warm-up tick has the base value; this is the form that the ADIOS code takes from
    lightning-bolts.

    Args:
        tick: 0 to ``total - 1``.
        base: value after the warm-up.
        start: value at tick 0 if there is a warm-up.
        warmup: ticks of warm-up.
        total: ticks of training.
    """
    if tick < warmup:
        return start + tick * (base - start) / max(warmup - 1, 1) if warmup > 1 else base
    return base * (1 + math.cos(math.pi * (tick - warmup) / max(total - warmup, 1))) / 2


def ema_decay(progress: float, base: float) -> float:
    """Decay of an EMA teacher, a cosine from ``base`` to 1 (BYOL, arXiv 2006.07733, sec. 3.2)."""
    return 1 - (1 - base) * (1 + math.cos(math.pi * progress)) / 2
