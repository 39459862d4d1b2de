"""What a linear probe costs with 20 learning rates, beside one rate and beside 20 probes.

    python tests/bench/probe.py

The task `linear` as it is, un-augmented: features once, then 100 epochs of all layers together.
Data: 2,000 and 500 `scenes` at 32 pixels; one thread. Twice: with a ResNet18, whose features are
most of the time on a CPU, and with a fixed projection of the pixels to as many features, which
takes next to none and leaves what the layers cost. Seconds are those of whole tasks, in interleaved
repeats. 20 probes are extrapolated from three of them.

`linear_probe.py` beside this file has the augmented protocols, on real images.
"""

from __future__ import annotations

import torch
from measure import Row, interleaved, print_rows, ratios, summary
from torch import Tensor, nn

from benchmark.dataset import Dataset
from benchmark.encoders import ResNet
from benchmark.scenes import load
from benchmark.streams import seeded
from tasks.features import Inputs, extract, working_copy
from tasks.linear import LinearProbe

NUM_FEATURES = 512
RATES = [round(1e-3 * 10 ** (3.5 * k / 19), 6) for k in range(20)]
ALONE = RATES[::9]  # three of them


class Projection(nn.Module):
    """Features without the cost of an encoder: the image, made smaller, times a fixed matrix."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0, "bench/projection"):
            self.weight = nn.Parameter(torch.randn(NUM_FEATURES, 3 * 8 * 8) / 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 4).flatten(1) @ self.weight.T


def probe(rates: list[float] | float) -> LinearProbe:
    return LinearProbe(lr=rates, epochs=100, schedule="cosine", batch_size=256, standardise=True)


def rows(repeats: int = 3) -> list[Row]:
    """Seconds of each task, and the two ratios that are asked for."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load(train_count=2000, test_count=500)
    with seeded(0, "bench/encoder"):
        encoders = {"ResNet18": ResNet(18), "features at hand": Projection()}
    found = []
    for name, encoder in encoders.items():
        found += _rows_of(name, encoder.to(device), data, device, repeats)
    return found


def _rows_of(
    name: str, encoder: nn.Module, data: Dataset, device: torch.device, repeats: int
) -> list[Row]:
    def run(rates: list[float] | float) -> None:
        probe(rates).run(encoder, data, eval_seed=0, device=device)

    def features() -> None:
        body = working_copy(encoder, device, freeze=True)
        for split in (data.train, data.test):
            assert split is not None
            extract(body, split.images, Inputs.of(data, device), "fp32")

    cases = {"features alone": features, "20 rates": lambda: run(RATES)}
    cases |= {f"rate {rate:g}": lambda rate=rate: run(rate) for rate in ALONE}
    seconds = interleaved(cases, repeats)
    alone = list(zip(*(seconds[f"rate {rate:g}"] for rate in ALONE), strict=True))
    seconds = {
        "features alone": seconds["features alone"],
        "1 rate": [sum(taken) / len(ALONE) for taken in alone],
        "20 rates": seconds["20 rates"],
        "20 probes of 1 rate": [len(RATES) * sum(taken) / len(ALONE) for taken in alone],
    }
    part = f"linear probe, {name}"
    notes = {"20 probes of 1 rate": f"extrapolated from {len(ALONE)}"}
    found = [summary(part, case, s, "s", notes.get(case, "")) for case, s in seconds.items()]
    for case, above, below, asked in (
        ("20 rates / 1 rate", "20 rates", "1 rate", "at most 4"),
        ("20 probes / 20 rates", "20 probes of 1 rate", "20 rates", "at least 4"),
    ):
        found.append(summary(part, case, ratios(seconds[above], seconds[below]), "x", asked))
    return found


if __name__ == "__main__":
    print_rows(rows())
