"""One run from beginning to end: pretrain, then evaluate; whatever is done already is skipped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmark import interruption, processes
from benchmark.build import build_encoder, build_pretraining, build_task, build_trackers
from benchmark.checkout import git_state
from benchmark.checkpoint import finished_pretraining, load_encoder, owner_of, save_encoder
from benchmark.config import Config
from benchmark.contracts import Encoder
from benchmark.dataset import Dataset
from benchmark.evaluation import evaluate, whole_result
from benchmark.failure import NotPretrainedError, note_failure
from benchmark.files import read_json, sha256_of, write_json
from benchmark.foreign import load_foreign
from benchmark.gallery import MASKS_FILE, Snapshots, load_masks, save_masks
from benchmark.lock import Lock, LockLostError, Owner, clear_dead, exclusive
from benchmark.metrics import NonFiniteLossError
from benchmark.plan import Planned, Planner
from benchmark.pretrain import Pretraining
from benchmark.progress import Emit, Event
from benchmark.provenance import note_attempt
from benchmark.record import Report
from benchmark.resolve import resolve_device
from benchmark.runs import PlannedTask, Run
from benchmark.task import SavedMasks


def execute(
    planned: Planned, emit: Emit, planner: Planner | None = None, *, pretrained: bool = False
) -> bool:
    """Run to the end; returns whether it succeeded.

    A failure is told, kept in an error file beside what it concerns, and left to the caller to
    count: the other tasks of the run, and the other runs of a sweep, go on. Of several processes
    that train it together, the first one does all the rest.

    Args:
        planned: the run.
        emit: is told how it goes.
        planner: who planned it, and has the data sets; without, they are loaded when needed.
        pretrained: whether the pretraining must be there, so that it is no work of this process.

    Raises:
        Interrupted: if the process was told to stop.
        SystemExit: if this one of several processes failed in training. That ends all of them.
    """
    job = _Job(planned, emit, planner or Planner(), pretrained=pretrained)
    try:
        return job.run()
    except Exception as error:
        file = planned.run.error_file
        if isinstance(error, processes.ApartError):
            if not file.exists():  # else that is the cause, and this what came of it
                print(note_failure(error, file), file=sys.stderr)  # in whichever of the processes
            raise SystemExit(1) from error
        if processes.rank() == 0:
            job.say(note_failure(error, file), finished=True)
        return False


class _Job:
    """The stages of one run, in its folder."""

    def __init__(self, planned: Planned, emit: Emit, planner: Planner, *, pretrained: bool) -> None:
        self.run_plan: Run = planned.run
        self.cfg: Config = planned.cfg
        self.emit = emit
        self.planner = planner
        self.pretrained = pretrained

    def say(self, text: str, *, finished: bool = False) -> None:
        """Tell in words how the run goes."""
        self.emit(Event(self.run_plan.name, text, finished=finished))

    @contextmanager
    def _held(self, folder: Path) -> Iterator[Lock]:
        """Hold a folder.

        Raises:
            LockLostError: in place of any error from inside, if the folder was lost.
        """

        def wait(owner: Owner | None) -> None:
            self.say(f"{owner or 'another process'} is at work in {folder}; waiting for it")

        with exclusive(folder, wait) as lock:
            try:
                yield lock
            except Exception:
                lock.check()  # what failed for want of the folder says so
                raise

    @property
    def data(self) -> Dataset:
        """The pretraining data, loaded when first needed."""
        data = self.planner.data(self.cfg)
        _same_data(data.name, data.train_fingerprint, self.run_plan.fingerprint)
        return data

    def run(self) -> bool:
        """Every stage whose output is not there yet; returns whether all succeeded."""
        self.device = resolve_device(self.cfg.device)
        if self.device.index is not None:  # what is put on "cuda" goes there too
            torch.cuda.set_device(self.device)
        torch.set_num_threads(self.cfg.threads)
        torch.backends.cudnn.deterministic = True
        there = processes.once(lambda: finished_pretraining(self.run_plan))
        encoder_sha256, reused = (there, True) if there else self._made_pretraining()
        return processes.once(lambda: self._score(encoder_sha256, reused=reused))

    def _made_pretraining(self) -> tuple[str, bool]:
        """Pretrain, or wait for the process that does.

        Returns:
            The encoder's checksum, and whether another process made it.

        Raises:
            NotPretrainedError: if it had to be there already.
        """
        if self.pretrained:
            raise NotPretrainedError(
                f"{self.run_plan.folder} has no finished pretraining, which this evaluation needs; "
                "the same line again sends what is missing"
            )

        def start(held: ExitStack) -> None:
            self.lock = held.enter_context(self._held(self.run_plan.folder))
            self.run_plan.error_file.unlink(missing_ok=True)

        with ExitStack() as held:
            processes.once(lambda: start(held))
            theirs = processes.once(lambda: finished_pretraining(self.run_plan))
            return (theirs, True) if theirs else (self._pretrain(), False)

    def _score(self, encoder_sha256: str, *, reused: bool) -> bool:
        """Every task whose result is not there; returns whether all are there in the end."""
        self.run_plan.error_file.unlink(missing_ok=True)
        clear_dead(self.run_plan.folder)
        if self._hides and not (self._masks_folder / MASKS_FILE).exists():
            self._restore_masks()
        done, todo, failed = ["pretraining"] if reused else [], [], 0
        for task in self.run_plan.tasks:
            try:
                there = whole_result(task, self.run_plan, encoder_sha256)
            except ValueError as error:
                self.say(f"{task.name} on {task.data} {note_failure(error, task.error_file)}")
                failed += 1
                continue
            if there:
                task.error_file.unlink(missing_ok=True)
                clear_dead(task.result.parent)
                done.append(task.name)
            else:
                todo.append(task)
        if done:
            self.say(f"reused {', '.join(done)}")
        for task in todo:
            if not self.run_plan.pretraining_file.exists():
                raise LockLostError.removed(self.run_plan.folder)
            try:
                with self._held(task.result.parent) as lock:
                    if not whole_result(task, self.run_plan, encoder_sha256):
                        self._evaluate(task, encoder_sha256, lock)
                    task.error_file.unlink(missing_ok=True)
            except LockLostError:
                raise
            except Exception as error:
                self.say(f"{task.name} on {task.data} {note_failure(error, task.error_file)}")
                failed += 1
        self.say("done" if not failed else f"FAILED: {failed} tasks, see above", finished=True)
        return not failed

    @property
    def _hides(self) -> bool:
        """Whether the finished pretraining left masks."""
        return bool(read_json(self.run_plan.pretraining_file).get("hides"))

    def _pretrain(self) -> str:
        processes.once(lambda: note_attempt(self.run_plan, self.cfg, self.device))
        training = None
        cost: dict[str, Any] = {"encoder_forwards": 0, "flops": 0.0, "seconds": 0.0}
        if self.cfg.checkpoint is None and self.cfg.control != "untrained":
            training, cost = self._train()
        return processes.once(lambda: self._keep(training, cost))

    def _train(self) -> tuple[Pretraining, dict[str, Any]]:
        """Pretrain, in all processes; returns what was trained and the cost."""
        try:
            training = build_pretraining(self.cfg, self.data, self.device)
            report = self._report_training(training.steps)
            # Only the first process holds the folder, and only it writes.
            check = self.lock.check if processes.rank() == 0 else lambda: None
            trackers = build_trackers(self.cfg, self.run_plan)
            watch = Snapshots(
                self._masks_folder, training, self.cfg.mask_snapshots, check, trackers
            )
            folder, owner = self.run_plan.folder, owner_of(self.run_plan)
            return training, training.run(folder, owner, report, check, trackers, watch)
        except (NonFiniteLossError, processes.ElsewhereError):  # which all of them meet
            raise
        except Exception as error:
            if processes.count() == 1:
                raise
            if signum := interruption.asked():  # as the others were, some of which have left
                raise interruption.Interrupted(signum) from error
            place = f"process {processes.rank()} of {processes.count()}"
            raise processes.ApartError(f"{place}: {str(error) or type(error).__name__}") from error

    def _keep(self, training: Pretraining | None, cost: dict[str, Any]) -> str:
        """Write the product of pretraining, and its record last; returns the encoder's checksum."""
        run, cfg = self.run_plan, self.cfg
        if training is not None:
            encoder = training.trainer.encoder
        else:
            encoder = build_encoder(cfg)
            if cfg.checkpoint is not None:
                load_foreign(Path(cfg.checkpoint), cfg.format or "", encoder)
        self.lock.check()
        save_encoder(run.encoder_file, encoder)
        hides = training is not None and save_masks(self._masks_folder, training)
        commit, dirty = git_state()
        encoder_sha256 = sha256_of(run.encoder_file)
        self.lock.check()
        write_json(
            run.pretraining_file,
            {
                "owner": owner_of(self.run_plan),
                "encoder_sha256": encoder_sha256,
                "cost": cost,
                "hides": hides,
                "commit": commit,
                "dirty": dirty,
            },
        )
        return encoder_sha256

    @property
    def _masks_folder(self) -> Path:
        return self.run_plan.folder / "masks"

    def _masks(self, fingerprint: str) -> SavedMasks:
        """The masks of the first images of the data that is scored on."""
        masks = load_masks(self._masks_folder, fingerprint)
        if masks is None:  # made for a run with the same train split, but another test split
            self._restore_masks()
            masks = load_masks(self._masks_folder, fingerprint)
        assert masks is not None
        return masks

    def _restore_masks(self) -> None:
        """Make the masks of a finished pretraining again, from its last checkpoint."""
        training = build_pretraining(self.cfg, self.data, self.device)
        with self._held(self.run_plan.folder):
            steps, _ = training.restore(
                self.run_plan.folder / "checkpoints",
                owner_of(self.run_plan),
                lambda words: self.say(words),
            )
            if steps != training.steps:
                raise ValueError(
                    f"{self._masks_folder / MASKS_FILE} is missing or of other images, and there "
                    f"is no checkpoint of step {training.steps} to make it from; delete "
                    f"{self.run_plan.pretraining_file} to train again"
                )
            save_masks(self._masks_folder, training)

    def _report_training(self, steps: int) -> Report:
        def report(text: str, step: int | None, epoch_ended: bool) -> None:
            self.emit(Event(self.run_plan.name, text, step, steps, epoch_ended))

        return report

    def _encoder(self) -> Encoder:
        encoder = build_encoder(self.cfg)
        load_encoder(self.run_plan.encoder_file, encoder)
        return encoder

    def _evaluate(self, task: PlannedTask, encoder_sha256: str, lock: Lock) -> None:
        data = self.planner.task_data(self.cfg, task.name)
        _same_data(data.name, data.fingerprint, task.fingerprint)
        protocol = build_task(self.cfg.tasks[task.name])
        of_masks = protocol.scores == "masks"
        subject = self._masks(task.fingerprint) if of_masks else self._encoder()
        result = evaluate(
            task,
            protocol,
            subject,
            data,
            run=self.run_plan,
            node=self.cfg.tasks[task.name],
            encoder_sha256=encoder_sha256,
            device=self.device,
            check=lock.check,
        )
        name, value = next(iter(result.metrics.items()))
        self.say(f"{task.name} on {task.data}: {name} {value:.2f}")
        if warning := result.details.get("warning"):
            self.say(f"{task.name} on {task.data}: {warning}")


def _same_data(name: str, found: str, planned: str) -> None:
    if found != planned:
        raise ValueError(f"data set {name} has changed since the run was planned; start again")
