"""Packs of drawn images, with whatever labels and ground truth a test asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.packs.manifest import Recipe
from benchmark.packs.pack import load
from benchmark.packs.packing import prepare
from benchmark.sources.source import Contents, Examples, Sample, Source

CLASSES = {"fine": ("ant", "bee", "cat"), "coarse": ("insect", "other")}


@dataclass(frozen=True)
class Drawn(Examples):
    seed: int
    count: int
    truth: tuple[str, ...] = ()
    labels: dict = field(default_factory=dict)

    def __len__(self):
        return self.count

    def read(self, index):
        draw = np.random.default_rng([self.seed, index])
        image = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
        return Sample(image, **{n: draw.integers(0, 9, (8, 8), np.uint8) for n in self.truth})

    def origin(self, index):
        return f"drawing {index}"


class Fake(Source):
    """Splits train, extra (without labels), test and val."""

    version: ClassVar[int] = 1
    expects: ClassVar[str] = "DIR/fake.tar"

    def __init__(self, sets=("fine",), truth=()):
        self.sets = list(sets)
        self.truth = list(truth)

    def open(self, folder, scratch, *, trust):
        truth = tuple(self.truth)

        def labelled(count):
            return {s: np.arange(count) % len(CLASSES[s]) for s in self.sets}

        partly = {s: np.array([0, -1]) for s in self.sets}
        splits = {
            "train": Drawn(0, 6, truth, labelled(6)),
            "extra": Drawn(1, 5),
            "test": Drawn(2, 4, truth, labelled(4)),
            "val": Drawn(3, 2, truth, partly),
        }
        names = {s: CLASSES[s] for s in self.sets}
        pixel_names = ("sky", "road") if truth else ()
        return Contents(splits, names, pixel_names, {"fake.tar": "md5:0"}, files=())


class Fakes:
    """Makes and opens the pack "fake" in a folder."""

    source = Fake
    classes = CLASSES

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def pack(self, source: Source, **settings) -> Path:
        recipe = Recipe("fake", self.data_dir, source, **{"stored_size": 8, **settings})
        prepare(
            recipe, self.data_dir, workers=1, trust=False, replace=True, emit=lambda event: None
        )
        return recipe.folder

    def load(self, source: Source, **settings) -> Dataset:
        wanted = {"name": "fake", "stored_size": 8, "train": ["train"], "test": ["test"]}
        return load(data_dir=str(self.data_dir), source=source, **{**wanted, **settings})

    def refused(self, message: str, source: Source, **settings) -> None:
        with pytest.raises(UserError) as caught:
            self.load(source, **settings)
        text = str(caught.value)
        assert re.search(message, text), text
        assert "\n" not in text

    @staticmethod
    def stored(seed: int, count: int) -> torch.Tensor:
        """The images of a split, as they are to be stored."""
        images = [np.asarray(Drawn(seed, count).read(k).image) for k in range(count)]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

    @staticmethod
    def sample(seed: int, index: int, truth: tuple[str, ...]) -> Sample:
        return Drawn(seed, index + 1, truth).read(index)


@pytest.fixture
def fakes(tmp_path) -> Fakes:
    return Fakes(tmp_path)
