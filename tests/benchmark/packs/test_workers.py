"""Work in other processes: results, failures, and processes that die."""

from __future__ import annotations

import operator
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from benchmark.packs.filling import Filler
from benchmark.packs.workers import WorkerDiedError, share_out
from benchmark.sources.examples import compact, list_files

double = partial(operator.mul, 2)


@pytest.mark.parametrize("processes", [1, 2])
def test_share_out__every_item_once(processes):
    assert sorted(share_out(double, range(20), processes)) == [2 * k for k in range(20)]


def test_share_out__more_processes_than_items():
    assert list(share_out(double, [3], 3)) == [6]
    assert list(share_out(double, [], 2)) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_share_out__what_the_work_raises_is_raised(processes):
    with pytest.raises(ZeroDivisionError):
        list(share_out(partial(operator.floordiv, 1), [1, 0, 2], processes))


def test_share_out__items_taken_before_the_end_are_finished():
    stop = []

    def items():
        for k in range(100):
            if stop:
                return
            yield k

    found = []
    for result in share_out(double, items(), 2):
        found.append(result)
        stop.append(True)
    assert 1 <= len(found) <= 3
    assert sorted(found) == [2 * k for k in range(len(found))]


def test_share_out__a_killed_process_is_told():
    with pytest.raises(WorkerDiedError, match="killed by signal 9"):
        list(share_out(signal.raise_signal, [signal.SIGKILL], 2))


def test_share_out__what_cannot_be_read_is_told(capfd):
    with pytest.raises(WorkerDiedError, match="ended with status 1"):
        list(share_out(_Unreadable(), [1, 2], 2))
    assert "No module named" in capfd.readouterr().err


class _Unreadable:
    def __reduce__(self):
        return (__import__, ("nowhere_at_all",))

    def __call__(self, item):
        return item


def test_share_out__processes_end_with_a_killed_main_process(tmp_path):
    code = (
        "import time; from benchmark.packs.workers import share_out\n"
        "for _ in share_out(time.sleep, [0.05] * 2 + [3600] * 2, 2): print('done', flush=True)"
    )
    main = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert main.stdout is not None
    assert main.stdout.readline() == "done\n"
    children = [
        int(child)
        for task in Path(f"/proc/{main.pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
    assert len(children) == 2
    main.kill()
    main.wait()
    deadline = time.monotonic() + 20
    while any(_alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_share_out__decoding_imports_no_torch(tmp_path):
    examples = list_files(tmp_path, compact(["a.png"]), {}, tmp_path / "names")
    filler = Filler({"train": examples}, {}, 32, "crop")
    imported = partial(eval, "'torch' in __import__('sys').modules")
    assert list(share_out(imported, [{"filler": filler}] * 2, 2)) == [False, False]
