"""Runs of a sweep in processes of their own, several at a time."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait

import torch

from benchmark import interruption, processes
from benchmark.files import write_text
from benchmark.interruption import Interrupted
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
    gpu: str | None


def default_jobs(planned: Planned) -> int:
    """As many runs at a time as there are cores for their threads, or GPUs; one on several."""
    if processes.started() > 1:
        return 1
    if planned.cfg.jobs is not None:
        return planned.cfg.jobs
    return len(_gpus(planned)) or max(1, len(os.sched_getaffinity(0)) // planned.cfg.threads)


def _gpus(planned: Planned) -> list[str]:
    """Numbers of the GPUs that runs may have, as CUDA_VISIBLE_DEVICES takes them."""
    if resolve_device(planned.cfg.device).type != "cuda":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def launch(plans: Sequence[Planned], jobs: int, emit: Emit) -> None:
    """Execute every run, ``jobs`` at a time; a run that fails or dies does not stop the others.

    Whether a run succeeded is read from its result files, not from its process. On GPUs each run
    sees one, that which the fewest others have.

    Raises:
        Interrupted: if this process was told to stop, once its runs have saved their state; at
            once, if it is told again.
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
    gpus = _gpus(plans[0])
    queue = list(plans)
    workers: list[_Worker] = []
    try:
        while queue or workers:
            while queue and len(workers) < jobs:
                used = [worker.gpu for worker in workers]
                gpu = min(gpus, key=used.count, default=None)
                workers.append(_start(context, queue.pop(0), gpu))
            ready = wait([w.events for w in workers])
            for worker in [w for w in workers if w.events in ready]:
                try:
                    emit(worker.events.recv())
                except (EOFError, OSError):  # the end, or death in the middle of a message
                    workers.remove(worker)
                    _finish(worker, emit)
    finally:
        _stop(workers)


def _stop(workers: Sequence[_Worker]) -> None:
    """Let workers save their state and leave."""
    try:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            # Until its end of the pipe, the only one, is closed: `join` may return before that.
            with suppress(EOFError, OSError):
                while True:
                    worker.events.recv()
            worker.process.join()
    except Interrupted:  # again: no time for that
        for worker in workers:
            worker.process.kill()
        raise


def _one_by_one(plans: Sequence[Planned], emit: Emit) -> None:
    """In this process, which shares every run with the others that were started."""
    from benchmark.job import execute

    planner = Planner()
    for planned in plans:
        execute(planned, emit, planner)


def _start(context: mp.context.ForkServerContext, planned: Planned, gpu: str | None) -> _Worker:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(planned, sender, gpu))
    process.start()
    sender.close()  # the child holds the only end, so its death reads as end of file
    return _Worker(planned, process, receiver, gpu)


def _work(planned: Planned, events: Connection, gpu: str | None) -> None:
    from benchmark.job import execute

    if gpu is not None:  # before anything asks what GPUs there are
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu

    def send(event: Event) -> None:
        try:
            events.send(event)
        except OSError:  # the process that started this one is gone, which means to stop too
            interruption.ask(signal.SIGTERM)

    try:
        with interruption.listen([signal.SIGTERM]):
            execute(planned, send)
    except Interrupted as stop:
        sys.exit(stop.exit_status)


def _finish(worker: _Worker, emit: Emit) -> None:
    worker.process.join()
    worker.events.close()
    code = worker.process.exitcode
    run = worker.planned.run
    if code == Interrupted(signal.SIGTERM).exit_status:
        emit(Event(run.name, "stopped; the same line goes on from here", finished=True))
    elif code and not run.complete:  # one that died at its very end has left everything
        reason = f"its process was killed by signal {-code}" if code < 0 else f"exit status {code}"
        if run.folder.exists():
            write_text(run.error_file, reason + "\n")
        emit(Event(run.name, f"FAILED: {reason}", finished=True))
