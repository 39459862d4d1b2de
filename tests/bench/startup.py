"""How long commands take to start, beside the imports that they cannot do without.

    python tests/bench/startup.py

Seconds are those of whole processes, from their start to the end of the first training step of the
smoke preset, or to the answer. What is ours of them is the difference to `import torch,
torchvision` within each repeat, by the clock and in processor time, which says more where others
use the machine too.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Row, interleaved, print_rows, summary

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = "import torch, torchvision"
STEP = "preset=smoke, first training step"
# The command line itself, in a process that is left as soon as the first step is shown.
_FIRST_STEP = """
import os, runpy, sys
from benchmark.progress import Display
shown = Display.show
def show(display, event):
    shown(display, event)
    if event.step == 1:
        os._exit(0)
Display.show = show
runpy.run_path("benchmark/run.py", run_name="__main__")
"""


def rows(repeats: int = 5) -> list[Row]:
    """Seconds of each command, and of the first step without the imports."""
    with tempfile.TemporaryDirectory() as folder:
        smoke = ["preset=smoke", "seed=0", "log_every_steps=1", f"runs_dir={folder}"]
        commands = {
            IMPORTS: ["-c", IMPORTS],
            STEP: ["-c", _FIRST_STEP, *smoke],
            "run.py --help": ["benchmark/run.py", "--help"],
            "run.py method=nonsense": ["benchmark/run.py", "method=nonsense"],
            "prepare.py list": ["benchmark/prepare.py", "list", f"data_dir={folder}"],
        }
        processor: dict[str, list[float]] = {name: [] for name in commands}

        def start(name: str) -> None:
            before = _processor_seconds()
            expected = 2 if "nonsense" in name else 0
            command = [sys.executable, *commands[name]]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode != expected:
                raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr}")
            processor[name].append(_processor_seconds() - before)

        seconds = interleaved({n: lambda n=n: start(n) for n in commands}, repeats, warm_up=1)
    found = [summary("start-up", name, taken, "s") for name, taken in seconds.items()]
    for clock, taken in (("clock", seconds), ("processor", processor)):
        pairs = zip(taken[STEP][-repeats:], taken[IMPORTS][-repeats:], strict=True)
        case = f"{STEP}, by the {clock}"
        ours = [step - imports for step, imports in pairs]
        found.append(summary("start-up beyond the imports", case, ours, "s", "at most 3"))
    return found


def _processor_seconds() -> float:
    """Of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    print_rows(rows())
