"""What the command lines import, and when: libraries that take long wait until they are used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
TORCH = {"torch", "torchvision"}
SLOW = {"matplotlib", "pandas", "scipy", "seaborn", "skimage", "sklearn", "submitit", "timm"}
SLOW |= {"torchmetrics", "tensorboard", "wandb"}

# Prints, after what the code itself prints, which of the modules named above are imported.
NOTE = f"""
import json, sys
def note(moment):
    found = sorted({TORCH | SLOW} & sys.modules.keys())
    print("imported", json.dumps([moment, found]), flush=True)
"""
SMOKE = """
from benchmark.progress import Display
from benchmark.run import main
shown = Display.show
def show(display, event):
    shown(display, event)
    if event.step == 1:
        note("first step")
    if event.text == "done":
        note("last task")
Display.show = show
status = main(["preset=smoke", "seed=0", "log_every_steps=1", *sys.argv[1:]])
note("tables")
sys.exit(status)
"""


def imported(code: str, *arguments: str, status: int = 0) -> dict[str, set[str]]:
    """Run code in a process of its own; returns what was imported at each of its notes."""
    command = [sys.executable, "-c", NOTE + code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    noted = [json.loads(rest[0]) for word, *rest in lines if word == "imported"]
    return {moment: set(found) for moment, found in noted}


def test_run__starts_without_torch() -> None:
    assert imported("import benchmark.run\nnote('end')") == {"end": set()}


def test_run__help_and_a_misspelt_line_need_no_torch() -> None:
    code = """
import atexit
from benchmark.run import main
atexit.register(note, "end")
sys.exit(main(sys.argv[1:]))
"""
    assert imported(code, "--help") == {"end": set()}
    for line in (["method=nonsense"], ["-m", "method=none,random", "epoch=3"], ["seed=0,1"]):
        assert imported(code, *line, status=2) == {"end": set()}


def test_run__a_training_step_needs_torch_alone(tmp_path: Path) -> None:
    counts = ["data.train_count=256", "data.test_count=64"]
    found = imported(SMOKE, *counts, f"runs_dir={tmp_path}")
    assert found["first step"] == found["last task"] == TORCH
    assert found["tables"] - TORCH == {"pandas", "scipy"}


def test_prepare__packs_and_lists_without_torch(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / "source" / split
        folder.mkdir(parents=True)
        for name in ("one.png", "two.png"):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / name)
    code = """
from benchmark.prepare import main
data_dir, source = sys.argv[1:]
pack = ["data=images", "data.name=dots", "data.stored_size=8", "workers=1"]
assert main([*pack, f"source={source}", f"data_dir={data_dir}"]) == 0
note("packed")
assert main(["list", f"data_dir={data_dir}"]) == 0
note("listed")
assert main(["verify", f"data_dir={data_dir}"]) == 0
note("verified")
assert main(["data=nonsense"]) == 2
note("refused")
"""
    found = imported(code, str(tmp_path / "packs"), str(tmp_path / "source"))
    assert found == {moment: set() for moment in ("packed", "listed", "verified", "refused")}
