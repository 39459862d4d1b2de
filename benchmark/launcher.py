"""Runs of a sweep in processes of their own, several at a time."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait

from benchmark import processes
from benchmark.files import write_text
from benchmark.plan import Planned, Planner
from benchmark.progress import Emit, Event
from benchmark.resolve import resolve_device

# glibc returns freed memory at once and faults it in again at each step: a third of the time.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass
class _Worker:
    planned: Planned
    process: mp.process.BaseProcess
    events: Connection


def default_jobs(planned: Planned) -> int:
    """As many runs at a time as there are cores for their threads; one on a GPU or on several."""
    if processes.started() > 1:
        return 1
    if planned.cfg.jobs is not None:
        return planned.cfg.jobs
    if resolve_device(planned.cfg.device).type == "cuda":
        return 1
    return max(1, len(os.sched_getaffinity(0)) // planned.cfg.threads)


def launch(plans: Sequence[Planned], jobs: int, emit: Emit) -> None:
    """Execute every run, ``jobs`` at a time; a run that fails or dies does not stop the others.

    Whether a run succeeded is read from its result files, not from its process.
    """
    if processes.started() > 1:
        _one_by_one(plans, emit)
        return
    os.environ.update({k: v for k, v in ALLOCATOR.items() if k not in os.environ})
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["benchmark.job"])
    # A terminal's Ctrl-C is this process' to handle: the server and its children ignore it.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    queue = list(plans)
    workers: list[_Worker] = []
    try:
        while queue or workers:
            while queue and len(workers) < jobs:
                workers.append(_start(context, queue.pop(0)))
            ready = wait([w.events for w in workers])
            for worker in [w for w in workers if w.events in ready]:
                try:
                    emit(worker.events.recv())
                except (EOFError, OSError):  # the end, or death in the middle of a message
                    workers.remove(worker)
                    _finish(worker, emit)
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.join()


def _one_by_one(plans: Sequence[Planned], emit: Emit) -> None:
    """In this process, which shares every run with the others that were started."""
    from benchmark.job import execute

    planner = Planner()
    for planned in plans:
        execute(planned, emit, planner)


def _start(context: mp.context.ForkServerContext, planned: Planned) -> _Worker:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(planned, sender))
    process.start()
    sender.close()  # the child holds the only end, so its death reads as end of file
    return _Worker(planned, process, receiver)


def _work(planned: Planned, events: Connection) -> None:
    from benchmark.job import execute

    execute(planned, events.send)


def _finish(worker: _Worker, emit: Emit) -> None:
    worker.process.join()
    worker.events.close()
    code = worker.process.exitcode
    run = worker.planned.run
    if code:
        reason = f"its process was killed by signal {-code}" if code < 0 else f"exit status {code}"
        write_text(run.error_file, reason + "\n")
        emit(Event(run.name, f"FAILED: {reason}", finished=True))
