"""Is the time of a training step linear in images, masks and pixels?

    python tests/bench/scaling.py

Steps of `adios` on the embedded scenes, with everything built from composed configurations as a run
builds it: batches of 16 to 128 images, 2 to 8 masks, and images of 32 to 96 pixels. Rows are the
time of a step, and that time over what a straight line through the times of its series has there,
fitted to relative errors: 1 everywhere is linear. How the memory of pretraining grows with the data
set is `memory.py`'s.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import torch
from measure import Row, interleaved, print_rows, summary

from benchmark.build import build_pretraining, load_data
from benchmark.config import compose
from benchmark.resolve import resolve_device, typed

BASE = ("method=adios", "data.train_count=256", "data.test_count=2", "precision=fp32")
# Of each series: its name, what the time is to be linear in, and the settings.
SERIES: dict[str, dict[int, Sequence[str]]] = {
    "images per batch": {n: [f"batch_size={n}"] for n in (16, 32, 64, 128)},
    "masks": {n: [f"method.num_masks={n}"] for n in (2, 4, 8)},
    "pixels": {
        n * n: [f"data.image_size={n}", "data.max_crop=2", "batch_size=32"] for n in (32, 64, 96)
    },
}


def step(overrides: Sequence[str]) -> Callable[[], object]:
    """A training step of a run, batch and all, on the same images every time."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = typed(compose([*BASE, *overrides, f"runs_dir={folder}"]))
    torch.set_num_threads(cfg.threads)
    training = build_pretraining(cfg, load_data(cfg.data), resolve_device(cfg.device))
    index = torch.arange(cfg.batch_size, device=training.device)

    def run() -> None:
        batch = training.batches.augmented(0, 0, training.feed.take(index))
        training.trainer.step(batch, 0)

    return run


def straight(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """The values at ``x`` of the line with the least squares of errors relative to ``y``."""
    line = np.polynomial.Polynomial.fit(x, y, deg=1, w=1 / np.asarray(y))
    return line(np.asarray(x, float))


def rows(repeats: int = 5) -> list[Row]:
    """Times of each series, and how straight they are."""
    found = []
    for name, settings in SERIES.items():
        steps = {f"{n:,}": step(overrides) for n, overrides in settings.items()}
        seconds = interleaved(steps, repeats, warm_up=2)
        medians = [statistics.median(taken) for taken in seconds.values()]
        predicted = straight([float(n) for n in settings], medians)
        for case, taken in seconds.items():
            found.append(summary(f"step by {name}", case, [1e3 * s for s in taken], "ms"))
        for (case, taken), line in zip(seconds.items(), predicted, strict=True):
            part, errors = f"step by {name}, over a straight line", [s / line for s in taken]
            found.append(summary(part, case, errors, "x", "near 1"))
    return found


if __name__ == "__main__":
    print_rows(rows())
