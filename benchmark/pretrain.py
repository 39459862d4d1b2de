"""The training loop around the trainer: batches, schedule, log, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark.augment import Augment
from benchmark.checkpoint import load_checkpoint, save_checkpoint
from benchmark.contracts import Batch, Dataset, Split
from benchmark.feed import Feed, Samples
from benchmark.metrics import MetricsLog, StepBuffer
from benchmark.optim import set_learning_rate
from benchmark.schedule import warmup_cosine
from benchmark.streams import Streams, permutation
from benchmark.trainer import Trainer
from benchmark.views import normalise, plain_segments, plain_view

# Called as report(state in words, steps done, whether an epoch has ended).
Report = Callable[[str, int, bool], None]

# Terms that the display shows as means over the epoch so far, and how.
_SHOWN = {"loss": "loss {:.2f}", "mask_loss": "mask {:.2f}", "probe": "probe {:.1f}%"}


@dataclass(frozen=True)
class Cost:
    """Cost of training on one image.

    Attributes:
        encoder_forwards: images that the encoder sees, the teacher's not counted.
        flops: floating-point operations.
    """

    encoder_forwards: float
    flops: float


@dataclass(frozen=True)
class Schedule:
    """Learning rates of both players.

    Attributes:
        per: "epoch" or "step", the tick with which the rate changes.
        warmup_epochs: linear warm-up.
        warmup_start_lr: rate at the first tick of the warm-up.
    """

    per: str
    warmup_epochs: float
    warmup_start_lr: float

    def rate(self, base: float, *, step: int, steps_per_epoch: int, epochs: int) -> float:
        """The rate of a step."""
        ticks_per_epoch = steps_per_epoch if self.per == "step" else 1
        return warmup_cosine(
            step if self.per == "step" else step // steps_per_epoch,
            base=base,
            start=self.warmup_start_lr,
            warmup=round(self.warmup_epochs * ticks_per_epoch),
            total=epochs * ticks_per_epoch,
        )


class Pretraining:
    """Trains for a number of epochs in a run folder, from its last checkpoint if it has one.

    Args:
        trainer: what is trained.
        data: what the images are drawn from, with its statistics and view.
        split: the images; ``data.pretraining`` as a rule.
        augment: makes the two views.
        seed: of order, augmentation and masks.
        epochs: passes over the data.
        batch_size: images per step.
        base_rates: learning rates of encoder and method after the warm-up.
        schedule: of both rates.
        device: where everything lives.
        residence: of the images, see `benchmark.feed.Feed`.
        drop_last: leave a last incomplete batch of an epoch out.
        log_every_steps: steps between lines of metrics.jsonl.
        log_limits: log the losses without a mask and with everything hidden beside those of
            the slots.
        checkpoint_every_epochs: epochs between checkpoints.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: Dataset,
        split: Split,
        augment: Augment,
        *,
        seed: int,
        epochs: int,
        batch_size: int,
        base_rates: tuple[float, float],
        schedule: Schedule,
        device: torch.device,
        residence: str,
        drop_last: bool,
        log_every_steps: int,
        log_limits: bool,
        checkpoint_every_epochs: int,
    ) -> None:
        self.trainer = trainer
        self.augment = augment
        self.seed = seed
        self.epochs = epochs
        self.batch_size = batch_size
        self.base_rates = base_rates
        self.schedule = schedule
        self.device = device
        self.log_every_steps = log_every_steps
        self.log_limits = log_limits
        self.checkpoint_every_epochs = checkpoint_every_epochs
        self.feed = Feed(
            split, device, segments="segments" in trainer.method.needs, residence=residence
        )
        self.mean, self.std = data.mean, data.std
        self.view_size, self.view = data.view_size, data.view
        count = len(split)
        self.steps_per_epoch = count // batch_size if drop_last else math.ceil(count / batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def batch(self, epoch: int, step: int, index: Int[Tensor, "b"], samples: Samples) -> Batch:
        """Two augmented views of ``samples``, whose places in the split are ``index``."""
        streams = Streams(self.seed, epoch, index)
        pixels = [self.augment(samples.images, streams, view) for view in range(2)]
        segments = None
        if (objects := samples.segments) is not None:
            segments = torch.stack([self.augment.segments(objects, streams, v) for v in range(2)])
        return Batch(
            views=torch.stack([normalise(p, self.mean, self.std) for p in pixels]),
            pixels=torch.stack(pixels),
            index=index,
            labels=samples.labels,
            segments=segments,
            progress=step / max(self.steps, 1),
            streams=streams,
        )

    def plain_batch(self, split: Split, count: int) -> Batch:
        """The first images of a split as they are, as both views, at the end of training."""
        index = torch.arange(min(count, len(split)))
        images = split.images[: len(index)].to(self.device)
        pixels = plain_view(images, self.view_size, self.view).expand(2, -1, -1, -1, -1)
        segments = None
        if split.segments is not None:
            objects = plain_segments(split.segments[: len(index)], self.view_size, self.view)
            segments = objects.long().to(self.device).expand(2, -1, -1, -1)
        return Batch(
            views=normalise(pixels[0], self.mean, self.std).expand(2, -1, -1, -1, -1),
            pixels=pixels,
            index=index.to(self.device),
            labels=None,
            segments=segments,
            progress=1.0,
            streams=Streams(self.seed, self.epochs, index.to(self.device)),
        )

    def cost_per_image(self) -> Cost:
        """What a training step costs on average, counted on copies with two images."""
        parts = {
            name: copy.deepcopy(getattr(self.trainer, name))
            for name in ("encoder", "objective", "method")
        }
        rehearsal = replace(self.trainer, **parts, probe=None)
        # The optimisers hold the originals' parameters, which get no gradient here.
        rehearsal.encoder_optimiser = torch.optim.SGD(parts["encoder"].parameters(), lr=0.0)
        if rehearsal.mask_optimiser is not None:
            rehearsal.mask_optimiser = torch.optim.SGD(parts["method"].parameters(), lr=0.0)
        index = torch.arange(2, device=self.device)
        batch = self.batch(0, 0, index, self.feed.take(index))
        forwards = 0

        def count(*_: object) -> None:
            nonlocal forwards
            forwards += 1

        parts["encoder"].register_forward_pre_hook(count)
        cycle = self.trainer.turns.encoder_steps  # after which the players' turns repeat
        with FlopCounterMode(display=False) as counter:
            for step in range(cycle):
                rehearsal.step(batch, step)
        return Cost(forwards / cycle, float(counter.get_total_flops()) / (2 * cycle))

    def run(self, folder: Path, owner: str, report: Report) -> dict[str, Any]:
        """Train to the end; returns the cost.

        Args:
            folder: of the run; gets ``metrics.jsonl`` and ``checkpoints/``.
            owner: names configuration and seed in the checkpoints.
            report: is told how training goes.

        Raises:
            NonFiniteLossError: if a loss is not finite.
        """
        checkpoints = folder / "checkpoints"
        first_epoch, position = load_checkpoint(checkpoints, owner, self.trainer)
        log = MetricsLog(folder / "metrics.jsonl", position.get("metrics_bytes", 0))
        cost = self.cost_per_image() if self.steps else Cost(0.0, 0.0)
        seconds_before = float(position.get("seconds", 0.0))
        started = time.monotonic()

        def seconds() -> float:
            return seconds_before + time.monotonic() - started

        try:
            for epoch in range(first_epoch, self.epochs):
                self._epoch(epoch, log, cost, seconds, report)
                if (epoch + 1) % self.checkpoint_every_epochs == 0 or epoch + 1 == self.epochs:
                    state = {"metrics_bytes": log.flush(), "seconds": seconds()}
                    save_checkpoint(checkpoints, owner, self.trainer, epoch + 1, state)
        finally:
            log.close()
        return self._cost(self.steps, cost, seconds())

    def _cost(self, steps: int, per_image: Cost, seconds: float) -> dict[str, Any]:
        epochs, rest = divmod(steps, max(self.steps_per_epoch, 1))
        images = epochs * self.images_per_epoch + rest * self.batch_size
        return {
            "encoder_forwards": round(images * per_image.encoder_forwards),
            "flops": images * per_image.flops,
            "seconds": round(seconds, 3),
        }

    @property
    def images_per_epoch(self) -> int:
        """Images that an epoch trains on."""
        return min(self.steps_per_epoch * self.batch_size, len(self.feed))

    def _epoch(
        self,
        epoch: int,
        log: MetricsLog,
        per_image: Cost,
        seconds: Callable[[], float],
        report: Report,
    ) -> None:
        order = permutation(self.seed, "order", epoch, len(self.feed), self.device)
        indices = order.split(self.batch_size)[: self.steps_per_epoch]
        buffer = StepBuffer()
        seen: dict[str, list[float]] = defaultdict(list)
        started = time.monotonic()
        turns = zip(indices, self.feed.batches(indices), strict=True)
        for i, (index, samples) in enumerate(turns):
            step = epoch * self.steps_per_epoch + i
            rates = self._set_rates(step)
            ended = i + 1 == self.steps_per_epoch
            logged = ended or (i + 1) % self.log_every_steps == 0
            batch = self.batch(epoch, step, index, samples)
            terms = self.trainer.step(batch, step, diagnose=logged and self.log_limits)
            buffer.add(step, terms)
            if not logged:
                continue
            drained = buffer.drain()
            for name in _SHOWN:
                seen[name] += [line[name] for _, line in drained if name in line]
            cost = self._cost(step + 1, per_image, seconds())
            log.write({"epoch": epoch, "step": step, "lr": rates, **drained[-1][1], **cost})
            speed = (i + 1) * self.batch_size / (time.monotonic() - started)
            means = {name: sum(values) / len(values) for name, values in seen.items() if values}
            report(self._line(epoch, means, speed, step), step + 1, ended)

    def _set_rates(self, step: int) -> list[float]:
        rates = [
            self.schedule.rate(
                base, step=step, steps_per_epoch=self.steps_per_epoch, epochs=self.epochs
            )
            for base in self.base_rates
        ]
        set_learning_rate(self.trainer.encoder_optimiser, rates[0])
        if self.trainer.mask_optimiser is not None:
            set_learning_rate(self.trainer.mask_optimiser, rates[1])
        return rates

    def _line(self, epoch: int, means: dict[str, float], speed: float, step: int) -> str:
        """The state of training in words; means are over the epoch so far."""
        left = (self.steps - step - 1) * self.batch_size / speed
        words = [f"epoch {epoch + 1}/{self.epochs}"]
        words += [form.format(means[name]) for name, form in _SHOWN.items() if name in means]
        words.append(f"{speed:.0f} img/s")
        words.append(f"{left // 60:.0f}:{left % 60:02.0f} left")
        return "  ".join(words)
