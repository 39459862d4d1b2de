"""How long packing takes, and that its memory does not grow with the number of images.

    python tests/bench/packing.py [DIR]

packs the JPEG files of CIFAR-10 with a process per core, once a tenth of them and once all 60,000,
and prints one table. DIR holds train/CLASS/*.jpg and test/CLASS/*.jpg; without it,
../shared/data/cifar10-images.tar.xz is unpacked first. Seconds are those of the whole command, from
the start of Python; `cpu` is the processor time of all processes, which says more where others use
the machine too. Memory is the most that was resident, of the main process and of the largest of the
others. The 60,000 are to take at most 60 s on 2 cores, and opening at most 0.2 s.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from benchmark.packs.pack import load
from benchmark.sources.folder import Folder

ROOT = Path(__file__).parents[2]
CIFAR = ROOT.parent / "shared/data/cifar10-images.tar.xz"


def tenth_of(source: Path, folder: Path) -> Path:
    """Links to every tenth image."""
    for split in ("train", "test"):
        for class_folder in sorted((source / split).iterdir()):
            (folder / split / class_folder.name).mkdir(parents=True)
            for image in sorted(class_folder.iterdir())[::10]:
                (folder / split / class_folder.name / image.name).symlink_to(image.resolve())
    return folder


def peak_megabytes(process: int) -> float:
    """Most memory that was resident so far; 0 when the process is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text().split()
        return int(status[status.index("VmHWM:") + 1]) / 1024
    except (OSError, ValueError):
        return 0.0


def children(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


def cpu_seconds() -> float:
    """Processor time of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(source: Path, data_dir: Path, name: str) -> tuple[float, float, float, float]:
    """Seconds and processor seconds, peak megabytes of the main process and the largest worker."""
    line = [f"data.name={name}", f"source={source}", f"data_dir={data_dir}"]
    command = [sys.executable, str(ROOT / "benchmark/prepare.py"), "data=images", *line]
    started, cpu = time.perf_counter(), cpu_seconds()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    main = worker = 0.0
    while process.poll() is None:
        main = max(main, peak_megabytes(process.pid))
        worker = max([worker, *map(peak_megabytes, children(process.pid))])
        time.sleep(0.05)
    assert process.returncode == 0
    return time.perf_counter() - started, cpu_seconds() - cpu, main, worker


def opening(data_dir: Path, name: str) -> tuple[int, float]:
    """Number of images, and seconds to open the pack."""
    started = time.perf_counter()
    data = load(
        name=name,
        data_dir=str(data_dir),
        source=Folder(["train", "test"]),
        stored_size=32,
        train=["train"],
        test=["test"],
    )
    seconds = time.perf_counter() - started
    assert data.test is not None
    return len(data.train) + len(data.test), seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "all"
        if not source.exists():
            with tarfile.open(CIFAR) as archive:
                archive.extractall(source, filter="data")
        sources = {"tenth": tenth_of(source, folder / "tenth"), "whole": source}
        print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
        print("| images | seconds | cpu | images/s | main MB | worker MB | opening ms |")
        print("|---|---|---|---|---|---|---|")
        for name, tree in sources.items():
            seconds, cpu, main_peak, worker_peak = timed(tree, folder / "packs", name)
            count, opened = opening(folder / "packs", name)
            print(
                f"| {count:,} | {seconds:.1f} | {cpu:.1f} | {count / seconds:,.0f} "
                f"| {main_peak:.0f} | {worker_peak:.0f} | {1000 * opened:.0f} |"
            )


if __name__ == "__main__":
    main()
