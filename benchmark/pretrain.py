"""The training loop around the trainer: batches, schedule, log, checkpoints."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark import processes
from benchmark.augment import Augment
from benchmark.batches import Batches
from benchmark.checkpoint import load_checkpoint, save_checkpoint
from benchmark.cost import Cost, cost_per_image
from benchmark.dataset import Dataset, Split
from benchmark.feed import Feed
from benchmark.metrics import MetricsLog, StepBuffer
from benchmark.optim import set_learning_rate
from benchmark.profiling import StepProfiler, section
from benchmark.schedule import Schedule
from benchmark.streams import permutation
from benchmark.superpixel_cache import with_superpixels
from benchmark.trainer import Trainer

# Called as report(state in words, steps done, whether an epoch has ended).
Report = Callable[[str, int, bool], None]

# Terms that the display shows as means over the epoch so far, and how.
_SHOWN = {"loss": "loss {:.2f}", "mask_loss": "mask {:.2f}", "probe": "probe {:.1f}%"}


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
        cache: folder of superpixels, for a method that asks for those of un-augmented images; None
            to find them again in every epoch.
        profile: write where the time of some steps goes.
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
        cache: Path | None = None,
        profile: bool = False,
    ) -> None:
        self.trainer = trainer
        self.seed = seed
        self.epochs = epochs
        self.batch_size = batch_size
        self.base_rates = base_rates
        self.schedule = schedule
        self.device = device
        self.log_every_steps = log_every_steps
        self.log_limits = log_limits
        self.checkpoint_every_epochs = checkpoint_every_epochs
        self.residence = residence
        self.cache = cache
        self.profile = profile
        self.split = split
        self.fingerprint = data.train_fingerprint
        count = len(split)
        self.steps_per_epoch = count // batch_size if drop_last else math.ceil(count / batch_size)
        self.batches = Batches(
            data, augment, trainer.method.segmenter, seed=seed, epochs=epochs, steps=self.steps
        )

    @cached_property
    def feed(self) -> Feed:
        """Hands out the samples."""
        segments = "segments" in self.trainer.method.needs
        return Feed(self.split, self.device, segments=segments, residence=self.residence)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def cost_per_image(self) -> Cost:
        """What training on one image costs."""
        index = torch.arange(2, device=self.device)
        return cost_per_image(self.trainer, self.batches.augmented(0, 0, self.feed.take(index)))

    def run(self, folder: Path, owner: str, report: Report) -> dict[str, Any]:
        """Train to the end; returns the cost.

        Several processes go through the same steps, each with its share of every batch; the first
        of them writes what there is to write.

        Args:
            folder: of the run; gets ``metrics.jsonl`` and ``checkpoints/``.
            owner: names configuration and seed in the checkpoints.
            report: is told how training goes.

        Raises:
            NonFiniteLossError: if a loss is not finite; then in all processes.
        """
        self._find_superpixels(report)
        checkpoints = folder / "checkpoints"
        first_epoch, position = load_checkpoint(checkpoints, owner, self.trainer)
        if first_epoch != (theirs := processes.agreed(first_epoch)):
            raise ValueError(
                f"process {processes.rank()} finds epoch {first_epoch} in {checkpoints}, the first "
                f"one epoch {theirs}; runs_dir must be a folder that all of them share"
            )
        log = None
        if processes.rank() == 0:
            log = MetricsLog(folder / "metrics.jsonl", position.get("metrics_bytes", 0))
        cost = self.cost_per_image() if self.steps else Cost(0.0, 0.0)
        seconds_before = float(position.get("seconds", 0.0))
        started = time.monotonic()

        def seconds() -> float:
            return seconds_before + time.monotonic() - started

        profiler = self._profiler(folder, cost)
        after_step = profiler.after_step if profiler is not None else lambda: None
        try:
            for epoch in range(first_epoch, self.epochs):
                self._epoch(epoch, log, cost, seconds, report, after_step)
                due = (epoch + 1) % self.checkpoint_every_epochs == 0 or epoch + 1 == self.epochs
                if due and log is not None:
                    state = {"metrics_bytes": log.flush(), "seconds": seconds()}
                    save_checkpoint(checkpoints, owner, self.trainer, epoch + 1, state)
            if profiler is not None:
                profiler.close()
        finally:
            if log is not None:
                log.close()
        return self._cost(self.steps, cost, seconds())

    def _profiler(self, folder: Path, cost: Cost) -> StepProfiler | None:
        if not self.profile or processes.rank() > 0:
            return None
        images = self.batch_size // processes.count()
        return StepProfiler(
            folder / "profile", self.device, images=images, flops=images * cost.flops
        )

    def _find_superpixels(self, report: Report) -> None:
        """Have the superpixels that the method asks for at hand; the first process makes them."""
        segmenter, folder = self.trainer.method.segmenter, self.cache
        if segmenter is None or folder is None:
            return

        def found() -> Split:
            return with_superpixels(
                self.split,
                segmenter,
                folder=folder,
                fingerprint=self.fingerprint,
                device=self.device,
                report=lambda words: report(words, 0, False),
            )

        def make() -> None:  # and hand no images to the other processes
            found()

        processes.once(make)
        self.split = found()

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
        return min(self.steps_per_epoch * self.batch_size, len(self.split))

    def _epoch(
        self,
        epoch: int,
        log: MetricsLog | None,
        per_image: Cost,
        seconds: Callable[[], float],
        report: Report,
        after_step: Callable[[], None],
    ) -> None:
        order = permutation(self.seed, "order", epoch, len(self.feed), self.feed.home)
        batches = order.split(self.batch_size)[: self.steps_per_epoch]
        indices = [processes.share(batch) for batch in batches]
        buffer = StepBuffer()
        seen: dict[str, list[float]] = defaultdict(list)
        started = time.monotonic()
        for i, samples in enumerate(self.feed.batches(indices)):
            step = epoch * self.steps_per_epoch + i
            rates = self._set_rates(step)
            ended = i + 1 == self.steps_per_epoch
            logged = ended or (i + 1) % self.log_every_steps == 0
            with section("input"):
                batch = self.batches.augmented(epoch, step, samples)
            terms = self.trainer.step(batch, step, diagnose=logged and self.log_limits)
            buffer.add(step, terms)
            if logged:
                with section("log"):
                    drained = buffer.drain()
                    cost = self._cost(step + 1, per_image, seconds())
                    line = {"epoch": epoch, "step": step, "lr": rates, **drained[-1][1], **cost}
                    if self.trainer.update != "alternating":
                        line["update"] = self.trainer.update
                    if log is not None:
                        log.write(line)
                    for name in _SHOWN:
                        seen[name] += [terms[name] for _, terms in drained if name in terms]
                    means = {name: sum(all_) / len(all_) for name, all_ in seen.items() if all_}
                    speed = (i + 1) * self.batch_size / (time.monotonic() - started)
                    report(self._line(epoch, means, speed, step), step + 1, ended)
            after_step()
        # Without sync_batchnorm running statistics differ, and one process will save them for all.
        nets = (self.trainer.encoder, self.trainer.objective, self.trainer.method)
        norms = [m for net in nets for m in net.modules() if isinstance(m, _BatchNorm)]
        processes.average_buffers(norms)

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
        if self.trainer.update != "alternating":
            words.append(f"{self.trainer.update} update")
        words += [form.format(means[name]) for name, form in _SHOWN.items() if name in means]
        words.append(f"{speed:.0f} img/s")
        words.append(f"{left // 60:.0f}:{left % 60:02.0f} left")
        return "  ".join(words)
