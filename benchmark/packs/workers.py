"""Work shared out among processes, which import nothing but what the work needs.

A worker of `multiprocessing` would import the main program first, with all that the program needs,
and would outlive a main process that is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_SERVE = "import sys; from benchmark.packs.workers import serve; serve(int(sys.argv[1]))"
# Every core has a worker already.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class WorkerDiedError(Exception):
    """A process ended before its work did."""


@dataclass(frozen=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection


def share_out(
    work: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """Results in the order in which they are ready.

    Items are taken from the iterable in order, each when a process is free for it. An iterable that
    ends early leaves the items taken before to be finished.

    Args:
        work: a function that can be pickled, with all that it needs; what it raises is raised here.
        items: can be pickled, as must be the results.
        processes: how many at a time; with 1 the work is done in this one.

    Raises:
        WorkerDiedError: if a process is killed, or cannot read ``work``.
    """
    if processes <= 1:
        yield from map(work, items)
        return
    left = iter(items)
    workers = [_start(work) for _ in range(processes)]
    busy: dict[Connection, _Worker] = {}
    try:
        for worker in workers:
            _hand_out(worker, left, busy)
        while busy:
            for connection in wait([*busy]):
                worker = busy.pop(connection)  # type: ignore[call-overload]
                result = _receive(worker)
                _hand_out(worker, left, busy)
                yield result
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.communicate()
            worker.connection.close()


def serve(descriptor: int) -> None:
    """What a worker process does until the other end is closed or dead."""
    Thread(target=_end_with_main_process, daemon=True).start()
    connection = Connection(descriptor)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        work = connection.recv()
        while True:
            item = connection.recv()
            try:
                answer = (True, work(item))
            except Exception as error:  # the other end raises it
                answer = (False, error)
            connection.send(answer)


def _end_with_main_process() -> None:
    """End at once, in the middle of an item: the next main process may be at the same item."""
    os.read(0, 1)  # nothing is ever written, so it returns when the other end is closed
    os._exit(1)


def _start(work: Callable[[Any], Any]) -> _Worker:
    ours, theirs = Pipe()
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVE, str(theirs.fileno())],
        stdin=subprocess.PIPE,
        pass_fds=[theirs.fileno()],
        env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
        process_group=0,  # a terminal's Ctrl-C is this process' to handle
    )
    theirs.close()  # the child holds the only end, so its death reads as end of file
    worker = _Worker(process, ours)
    with suppress(BrokenPipeError):  # it died; receiving tells
        ours.send(work)
    return worker


def _hand_out(worker: _Worker, items: Iterator[Any], busy: dict[Connection, _Worker]) -> None:
    """Give a worker the next item, if there is one."""
    for item in items:
        with suppress(BrokenPipeError):
            worker.connection.send(item)
        busy[worker.connection] = worker
        return


def _receive(worker: _Worker) -> Any:
    try:
        succeeded, answer = worker.connection.recv()
    except (EOFError, ConnectionResetError) as error:
        status = worker.process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise WorkerDiedError(f"a worker process {how}") from error
    if not succeeded:
        raise answer
    return answer
