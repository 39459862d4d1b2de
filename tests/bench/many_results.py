"""Many results out of one real run: what reports are timed on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = 5


def multiply(run_folder: Path, out: Path, count: int) -> int:
    """Copy a run until its copies hold ``count`` results; returns how many runs that makes.

    The copies are seeds of configurations that differ in one setting, and their metrics differ by
    noise. What is not read by reports is left out.

    Args:
        run_folder: of a finished run.
        out: gets the copies, in a runs_dir's layout.
        count: of result files.
    """
    data, name = run_folder.absolute().parts[-3:-1]
    method = name.rpartition("-")[0]
    per_run = len(list(run_folder.glob("results/*/seed*.json")))
    runs = -(-count // per_run)
    generator = np.random.default_rng(0)
    for number in range(runs):
        variant, seed = divmod(number, SEEDS)
        hash8 = f"{variant:08x}"
        folder = out / data / f"{method}-{hash8}" / f"seed{seed}"
        _copy_run(run_folder, folder, hash8, seed)
        for file in run_folder.glob("results/*/seed*.json"):
            result = json.loads(file.read_text())
            result |= {"hash8": hash8, "pretrain_seed": seed}
            shift = 0.05 * variant + generator.normal()
            metrics = result["metrics"].items()
            result["metrics"] = {k: min(max(v + shift, 0.0), 100.0) for k, v in metrics}
            result.pop("per_image", None)  # whose numbers would no longer be those
            copy = folder / file.relative_to(run_folder)
            copy.parent.mkdir(parents=True)
            copy.write_text(json.dumps(result, indent=2))
    return runs


def _copy_run(source: Path, folder: Path, hash8: str, seed: int) -> None:
    folder.mkdir(parents=True)
    for name, lines in _texts(source, hash8, seed):
        (folder / name).write_text(lines)
    for name in ("metrics.jsonl", "provenance.json", "progress.json"):
        shutil.copy(source / name, folder / name)
    if (source / "masks").exists() and seed == 0:
        shutil.copytree(source / "masks", folder / "masks")


def _texts(source: Path, hash8: str, seed: int) -> Iterator[tuple[str, str]]:
    plan: dict[str, Any] = json.loads((source / "plan.json").read_text())
    own = plan["run"]["hash8"]
    plan["run"] |= {"hash8": hash8, "seed": seed}
    yield "plan.json", json.dumps(plan, indent=2)
    yield "pretraining.json", (source / "pretraining.json").read_text()
    config = (source / "config.yaml").read_text().replace(own, f"'{hash8}'")
    config = config.replace("seed: 0\n", f"seed: {seed}\n")
    budget = int(hash8, 16) / 1000
    yield "config.yaml", config.replace("budget: 0.25\n", f"budget: {0.25 + budget}\n")
