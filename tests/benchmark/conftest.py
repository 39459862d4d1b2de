"""What several tests share: pictures on disk and in memory, files that run in several processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from benchmark import folder
from benchmark.errors import UserError
from benchmark.packs import journal, packing
from benchmark.packs.manifest import Recipe
from benchmark.progress import Emit
from benchmark.sources.examples import FileExamples
from benchmark.sources.folder import Folder


class StoppedError(Exception):
    """Ends a packing where a test wants it."""


class Pets:
    """60 pictures of 12 x 10 pixels: 2 splits of 2 classes of 15."""

    count = 60
    stopped = StoppedError

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.packs = folder / "packs"
        self.reads: list[str] = []  # origins of the pictures that this process has read
        for k in range(self.count):
            split, class_name = ("train", "test")[k % 2], ("cat", "dog")[k // 2 % 2]
            path = self.source / split / class_name / f"{k:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(k).integers(0, 256, (10, 12, 3), np.uint8)
            Image.fromarray(pixels).save(path)

    @property
    def files(self) -> list[Path]:
        """The pictures in the order of a pack."""
        splits = (self.source / "train", self.source / "test")
        return [path for split in splits for path in sorted(split.glob("*/*"))]

    def recipe(self, name="pets", **settings) -> Recipe:
        return Recipe(name, self.packs, Folder(["train", "test"], **settings), 8)

    def make(self, wanted=None, workers=1, replace=False, emit=lambda event: None) -> bool:
        wanted = wanted or self.recipe()
        return packing.prepare(
            wanted, self.source, workers=workers, trust=False, replace=replace, emit=emit
        )

    def refused(self, message: str, *arguments, **settings) -> None:
        with pytest.raises(UserError) as caught:
            self.make(*arguments, **settings)
        text = str(caught.value)
        assert re.search(message, text), text
        assert "\n" not in text

    def stop_at(self, chunks: int) -> Emit:
        """Ends a packing when that many chunks of 7 pictures are done."""
        done = []

        def emit(event):
            done.append(event.step is not None)
            if sum(done) == chunks:
                raise self.stopped

        return emit

    def stop(self, chunks: int, wanted=None) -> None:
        with pytest.raises(self.stopped):
            self.make(wanted, emit=self.stop_at(chunks))


@pytest.fixture
def pets(tmp_path, monkeypatch) -> Pets:
    monkeypatch.setattr(journal, "_CHUNK_IMAGES", 7)
    made = Pets(tmp_path)
    read = FileExamples.read

    def counted(self, index):
        made.reads.append(self.origin(index))
        return read(self, index)

    monkeypatch.setattr(FileExamples, "read", counted)
    return made


@pytest.fixture
def picture() -> Callable[..., Path]:
    """Writes one image of noise."""

    def write(path, seed=0, size=(40, 48), mode="RGB"):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
        return path

    return write


@pytest.fixture
def classes(picture) -> Callable[..., Path]:
    """Writes a folder of images per class."""

    def write(root, names=("cat", "dog"), count=3, suffix=".png"):
        for k, name in enumerate(names):
            for i in range(count):
                picture(root / name / f"{i}{suffix}", seed=10 * k + i)
        return root

    return write


@pytest.fixture
def refused() -> Callable[..., None]:
    """Says that `folder.load` refuses the arguments in one sentence."""

    def check(message, **arguments):
        with pytest.raises(UserError) as caught:
            folder.load(**arguments)
        text = str(caught.value)
        assert re.search(message, text), text
        assert text.endswith(".")
        assert "\n" not in text

    return check


@pytest.fixture(scope="session")
def in_processes(tmp_path_factory) -> Callable[[Path, int], list[dict]]:
    """Runs a file of tests in several processes; returns what each of them saves, in rank order."""

    def run(file: Path, count: int) -> list[dict]:
        out = tmp_path_factory.mktemp("found")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        done = subprocess.run(
            [*torchrun, f"--nproc-per-node={count}", str(file), str(out)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(count)]

    return run


@pytest.fixture(scope="session")
def noise() -> Callable[..., Tensor]:
    """Images of smooth and of rough noise, the last one black and the one before flat."""

    def make(count: int, *size: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
        images[::2] = tv.gaussian_blur(images[::2], [5, 5])
        images[-1], images[-2] = 0, 90
        return images

    return make
