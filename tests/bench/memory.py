"""Memory of pretraining from memory-mapped packs of different sizes.

    python tests/bench/memory.py [COUNT ...]

packs 2,500 and 20,000 images of noise (or the numbers given), 96 px, in a temporary folder (0.6
GB), and starts the real command with `residence=host` on each. Each trains for half a minute and is
then killed: rows are the most memory of its own that it had in that time, which is to be the same
for all, and the most pages of files, which the system takes back when others need them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from measure import Row, print_rows
from PIL import Image

from benchmark.packs.manifest import Recipe
from benchmark.packs.packing import prepare
from benchmark.sources.source import Contents, Examples, Sample, Source

ROOT = Path(__file__).parents[2]
COUNTS = (2_500, 20_000)
SIZE = 96
SECONDS = 30


class NoiseExamples(Examples):
    """Images of noise."""

    def __init__(self, count: int) -> None:
        self.labels = {"class": np.arange(count) % 10}

    def __len__(self) -> int:
        return len(self.labels["class"])

    def read(self, index: int) -> Sample:
        pixels = np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        return Sample(Image.fromarray(pixels))

    def origin(self, index: int) -> str:
        return f"image {index}"


class Noise(Source):
    """As many images as one likes."""

    version = 1
    expects = "nothing"

    def __init__(self, count: int) -> None:
        self.count = count

    def open(self, folder: Path, scratch: Path, *, trust: bool) -> Contents:
        splits: dict[str, Examples] = {
            "train": NoiseExamples(self.count),
            "test": NoiseExamples(100),
        }
        return Contents(splits, {"class": tuple("abcdefghij")}, files=())


def train(name: str, count: int, folder: Path) -> tuple[int, int]:
    """Train on a pack for ``SECONDS``.

    Returns:
        The most own memory and the most pages of files, in MB.
    """
    command = [sys.executable, "benchmark/run.py", "method=random", "residence=host"]
    command += [f"runs_dir={folder}/runs", f"data_dir={folder}", "data=images"]
    command += [f"data.name={name}", f"data.stored_size={SIZE}", "data.image_size=32"]
    command += ["~data.source", f"+data.source={{_target_: memory.Noise, count: {count}}}"]
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    own, pages, started = 0, 0, time.monotonic()
    while time.monotonic() < started + SECONDS:
        time.sleep(0.1)
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        own = max(own, int(status["RssAnon"].split()[0]) // 1000)
        pages = max(pages, int(status["RssFile"].split()[0]) // 1000)
    process.kill()
    process.wait()
    return own, pages


def rows(counts: Sequence[int] = COUNTS) -> list[Row]:
    """Pack and train on each number of images."""
    part = "memory of pretraining from a pack"
    found, first = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in counts:
            recipe = Recipe(f"noise-{count}", folder, Noise(count), SIZE)
            prepare(recipe, folder, workers=2, trust=False, replace=False, emit=lambda event: None)
            own, pages = train(recipe.name, count, folder)
            first = first or own
            size = (recipe.folder / "images.npy").stat().st_size / 1e9
            case = f"{count:,} images, {size:.2g} GB"
            found.append(Row(part, f"{case}: own", own, "MB"))
            found.append(Row(part, f"{case}: own, beside the first", own / first, "x", note="1"))
            found.append(Row(part, f"{case}: pages of files", pages, "MB"))
    return found


if __name__ == "__main__":
    # Packs name the class of their source by its module, which is not to be __main__.
    import memory

    print_rows(memory.rows([int(count) for count in sys.argv[1:]] or COUNTS))
