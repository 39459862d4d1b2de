"""What a training notes while it runs: metrics.jsonl, progress.json, and words for a display."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark import processes
from benchmark.checkpoint import Position
from benchmark.cost import Cost
from benchmark.files import write_json
from benchmark.metrics import MetricsLog, StepBuffer
from benchmark.trackers import Trackers
from benchmark.trainer import Terms

# Called as report(state in words, steps done, whether an epoch has ended); the number of steps is
# None for words that are to be read in any case.
Report = Callable[[str, int | None, bool], None]

# Terms that the display shows as means over the epoch so far, and how.
_SHOWN = {"loss": "loss {:.2f}", "mask_loss": "mask {:.2f}", "probe": "probe {:.1f}%"}
_PROGRESS_SECONDS = 5.0  # between two writings of progress.json


class Record:
    """The notes of one training. Of several processes the first one writes.

    Args:
        folder: of the run.
        position: what `position` returned when the state was saved from which training goes on.
        cost: of training on one image.
        images: trained on after so many steps.
        epochs: of the whole training.
        steps: of the whole training.
        steps_per_epoch: of them.
        batch_size: images per step.
        update: of the trainer, told if it is not the ordinary one.
        report: is told how training goes.
        check: raises if nothing may be written any more.
        trackers: are told every line.
    """

    def __init__(
        self,
        folder: Path,
        position: Position,
        *,
        cost: Cost,
        images: Callable[[int], int],
        epochs: int,
        steps: int,
        steps_per_epoch: int,
        batch_size: int,
        update: str,
        report: Report,
        check: Callable[[], object],
        trackers: Trackers,
    ) -> None:
        self._folder = folder
        self._per_image = cost
        self._images = images
        self._epochs = epochs
        self._steps = steps
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._update = update
        self._report = report
        self._check = check
        self._trackers = trackers
        self._log = None
        if processes.rank() == 0:
            check()
            self._log = MetricsLog(folder / "metrics.jsonl", position.get("metrics_bytes", 0))
        self._seconds_before = position.get("seconds", 0.0)
        self._started = time.monotonic()
        self._buffer = StepBuffer()
        self._noted_at = -_PROGRESS_SECONDS

    def start_epoch(self, step: int) -> None:
        """Begin means and speed anew, with ``step`` as the first one."""
        self._seen: dict[str, list[float]] = defaultdict(list)
        self._first, self._epoch_started = step, time.monotonic()

    def add(self, step: int, terms: Terms) -> None:
        """Keep the terms of a step, on the device."""
        self._buffer.add(step, terms)

    def write(self, step: int, rates: list[float]) -> None:
        """Note the step that was added last.

        Raises:
            NonFiniteLossError: if a loss since the last reading is not finite.
        """
        epoch, within = divmod(step, self._steps_per_epoch)
        line = {"epoch": epoch, "step": step, "lr": rates, **self._read(), **self.cost(step + 1)}
        if self._update != "alternating":
            line["update"] = self._update
        if self._log is not None:
            self._check()
            self._log.write(line)
            self._trackers.line(line)
        seconds = max(time.monotonic() - self._epoch_started, 1e-9)
        speed = (step + 1 - self._first) * self._batch_size / seconds
        left = (self._steps - step - 1) * self._batch_size / speed
        self._report(self._words(epoch, speed, left), step + 1, within + 1 == self._steps_per_epoch)
        self._note_progress(step + 1, speed, left)

    def position(self) -> Position:
        """What must be saved with the state for the notes to go on; all of them are durable then.

        Raises:
            NonFiniteLossError: if a loss since the last reading is not finite, so that no such
                state is saved.
        """
        self._read()
        if self._log is None:
            return {}
        self._check()
        return {"metrics_bytes": self._log.flush(), "seconds": self._seconds()}

    def cost(self, steps: int) -> dict[str, Any]:
        """What so many steps cost."""
        images = self._images(steps)
        return {
            "encoder_forwards": round(images * self._per_image.encoder_forwards),
            "flops": images * self._per_image.flops,
            "seconds": round(self._seconds(), 3),
        }

    def close(self) -> None:
        """Close the file, and the trackers."""
        if self._log is not None:
            self._log.close()
            self._trackers.close()

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _read(self) -> dict[str, Any]:
        """The terms of the last step added, after a look at those of all since the last reading."""
        drained = self._buffer.drain()
        for name in _SHOWN:
            self._seen[name] += [terms[name] for _, terms in drained if name in terms]
        return drained[-1][1] if drained else {}

    def _words(self, epoch: int, speed: float, left: float) -> str:
        """The state of training; means are over the epoch so far."""
        words = [f"epoch {epoch + 1}/{self._epochs}"]
        if self._update != "alternating":
            words.append(f"{self._update} update")
        means = {name: sum(seen) / len(seen) for name, seen in self._seen.items() if seen}
        words += [form.format(means[name]) for name, form in _SHOWN.items() if name in means]
        words.append(f"{speed:.0f} img/s")
        words.append(f"{left // 60:.0f}:{left % 60:02.0f} left")
        return "  ".join(words)

    def _note_progress(self, done: int, speed: float, left: float) -> None:
        now = time.monotonic()
        if self._log is None or now - self._noted_at < _PROGRESS_SECONDS:
            return
        self._noted_at = now
        progress = {"step": done, "steps": self._steps, "time": round(time.time(), 3)}
        speeds = {"images_per_second": round(speed, 1), "seconds_left": round(left)}
        write_json(self._folder / "progress.json", progress | speeds)
