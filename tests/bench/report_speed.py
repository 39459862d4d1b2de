"""What a report of many results takes: to load, and to build with all tables, figures and the page.

    python tests/bench/report_speed.py

A smoke run with all of its tasks is trained and copied, as `many_results.py` says, until the copies
hold 10,000 results; then each command is a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from many_results import multiply
from measure import Row, print_rows, summary

ROOT = Path(__file__).parents[2]
RESULTS = 10_000
REPEATS = 3
LOAD = (
    "import sys, reports; frame = reports.load(sys.argv[1]); assert frame.attrs['left_out'] == []"
)


def _seconds(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def rows() -> list[Row]:
    """Measure all of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = [str(ROOT / "benchmark/run.py"), "preset=smoke", "method=sequential", "seed=0"]
        _seconds([*run, "task=null", f"runs_dir={folder}/runs"])
        (source,) = (folder / "runs").glob("scenes/sequential-*/seed0")
        runs = multiply(source, folder / "many", RESULTS)
        case = f"{RESULTS:,} results of {runs:,} runs"
        build = [str(ROOT / "reports/build.py"), str(folder / "many"), "--out", str(folder / "out")]
        taken: dict[str, list[float]] = {"load": [], "tables": [], "all": []}
        for _ in range(REPEATS):
            taken["load"].append(_seconds(["-c", LOAD, str(folder / "many")]))
            taken["tables"].append(_seconds([*build, "--tables"]))
            taken["all"].append(_seconds(build))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        size = (folder / "out" / "report.html").stat().st_size / 1e6
    return [
        summary("reports", f"reports.load: {case}", taken["load"], "s", "under 5"),
        summary("reports", "build.py --tables", taken["tables"], "s"),
        summary("reports", "build.py: tables, figures, page", taken["all"], "s", "under 20"),
        Row("reports", "largest process", peak, "GB", note="under 1; training of one run included"),
        Row("reports", "report.html", size, "MB"),
    ]


if __name__ == "__main__":
    print_rows(rows())
