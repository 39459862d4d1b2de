"""The training loop around the trainer: batches, schedule, log, checkpoints."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark import interruption, processes
from benchmark.augment import Augment
from benchmark.batches import Batches
from benchmark.checkpoint import Position, load_checkpoint, newest_checkpoint, save_checkpoint
from benchmark.cost import Cost, cost_per_image, peak_memory
from benchmark.dataset import Dataset, Split
from benchmark.feed import Feed
from benchmark.optim import set_learning_rate
from benchmark.profiling import StepProfiler, section
from benchmark.record import Record, Report
from benchmark.saving import Saving
from benchmark.schedule import Schedule
from benchmark.streams import permutation
from benchmark.superpixel_cache import with_superpixels
from benchmark.trackers import NOBODY, Trackers
from benchmark.trainer import Trainer


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
        checkpoint_every_seconds: seconds between checkpoints; 0 for one after each step.
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
        checkpoint_every_seconds: float,
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
        self.checkpoint_every_seconds = checkpoint_every_seconds
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

    def run(
        self,
        folder: Path,
        owner: str,
        report: Report,
        check: Callable[[], object] = lambda: None,
        trackers: Trackers = NOBODY,
        watch: Callable[[int], object] = lambda done: None,
    ) -> dict[str, Any]:
        """Train to the end; returns the cost.

        Several processes go through the same steps, each with its share of every batch; the first
        of them writes what there is to write.

        Args:
            folder: of the run; gets ``metrics.jsonl``, ``progress.json`` and ``checkpoints/``.
            owner: names configuration and seed in the checkpoints.
            report: is told how training goes.
            check: is called before anything is written, and raises if nothing may be.
            trackers: follow the training, in the first process.
            watch: is called with the steps done, before the first step and after each; it changes
                nothing.

        Raises:
            NonFiniteLossError: if a loss is not finite; then in all processes.
            Interrupted: if one of the processes was told to stop, after the step and a checkpoint.
        """
        self._find_superpixels(report)
        checkpoints = folder / "checkpoints"
        start, position = self.restore(checkpoints, owner, lambda words: report(words, None, False))
        if start:
            report(f"goes on from step {start} of {self.steps}", None, False)
        cost = self.cost_per_image() if self.steps else Cost(0.0, 0.0)
        profiler = self._profiler(folder, cost)
        record = Record(
            folder,
            position,
            cost=cost,
            images=self._images,
            epochs=self.epochs,
            steps=self.steps,
            steps_per_epoch=self.steps_per_epoch,
            batch_size=self.batch_size,
            update=self.trainer.update,
            report=report,
            check=check,
            trackers=trackers,
        )

        def save(done: int) -> None:
            state = record.position()
            if processes.rank() == 0:
                save_checkpoint(checkpoints, owner, self.trainer, done, state)
            if signum := interruption.asked():
                told = signal.Signals(signum).name
                report(f"{told} came: saved after step {done} of {self.steps}", None, False)

        saving = Saving(save, self.checkpoint_every_seconds, start)
        try:
            with interruption.deferred():
                trackers.open(start)
                watch(start)
                for epoch in range(start // max(self.steps_per_epoch, 1), self.epochs):
                    for done in self._epoch(epoch, start, record):
                        if profiler is not None:
                            profiler.after_step()
                        watch(done)
                        saving.after_step(done)
                saving.at_end(self.steps)
            if profiler is not None:
                profiler.close()
        finally:
            record.close()
        total = {"images": self._images(self.steps), "memory": peak_memory(self.device)}
        return record.cost(self.steps) | total

    def restore(
        self, checkpoints: Path, owner: str, warn: Callable[[str], object]
    ) -> tuple[int, Position]:
        """Put the newest whole state back; returns steps done and position, ``(0, {})`` if none.

        Raises:
            ValueError: naming the file, if it cannot be used.
        """
        file = processes.once(lambda: newest_checkpoint(checkpoints, warn))
        if file is None:
            return 0, {}
        if not file.exists():
            raise ValueError(
                f"process {processes.rank()} does not find {file}, which the first one does; "
                "runs_dir must be a folder that all of them share"
            )
        done, position = load_checkpoint(file, owner, self.trainer)
        if not 0 <= done <= self.steps:
            raise ValueError(
                f"{file} is of step {done} of a training of {self.steps}; delete it to go on "
                "without it"
            )
        return done, position

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

    @property
    def images_per_epoch(self) -> int:
        """Images that an epoch trains on."""
        return min(self.steps_per_epoch * self.batch_size, len(self.split))

    def _images(self, steps: int) -> int:
        """Images that so many steps train on."""
        epochs, rest = divmod(steps, max(self.steps_per_epoch, 1))
        return epochs * self.images_per_epoch + rest * self.batch_size

    def _epoch(self, epoch: int, start: int, record: Record) -> Iterator[int]:
        """Train on the steps of an epoch from step ``start`` on; yields the steps done by each."""
        order = permutation(self.seed, "order", epoch, len(self.feed), self.feed.home)
        batches = order.split(self.batch_size)[: self.steps_per_epoch]
        before = epoch * self.steps_per_epoch
        skipped = max(start - before, 0)
        indices = [processes.share(batch) for batch in batches[skipped:]]
        record.start_epoch(before + skipped)
        for i, samples in enumerate(self.feed.batches(indices), start=skipped):
            step = before + i
            rates = self._set_rates(step)
            logged = i + 1 == self.steps_per_epoch or (i + 1) % self.log_every_steps == 0
            with section("input"):
                batch = self.batches.augmented(epoch, step, samples)
            terms = self.trainer.step(batch, step, diagnose=logged and self.log_limits)
            if not self.trainer.sync_batchnorm:
                # Running statistics differ then, and one process saves them for all.
                processes.average_buffers(self._norms)
            record.add(step, terms)
            if logged:
                with section("log"):
                    record.write(step, rates)
            yield step + 1

    @cached_property
    def _norms(self) -> list[nn.Module]:
        nets = (self.trainer.encoder, self.trainer.objective, self.trainer.method)
        return [m for net in nets for m in net.modules() if isinstance(m, _BatchNorm)]

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
