"""What a command line would do, and how long that would take on the device at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.table import Column, Table
from torch.utils.flop_counter import FlopCounterMode

from benchmark import processes
from benchmark.build import build_encoder, build_pretraining, build_task
from benchmark.checkpoint import steps_done
from benchmark.config import Config
from benchmark.contracts import Encoder
from benchmark.plan import Planned, Planner
from benchmark.resolve import resolve_device
from benchmark.task import Forwards

# Images of the steps that are timed: enough for a GPU to be busy, few enough for a CPU to be quick.
_TIMED_IMAGES = {"cuda": 256, "cpu": 16}
_PATIENCE = 2.0  # seconds


@dataclass(frozen=True)
class Work:
    """What is left to do, in floating-point operations and seconds."""

    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.seconds + other.seconds)


@dataclass(frozen=True)
class Forecast:
    """One planned run.

    Attributes:
        planned: the run.
        epochs_done: epochs of its pretraining that are there; None if all of it is.
        tasks_done: names of the tasks whose results are there.
        pretraining, tasks: what is left.
    """

    planned: Planned
    epochs_done: int | None
    tasks_done: tuple[str, ...]
    pretraining: Work
    tasks: Work


class Forecaster:
    """Forecasts runs; each configuration is measured once, whatever its seeds."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._epochs: dict[str, tuple[Work, int]] = {}
        self._encoders: dict[str, Encoder] = {}
        self._forwards: dict[tuple[str, int], Work] = {}

    def forecast(self, planned: Planned) -> Forecast:
        """What is left of a run.

        The cost of a step is measured on a few images; that of a task is that of its images going
        through the encoder, which leaves the heads and the reading of the data out.
        """
        run, cfg = planned.run, planned.cfg
        torch.set_num_threads(cfg.threads)
        there = run.encoder_file.exists() and run.pretraining_file.exists()
        epochs = None if there else 0
        pretraining = Work()
        if not there and cfg.control in (None, "supervised"):
            epoch, steps_per_epoch = self._epoch(planned)
            done = steps_done(run.folder / "checkpoints") / steps_per_epoch
            pretraining, epochs = _times(epoch, cfg.epochs - done), int(done)
        left = [task for task in run.tasks if not task.result.exists()]
        tasks = Work()
        for task in left:
            node = cfg.tasks[task.name]
            task_data = self._planner.task_data(cfg, task.name)
            for part in build_task(node).forwards(self._encoder(cfg), task_data):
                tasks += _times(self._forward(part, resolve_device(cfg.device)), part.images)
        names = tuple(t.name for t in run.tasks if t not in left)
        return Forecast(planned, epochs, names, pretraining, tasks)

    def _epoch(self, planned: Planned) -> tuple[Work, int]:
        """Training for one epoch, and its steps."""
        run, cfg = planned.run, planned.cfg
        if run.hash8 not in self._epochs:
            data = self._planner.data(cfg)
            training = build_pretraining(cfg, data, resolve_device(cfg.device))
            flops = training.cost_per_image().flops
            count = min(_TIMED_IMAGES[training.device.type], training.batch_size)
            index = torch.arange(count, device=training.device)

            cycle = cfg.turns.encoder_steps  # after so many steps the adversary moves

            def steps() -> None:
                for step in range(cycle):
                    batch = training.batches.augmented(0, step, training.feed.take(index))
                    training.trainer.step(batch, step)

            images = count * cycle * processes.started()  # by all of them in this time
            per_image = Work(flops, _timed(steps, training.device) / images)
            work = _times(per_image, training.images_per_epoch)
            self._epochs[run.hash8] = work, training.steps_per_epoch
        return self._epochs[run.hash8]

    def _encoder(self, cfg: Config) -> Encoder:
        key = repr(cfg.encoder)
        if key not in self._encoders:
            self._encoders[key] = build_encoder(cfg)
        return self._encoders[key]

    def _forward(self, part: Forwards, device: torch.device) -> Work:
        """One image forward through a net."""
        key = (repr(part.net), part.size)  # which shows every layer
        if key not in self._forwards:
            net = part.net.to(device).eval()
            count = _TIMED_IMAGES[device.type]
            images = torch.zeros(count, 3, part.size, part.size, device=device)

            @torch.no_grad()
            def forward() -> None:
                net(images)

            with FlopCounterMode(display=False) as counter:
                forward()
            seconds = _timed(forward, device) / count
            self._forwards[key] = Work(counter.get_total_flops() / count, seconds)
        return self._forwards[key]


def forecast_table(forecasts: Sequence[Forecast], jobs: int) -> Table:
    """Forecasts as a table to print; a line per configuration, with the sum at the end."""
    device = resolve_device(forecasts[0].planned.cfg.device)
    table = Table(
        Column("run", no_wrap=True), "seeds", "pretraining", "tasks", "PFLOP", "hours", box=None
    )
    total = sum((f.pretraining + f.tasks for f in forecasts), Work())
    for same in _by_configuration(forecasts):
        run = same[0].planned.run
        left = sum((f.pretraining + f.tasks for f in same), Work())
        table.add_row(
            run.folder.parent.name,
            " ".join(str(f.planned.run.seed) for f in same),
            _pretraining_state(same),
            _task_state(same),
            _rounded(left.flops / 1e15),
            _rounded(left.seconds / 3600),
        )
    at_a_time = f"{jobs} runs at a time" if jobs > 1 else "one run at a time"
    table.caption = (
        f"left on this {device.type} device, {at_a_time}: {_rounded(total.flops / 1e15)} PFLOP, "
        f"about {_rounded(total.seconds / 3600 / jobs)} hours; steps timed on "
        f"{_TIMED_IMAGES[device.type]} images, heads of tasks left out"
    )
    return table


def _by_configuration(forecasts: Sequence[Forecast]) -> Iterator[list[Forecast]]:
    groups: dict[str, list[Forecast]] = {}
    for forecast in forecasts:
        groups.setdefault(str(forecast.planned.run.folder.parent), []).append(forecast)
    yield from groups.values()


def _pretraining_state(same: Sequence[Forecast]) -> str:
    done = sum(f.epochs_done is None for f in same)
    text = f"{done} of {len(same)} there"
    begun = [f"seed {f.planned.run.seed} at epoch {f.epochs_done}" for f in same if f.epochs_done]
    return f"{text} ({', '.join(begun)})" if begun else text


def _task_state(same: Sequence[Forecast]) -> str:
    names = list(dict.fromkeys(t.name for f in same for t in f.planned.run.tasks))
    words = []
    for name in names:
        planned = sum(t.name == name for f in same for t in f.planned.run.tasks)
        done = sum(n == name for f in same for n in f.tasks_done)
        words.append(name if not done else f"{name} ({done} of {planned} there)")
    return ", ".join(words)


def _times(work: Work, count: int | float) -> Work:
    return Work(work.flops * count, work.seconds * count)


def _timed(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of the fastest of four calls, or of as many as there is patience for.

    One before them does not count: it may compile.
    """
    call()
    seconds: list[float] = []
    while len(seconds) < 4 and sum(seconds) < _PATIENCE:
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _rounded(value: float) -> str:
    return f"{value:.3g}" if value else "0"
