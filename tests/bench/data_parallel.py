"""Two processes with a batch each against one process with one: what of its speed each keeps.

    python tests/bench/data_parallel.py

The step of `step.py` (ADIOS, N=4) with 16 images and one thread a process, over gloo; repeats are
interleaved, and an efficiency of 100% would be twice the images in the same time.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import torch
from measure import Row, print_rows, ratios, summary
from step import Case, adios, make_batch, make_trainer

from benchmark import processes

IMAGES, STEPS, REPEATS = 16, 3, 3


def worker(synchronised: bool) -> None:
    """Print the median seconds of a step, after one that does not count."""
    torch.set_num_threads(1)
    with processes.joined():
        case = Case("", adios, sync_batchnorm=synchronised)
        trainer = make_trainer(case, torch.device("cpu"))
        batch = make_batch(IMAGES, torch.device("cpu"))
        trainer.step(batch)
        seconds = []
        for _ in range(STEPS):
            started = time.perf_counter()
            trainer.step(batch)
            seconds.append(time.perf_counter() - started)
        if processes.rank() == 0:
            print(json.dumps(statistics.median(seconds)))


def seconds(count: int, synchronised: bool) -> float:
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={count}"] if count > 1 else []
    words = [sys.executable, *launch, __file__, "worker", str(int(synchronised))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout.splitlines()[-1])


def rows() -> list[Row]:
    """Speed of one and of two processes, and the efficiency."""
    cases = {"one process": (1, False), "two": (2, False), "two, sync BatchNorm": (2, True)}
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(REPEATS):
        for name, (count, synchronised) in cases.items():
            taken[name].append(seconds(count, synchronised))
    found = [
        summary("data parallel", name, [cases[name][0] * IMAGES / s for s in values], "img/s")
        for name, values in taken.items()
    ]
    for name in list(cases)[1:]:
        efficiency = [100 * r for r in ratios(taken["one process"], taken[name])]
        found.append(summary("data parallel, efficiency", name, efficiency, "%"))
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(bool(int(sys.argv[2])))
    else:
        print_rows(rows())
