"""What several learning rates cost a linear probe beside one.

    python tests/bench/linear_probe.py

prints one table in three minutes. Data: 1,024 training and 256 test images of CIFAR-10, JPEG files
of ../shared/data; encoder: a ResNet18 of quarter width at 32 pixels, untrained, which costs as much
as any. The augmented protocol sends random crops of all training images through the encoder in each
of 10 epochs; the plain one computes features once and trains on them for 100 epochs.

Times are processor seconds of the whole task on one thread, which other programs on the machine
change less than the clock: median (minimum to maximum) of interleaved repeats after one that does
not count. A ratio is the median of the repeats' own ratios to one learning rate. One learning rate
trains on every image, several on the nine tenths that are not held out: the last column divides by
what was trained on.
"""

from __future__ import annotations

import io
import statistics
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmark.data import channel_statistics
from benchmark.dataset import Dataset, Split
from benchmark.encoders import ResNet
from benchmark.streams import seeded
from tasks.linear import LinearProbe

IMAGES = Path(__file__).parents[3] / "shared/data/cifar10-images.tar.xz"
COUNTS = {"train": 1024, "test": 256}
REPEATS = 5
RATES = [1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
DECAYS = [0.0, 1e-4, 1e-3]
AUGMENTED = {"augment": True, "epochs": 10}
PLAIN = {"augment": False, "epochs": 100}
GRIDS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": RATES},
    {"lr": RATES, "weight_decay": DECAYS},
]
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *(("augmented, sgd", {**AUGMENTED, "optimiser": "sgd"}, grid) for grid in GRIDS),
    *(("augmented, lars", {**AUGMENTED, "optimiser": "lars"}, grid) for grid in GRIDS[:2]),
    *(("plain, sgd", {**PLAIN, "optimiser": "sgd"}, grid) for grid in GRIDS),
]


def cifar10() -> Dataset:
    """Images of all classes in turn."""
    found: dict[str, dict[str, list[np.ndarray]]] = {split: {} for split in COUNTS}
    with tarfile.open(IMAGES) as archive:
        for member in archive:
            *_, split, label, name = ("", "", *member.name.split("/"))
            if not name.endswith(".jpg"):
                continue
            own = found[split].setdefault(label, [])
            if len(own) < COUNTS[split] // 10 + 1:
                file = archive.extractfile(member)
                assert file is not None
                own.append(np.array(Image.open(io.BytesIO(file.read())).convert("RGB")))
    names = tuple(sorted(found["train"]))
    splits = []
    for split, count in COUNTS.items():
        labels = torch.arange(count) % len(names)
        images = [found[split][names[k]][i // len(names)] for i, k in enumerate(labels.tolist())]
        splits.append(Split(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), labels))
    mean, std = channel_statistics(splits[0].images)
    return Dataset("cifar10", splits[0], splits[1], names, mean, std, "", "")


def seconds(encoder: ResNet, data: Dataset, settings: dict[str, Any]) -> float:
    """How long one task computes."""
    task = LinearProbe(schedule="cosine", batch_size=256, standardise=True, **settings)
    started = time.process_time()
    task.run(encoder, data, eval_seed=0, device=torch.device("cpu"))
    return time.process_time() - started


def main() -> None:
    torch.set_num_threads(1)
    data = cifar10()
    with seeded(0, "bench/encoder"):
        encoder = ResNet(18, width=16, stem="stride2")
    times: list[list[float]] = [[] for _ in CASES]
    for repeat in range(REPEATS + 1):
        for taken, (_, protocol, grid) in zip(times, CASES, strict=True):
            used = seconds(encoder, data, {**protocol, **grid})
            taken += [used] * (repeat > 0)
    print("protocol         | layers | seconds             | ratio | ratio per image trained on")
    one = times[0]
    for taken, (name, protocol, grid) in zip(times, CASES, strict=True):
        layers = len(LinearProbe(schedule="cosine", **protocol, **grid).search.points)
        one = taken if layers == 1 else one
        ratio = statistics.median(a / b for a, b in zip(taken, one, strict=True))
        span = f"{statistics.median(taken):.2f} ({min(taken):.2f} to {max(taken):.2f})"
        per_image = ratio / 0.9 if layers > 1 else ratio
        print(f"{name:16} | {layers:6} | {span:19} | {ratio:5.2f} | {per_image:.2f}")


if __name__ == "__main__":
    main()
