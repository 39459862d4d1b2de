"""What surviving costs: a checkpoint, as a share of the time between two, and a look at many runs.

    python tests/bench/sweeps.py

A checkpoint of `sequential` with nets of full size, 96 px, after a step (so that optimisers have
their state) is saved to a temporary folder and synced; the share is of the 60 s between two. Then
`python slurm/status.py` is timed as a whole process on 1,000 run folders with ten results each.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measure import Row, print_rows, summary

from benchmark.build import build_pretraining
from benchmark.checkpoint import save_checkpoint
from benchmark.files import write_json
from benchmark.plan import Planner

ROOT = Path(__file__).parents[2]
INTERVAL = 60.0  # seconds, the default of checkpoint_every_seconds
REPEATS = 5
RUNS, RESULTS = 1_000, 10


def _checkpoint(encoder: str, folder: Path) -> tuple[list[float], float]:
    """Seconds of savings, and megabytes of one."""
    line = ["method=sequential", "preset=base", f"encoder={encoder}", "encoder.width=64"]
    line += ["batch_size=4", "epochs=1", "task=[]", f"runs_dir={folder}/runs", "device=cpu"]
    planner = Planner()
    planned = planner.plan(line)
    data = planner.data(planned.cfg)
    training = build_pretraining(planned.cfg, data, torch.device("cpu"))
    samples = training.feed.take(torch.arange(4))
    training.trainer.step(training.batches.augmented(0, 0, samples))
    seconds = []
    for step in range(REPEATS):
        started = time.perf_counter()
        save_checkpoint(folder / encoder, "bench/seed0", training.trainer, step, {})
        seconds.append(time.perf_counter() - started)
    (newest, *_) = sorted((folder / encoder).iterdir())
    return seconds, newest.stat().st_size / 1e6


def _run_folders(runs: Path) -> None:
    for number in range(RUNS):
        run = runs / "scenes" / f"none-{number // 10:08x}" / f"seed{number % 10}"
        tasks = [
            {
                "name": f"t{k}",
                "data": "scenes",
                "eval_seed": 0,
                "result": f"results/t{k}/seed0.json",
            }
            for k in range(RESULTS)
        ]
        write_json(run / "plan.json", {"run": {}, "tasks": tasks})
        progress = {"step": 10, "steps": 10, "images_per_second": 1.0, "seconds_left": 0}
        for name in ("config.yaml", "encoder.safetensors", "pretraining.json"):
            (run / name).write_text("{}")
        write_json(run / "progress.json", progress)
        for task in tasks:
            write_json(run / task["result"], {"metrics": {"accuracy": 1.0}})


def rows() -> list[Row]:
    """Measure both."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for encoder in ("resnet18", "resnet50"):
            seconds, size = _checkpoint(encoder, folder)
            case = f"{encoder}, {size:.0f} MB"
            found.append(summary("saving a checkpoint", case, seconds, "s"))
            share = [100 * s / (INTERVAL + s) for s in seconds]
            note = "at most 2"
            found.append(summary("saving a checkpoint", f"{case}: of the time", share, "%", note))
        runs = folder / "many"
        _run_folders(runs)
        taken = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            command = [sys.executable, str(ROOT / "slurm/status.py"), str(runs)]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            taken.append(time.perf_counter() - started)
        found.append(summary("status.py", f"{RUNS:,} run folders", taken, "s", "under 2"))
    return found


if __name__ == "__main__":
    print_rows(rows())
