"""What a report of many results takes: to load, and to build with all tables, figures and the page.

    python tests/bench/report_speed.py

A smoke run with all of its tasks is trained and copied, as `many_results.py` says, until the copies
hold 10,000 results; then each command is a process of its own.
"""

from __future__ import annotations

import os
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


def _run(command: Sequence[str]) -> tuple[float, float]:
    """Seconds that a command takes, and gigabytes of its largest process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - started, used.ru_maxrss / 1e6


def rows() -> list[Row]:
    """Measure all of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = [str(ROOT / "benchmark/run.py"), "preset=smoke", "method=sequential", "seed=0"]
        _run([*run, "task=null", f"runs_dir={folder}/runs"])
        (source,) = (folder / "runs").glob("scenes/sequential-*/seed0")
        runs = multiply(source, folder / "many", RESULTS)
        case = f"{RESULTS:,} results of {runs:,} runs"
        build = [str(ROOT / "reports/build.py"), str(folder / "many"), "--out", str(folder / "out")]
        commands = {"load": ["-c", LOAD, str(folder / "many")], "tables": [*build, "--tables"]}
        commands["all"] = build
        taken: dict[str, list[float]] = {name: [] for name in commands}
        peaks = []
        for _ in range(REPEATS):
            for name, command in commands.items():
                seconds, peak = _run(command)
                taken[name].append(seconds)
                peaks.append(peak)
        size = (folder / "out" / "report.html").stat().st_size / 1e6
    return [
        summary("reports", f"reports.load: {case}", taken["load"], "s", "under 5"),
        summary("reports", "build.py --tables", taken["tables"], "s"),
        summary("reports", "build.py: tables, figures, page", taken["all"], "s", "under 20"),
        Row(
            "reports",
            "largest process",
            max(peaks),
            "GB",
            note="under 1; those that draw share its memory",
        ),
        Row("reports", "report.html", size, "MB"),
    ]


if __name__ == "__main__":
    print_rows(rows())
