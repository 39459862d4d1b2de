"""Where a step's time goes: a trace of some steps, and one page about them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile, record_function

from benchmark.files import write_atomically, write_text

_SKIPPED = 3  # steps at the beginning, in which memory and compiled code are made
_TRACED = 5
_LISTED = 20  # operators on the page

# The parts of a step, in the order in which they come.
SECTIONS = ("input", "masks", "diagnosis", "encoder's step", "adversary's step", "log")


def section(name: str) -> record_function:
    """A part of a step as the trace will show it; costs a microsecond otherwise."""
    assert name in SECTIONS, name
    return record_function(_label(name))


def _label(name: str) -> str:
    return f"maskbench: {name}"


class StepProfiler:
    """Traces a few steps of a training and then writes ``trace.json`` and ``summary.md``.

    Args:
        folder: of both files.
        device: that computes.
        images: per step of this process.
        flops: of a step of this process, as counted from the nets.
    """

    def __init__(self, folder: Path, device: torch.device, *, images: int, flops: float) -> None:
        self.folder = folder
        self.device = device
        self.images = images
        self.flops = flops
        self._steps = 0
        self._profile: profile | None = None
        self._started = 0.0

    def after_step(self) -> None:
        """Called after every step."""
        self._steps += 1
        if self._steps == _SKIPPED:
            self._wait()
            # It would write notes into the display of progress.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            activities = [ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()
            self._started = time.perf_counter()
        elif self._profile is not None and self._steps == _SKIPPED + _TRACED:
            self._write()

    def close(self) -> None:
        """Called after the last step: write what there is, and say so if there is nothing."""
        if self._profile is not None:
            self._write()
        if self._steps <= _SKIPPED:
            skipped = f"the first {_SKIPPED} are skipped"
            text = f"No profile: training had {self._steps} steps, and {skipped}.\n"
            write_text(self.folder / "summary.md", text)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _write(self) -> None:
        assert self._profile is not None
        traced = self._steps - _SKIPPED
        self._wait()
        seconds = (time.perf_counter() - self._started) / max(traced, 1)
        self._profile.stop()
        if traced:
            trace = self._profile.export_chrome_trace
            write_atomically(self.folder / "trace.json", lambda part: trace(str(part)))
            page = summary(
                self._profile.key_averages(),
                device=self.device,
                steps=traced,
                seconds=seconds,
                images=self.images,
                flops=self.flops,
            )
            write_text(self.folder / "summary.md", page)
        self._profile = None


def summary(
    events: Any, *, device: torch.device, steps: int, seconds: float, images: int, flops: float
) -> str:
    """One page: the speed, the parts of a step, the operators that take longest.

    Args:
        events: averages by name, as ``torch.profiler.profile.key_averages`` gives them.
        device: that computed.
        steps: that were traced.
        seconds: of a step, by the clock and with the profiler's own cost.
        images: of a step.
        flops: of a step.
    """
    gpu = device.type == "cuda"
    threads = torch.get_num_threads()
    whose = torch.cuda.get_device_name(device) if gpu else f"CPU, {_plural(threads, 'thread')}"
    sections, operators = _told_apart(events, gpu)
    busy = sum(_own(event, gpu) for event in operators) / 1e6 / steps
    lines = [
        "# Where a step's time goes",
        "",
        f"{_plural(steps, 'step')} of {images} images on {whose}: {1e3 * seconds:.1f} ms a step "
        f"with the profiler, {images / seconds:.0f} images/s, {flops / seconds / 1e12:.3g} "
        "TFLOP/s. Open trace.json with https://ui.perfetto.dev or chrome://tracing.",
        "",
    ]
    if gpu:
        memory = torch.cuda.max_memory_allocated(device) / 2**30
        share = f"{100 * busy / seconds:.0f}%"
        lines += [f"The GPU computed for {share} of it; peak memory {memory:.2f} GiB.", ""]
    column = "GPU ms" if gpu else "ms"
    lines += [f"| part of a step | {column} | share |", "|---|---|---|"]
    for name in SECTIONS:
        if (event := sections.get(_label(name))) is not None:
            total = event.device_time_total if gpu else event.cpu_time_total
            lines.append(_line(name, total / 1e6 / steps, busy if gpu else seconds))
    lines += [
        "",
        f"| operator, without what it calls | {column} | share | calls |",
        "|---|---|---|---|",
    ]
    for event in operators[:_LISTED]:
        calls = f" {event.count / steps:.0f} |"
        lines.append(
            _line(f"`{event.key[:60]}`", _own(event, gpu) / 1e6 / steps, busy if gpu else seconds)
            + calls
        )
    return "\n".join(lines) + "\n"


def _told_apart(events: Any, gpu: bool) -> tuple[dict[str, Any], list[Any]]:
    """Parts of a step by label, and operators by the time that they take themselves.

    On a GPU these are its kernels. What called them is listed with the time of the same kernels,
    and a part of a step once for each device.
    """
    wanted = DeviceType.CUDA if gpu else DeviceType.CPU
    events = [event for event in events if event.device_type == wanted]
    labels = set(map(_label, SECTIONS))
    sections = {event.key: event for event in events if event.key in labels}
    operators = [e for e in events if e.key not in labels and not e.is_user_annotation]
    return sections, sorted(operators, key=lambda event: -_own(event, gpu))


def _own(event: Any, gpu: bool) -> float:
    return float(event.self_device_time_total if gpu else event.self_cpu_time_total)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _line(name: str, seconds: float, of: float) -> str:
    return f"| {name} | {1e3 * seconds:.2f} | {100 * seconds / of if of else 0:.0f}% |"
