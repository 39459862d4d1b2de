"""Every benchmark in one command: a table on the terminal, and the same as JSON.

    python tests/bench/suite.py [PART ...] [--gpu] [--out DIR]

Each part is the module of its name beside this file, whose `rows` measure; it runs in a process of
its own, with the allocator settings of a sweep's runs. A part that fails is told, the others go on,
and the exit status is 1. DIR/bench.json (bench/ by default) holds all rows with the machine, the
versions and the commit. On two CPU cores everything takes about a quarter of an hour.

--gpu leaves out what a GPU does not change.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from measure import Row, print_rows

from benchmark.checkout import git_state
from benchmark.files import write_json
from benchmark.launcher import ALLOCATOR

HERE = Path(__file__).resolve().parent
ON_GPU = ("step", "augmentation", "probe")
PARTS = (
    *ON_GPU,
    *("data_parallel", "startup", "superpixels", "memory", "scaling", "sweeps", "report_speed"),
)
_MEASURE = "import sys; from measure import write_rows; write_rows(*sys.argv[1:])"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, or 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--gpu", action="store_true", help=f"only {', '.join(ON_GPU)}")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder of bench.json")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()}; choose of {', '.join(PARTS)}")
    asked = options.parts or PARTS
    return run([p for p in asked if p in ON_GPU or not options.gpu], options.out)


def run(parts: Sequence[str], out: Path, folder: Path = HERE) -> int:
    """Measure parts, print their rows and write ``out/bench.json``.

    Args:
        parts: names of modules.
        out: folder, made if need be.
        folder: where the modules lie.

    Returns:
        The exit status.
    """
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    for part in parts:
        print(f"{part} ...", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            rows += _measured(part, folder)
        except subprocess.CalledProcessError as error:
            failed[part] = str(error.returncode)
        seconds[part] = round(time.monotonic() - started, 1)
    here = machine()
    commit, dirty = git_state()
    state = f"{commit or 'no commit'}{', changed' if dirty else ''}"
    title = f"{'; '.join(f'{key} {value}' for key, value in here.items())}; {state}"
    print_rows(rows, title)
    content = {
        "machine": here,
        "commit": commit,
        "dirty": dirty,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "failed": failed,
        "rows": [asdict(row) for row in rows],
    }
    write_json(out / "bench.json", content)
    print(f"{sum(seconds.values()):.0f} s; {out / 'bench.json'}")
    for part, status in failed.items():
        print(f"error: {part} failed with exit status {status}; see above", file=sys.stderr)
    return 1 if failed else 0


def _measured(part: str, folder: Path) -> list[Row]:
    """The rows of a part, from a process of its own.

    Raises:
        subprocess.CalledProcessError: if that fails.
    """
    path = [str(folder), str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = {**ALLOCATOR, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "rows.json"
        command = [sys.executable, "-c", _MEASURE, part, str(file)]
        subprocess.run(command, env=environment, check=True)
        return [Row(**row) for row in json.loads(file.read_text())]


def machine() -> dict[str, Any]:
    """What figures depend on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "GPU": gpu,
    }


def _processor() -> str:
    """Its name as Linux knows it; Python tells the architecture at most."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
