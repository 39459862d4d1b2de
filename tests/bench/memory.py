"""Memory of training from a memory-mapped pack, beside one ten times as large.

    python tests/bench/memory.py

prints a line per pack in a minute. The images are noise, 96 px, in a temporary folder (3 GB).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

COUNTS = (10_000, 100_000)
SIZE = 96

TRAIN = """
import json, sys, numpy as np, torch
from benchmark.contracts import Split
from benchmark.feed import Feed
from benchmark.streams import permutation
torch.set_num_threads(1)
images = torch.from_numpy(np.load(sys.argv[1], mmap_mode="c"))
feed = Feed(Split(images), torch.device("cpu"), segments=False, residence="host")
order = permutation(0, "order", 0, len(images))
total = 0
for samples in feed.batches(order[: 256 * 30].split(256)):
    total += int(samples.images.sum())
status = dict(l.split(":", 1) for l in open("/proc/self/status").read().splitlines())
print(json.dumps({key: int(status[key].split()[0]) // 1024 for key in ("RssAnon", "RssFile")}))
"""


def main() -> None:
    """Write two packs' images, gather the same number of batches from each, print the memory."""
    print("images    GB   own memory MB   pages of the file MB")
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            file = Path(folder) / f"{count}.npy"
            shape = (count, 3, SIZE, SIZE)
            array = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
            draw = np.random.default_rng(0)
            for start in range(0, count, 1000):
                array[start : start + 1000] = draw.integers(0, 256, (1000, *shape[1:]), np.uint8)
            array.flush()
            del array
            command = [sys.executable, "-c", TRAIN, str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            memory = json.loads(done.stdout)
            size = file.stat().st_size / 1e9
            print(f"{count:6d} {size:5.1f} {memory['RssAnon']:15d} {memory['RssFile']:22d}")


if __name__ == "__main__":
    main()
