"""What a run's hash sees of the data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmark.config import compose
from benchmark.dataset import Dataset, Split
from benchmark.hashing import result_payload, short_hash
from benchmark.resolve import typed

IMAGES = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
PLAIN = Dataset(
    "pets",
    train=Split(IMAGES, torch.tensor([0, 1, 0, 1])),
    test=None,
    class_names=("cat", "dog"),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    fingerprint="all of it",
    train_fingerprint="what is pretrained on",
)
PART_LABELLED = replace(PLAIN, pretrain=Split(IMAGES, torch.tensor([-1, -1, 0, 1])))


@pytest.mark.parametrize(
    ("data", "method", "seen"),
    [
        (PLAIN, "none", "pretrain"),
        (PLAIN, "supervised", "pretrain"),
        (PART_LABELLED, "none", "pretrain"),
        # It learns from the labelled split, which has a part in no other fingerprint.
        (PART_LABELLED, "supervised", "all"),
    ],
)
def test_payload__holds_the_data_that_the_encoder_learns_from(
    data: Dataset, method: str, seen: str
) -> None:
    cfg = typed(compose([f"method={method}"]))
    hashed = short_hash(result_payload(cfg, data))
    changed = {
        "pretrain": short_hash(result_payload(cfg, replace(data, train_fingerprint="other"))),
        "all": short_hash(result_payload(cfg, replace(data, fingerprint="other"))),
    }
    assert [key for key, value in changed.items() if value != hashed] == [seen]
