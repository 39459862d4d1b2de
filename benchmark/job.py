"""One run from beginning to end: pretrain, then evaluate; whatever is done already is skipped."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmark import processes
from benchmark.build import build_encoder, build_pretraining, build_task
from benchmark.checkpoint import load_checkpoint, load_encoder, save_encoder
from benchmark.config import Config
from benchmark.contracts import Encoder
from benchmark.dataset import Dataset
from benchmark.evaluation import evaluate, whole_result
from benchmark.files import exclusive, read_json, sha256_of, write_json, write_text
from benchmark.foreign import load_foreign
from benchmark.gallery import MASKS_FILE, load_masks, save_masks
from benchmark.metrics import NonFiniteLossError
from benchmark.plan import Planned, Planner
from benchmark.pretrain import Pretraining, Report
from benchmark.progress import Emit, Event
from benchmark.provenance import collect, git_state
from benchmark.resolve import resolve_device
from benchmark.runs import PlannedTask, Run, identity
from benchmark.task import SavedMasks


def execute(planned: Planned, emit: Emit, planner: Planner | None = None) -> bool:
    """Run to the end; returns whether it succeeded.

    A failure is told, kept in the run's error file, and left to the caller to count: the other
    runs of a sweep go on. Of several processes that train it together, the first one does all the
    rest.

    Args:
        planned: the run.
        emit: is told how it goes.
        planner: who planned it, and has the data sets; without, they are loaded when needed.

    Raises:
        SystemExit: if this one of several processes failed in training. That ends all of them.
    """
    run = planned.run

    def say(text: str, *, finished: bool = False) -> None:
        emit(Event(run.name, text, finished=finished))

    try:
        with ExitStack() as held:
            processes.once(lambda: _take(run, held, say))
            _Job(planned, emit, say, planner or Planner()).run()
    except Exception as error:
        apart = isinstance(error, processes.ApartError)
        if processes.rank() == 0 or apart:
            _tell(run, error, say, traceback.format_exc())
        if apart:
            raise SystemExit(1) from error
        return False
    return True


def _take(run: Run, held: ExitStack, say: Callable[..., None]) -> None:
    """Hold the run's folder, and forget the failure of an earlier attempt."""
    waiting = "another process is at this run; waiting for it"
    held.enter_context(exclusive(run.folder, lambda: say(waiting)))
    run.error_file.unlink(missing_ok=True)


def _tell(run: Run, error: Exception, say: Callable[..., None], trace: str) -> None:
    """Report a failure and keep its trace."""
    words = f"FAILED: {str(error) or type(error).__name__} (see {run.error_file})"
    apart = isinstance(error, processes.ApartError)
    if apart and run.error_file.exists():  # that is the cause, and this what came of it
        return
    try:
        write_text(run.error_file, trace)
    except OSError as full:  # the disk, as a rule; then the trace is all there is
        say(f"{run.error_file} could not be written ({full.strerror}):\n{trace}")
    if apart:
        print(words, file=sys.stderr)  # only the first process has a display
    else:
        say(words, finished=True)


class _Job:
    """The stages of one run, in its folder."""

    def __init__(
        self, planned: Planned, emit: Emit, say: Callable[..., None], planner: Planner
    ) -> None:
        self.run_plan: Run = planned.run
        self.cfg: Config = planned.cfg
        self.emit = emit
        self.say = say
        self.planner = planner
        self.device = resolve_device(planned.cfg.device)
        if self.device.index is not None:  # what is put on "cuda" goes there too
            torch.cuda.set_device(self.device)

    @property
    def data(self) -> Dataset:
        """The pretraining data, loaded when first needed."""
        data = self.planner.data(self.cfg)
        _same_data(data.name, data.train_fingerprint, self.run_plan.fingerprint)
        return data

    def run(self) -> None:
        """Every stage whose output is not there yet."""
        torch.set_num_threads(self.cfg.threads)
        torch.backends.cudnn.deterministic = True
        finished = processes.once(self._finished_pretraining)
        encoder_sha256 = finished or self._pretrain()
        reused = ["pretraining"] if finished else []
        processes.once(lambda: self._finish(encoder_sha256, reused))

    def _finish(self, encoder_sha256: str, reused: list[str]) -> None:
        """What comes after pretraining; ``reused`` is what was there before."""
        if self._hides and not (self._masks_folder / MASKS_FILE).exists():
            self._restore_masks()
        todo = []
        for task in self.run_plan.tasks:
            if whole_result(task, encoder_sha256, self.cfg.seed):
                reused.append(task.name)
            else:
                todo.append(task)
        if reused:
            self.say(f"reused {', '.join(reused)}")
        for task in todo:
            self._evaluate(task, encoder_sha256)
        self.say("done", finished=True)

    @property
    def _owner(self) -> str:
        """What checkpoints and pretraining record must belong to."""
        return f"{self.run_plan.hash8}/seed{self.run_plan.seed}"

    def _finished_pretraining(self) -> str | None:
        """Checksum of the encoder, if pretraining is complete and the encoder is its product."""
        record_file = self.run_plan.pretraining_file
        encoder_file = self.run_plan.encoder_file
        if not record_file.exists() or not encoder_file.exists():
            return None
        record = read_json(record_file)
        if record.get("owner") != self._owner:
            raise ValueError(f"{record_file} belongs to another run; delete it to train again")
        if sha256_of(encoder_file) != record.get("encoder_sha256"):
            raise ValueError(
                f"{encoder_file} is not the encoder that {record_file.name} beside it describes; "
                "delete it to train again"
            )
        return str(record["encoder_sha256"])

    @property
    def _hides(self) -> bool:
        """Whether the finished pretraining left masks."""
        return bool(read_json(self.run_plan.pretraining_file).get("hides"))

    def _pretrain(self) -> str:
        processes.once(self._note_attempt)
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
            return training, training.run(self.run_plan.folder, self._owner, report)
        except (NonFiniteLossError, processes.ElsewhereError):  # which all of them meet
            raise
        except Exception as error:
            if processes.count() == 1:
                raise
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
        save_encoder(run.encoder_file, encoder)
        hides = training is not None and self._save_masks(training)
        commit, dirty = git_state()
        encoder_sha256 = sha256_of(run.encoder_file)
        write_json(
            run.pretraining_file,
            {
                "owner": self._owner,
                "encoder_sha256": encoder_sha256,
                "cost": cost,
                "hides": hides,
                "commit": commit,
                "dirty": dirty,
            },
        )
        return encoder_sha256

    def _save_masks(self, training: Pretraining) -> bool:
        return save_masks(self._masks_folder, training, self.data)

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
        epochs, _ = load_checkpoint(
            self.run_plan.folder / "checkpoints", self._owner, training.trainer
        )
        if epochs != self.cfg.epochs:
            raise ValueError(
                f"{self._masks_folder / MASKS_FILE} is missing or of other images, and there is no "
                f"checkpoint of epoch {self.cfg.epochs} to make it from; delete "
                f"{self.run_plan.pretraining_file} to train again"
            )
        self._save_masks(training)

    def _note_attempt(self) -> None:
        """Write the configuration, and add this attempt's surroundings to the provenance."""
        run, folder = self.run_plan, self.run_plan.folder
        config = yaml.safe_dump({"run": identity(run), **asdict(self.cfg)}, sort_keys=False)
        write_text(folder / "config.yaml", config)
        file = folder / "provenance.json"
        attempts = read_json(file)["attempts"] if file.exists() else []
        write_json(file, {"attempts": [*attempts, collect(str(self.device))]})

    def _report_training(self, steps: int) -> Report:
        def report(text: str, step: int, epoch_ended: bool) -> None:
            self.emit(Event(self.run_plan.name, text, step, steps, epoch_ended))

        return report

    def _encoder(self) -> Encoder:
        encoder = build_encoder(self.cfg)
        load_encoder(self.run_plan.encoder_file, encoder)
        return encoder

    def _evaluate(self, task: PlannedTask, encoder_sha256: str) -> None:
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
        )
        name, value = next(iter(result.metrics.items()))
        self.say(f"{task.name} on {task.data}: {name} {value:.2f}")
        if warning := result.details.get("warning"):
            self.say(f"{task.name} on {task.data}: {warning}")


def _same_data(name: str, found: str, planned: str) -> None:
    if found != planned:
        raise ValueError(f"data set {name} has changed since the run was planned; start again")
