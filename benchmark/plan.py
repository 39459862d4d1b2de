"""From command-line overrides to planned runs, all of them checked before the first one trains."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.build import (
    build_pretraining,
    build_task,
    build_trainer,
    load_data,
    normalised_as,
    pretraining_split,
)
from benchmark.config import Config, compose, one_sentence
from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.files import sha256_of
from benchmark.foreign import FORMATS, load_foreign
from benchmark.hashing import protocol_id, result_payload, short_hash, version_of
from benchmark.instantiate import instantiate, target
from benchmark.packs.manifest import MissingPackError
from benchmark.packs.pack import load as load_pack
from benchmark.resolve import (
    CONTROLS,
    check_numbers,
    check_writable,
    planning_device,
    task_names,
    typed,
)
from benchmark.runs import IMPORTED, PlannedTask, Run
from benchmark.trainer import Trainer


@dataclass(frozen=True)
class Planned:
    """A run together with its resolved configuration, which no comparison needs."""

    run: Run
    cfg: Config = field(compare=False)


class Planner:
    """Plans runs; data sets are loaded once and configurations that differ in seed checked once."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._trainers: dict[str, Trainer] = {}
        self._epoch_pflops: dict[str, float] = {}

    def plan(self, overrides: Sequence[str], varied: Sequence[str] = ()) -> Planned:
        """Compose, check and name one run.

        Args:
            overrides: of the configuration.
            varied: those that tell it from the other runs of its sweep.

        Raises:
            UserError: for anything that would make the run fail later.
        """
        composed = compose(overrides)
        choices = composed.hydra.runtime.choices
        with one_sentence():
            cfg = typed(composed)
        check_numbers(cfg)
        self._find_packs(cfg)
        data = self.data(cfg)
        if not re.fullmatch(r"\w[\w.-]*", data.name) or data.name == "tables":
            raise UserError(f"data.name={data.name} cannot be a folder's name; choose another")
        if cfg.control not in (None, *CONTROLS):
            raise UserError(f"control={cfg.control} is not one of null, {', '.join(CONTROLS)}")
        method = choices.method
        if cfg.format is not None and cfg.checkpoint is None:
            raise UserError(f"format={cfg.format} is of a checkpoint; set checkpoint=FILE too")
        if cfg.checkpoint is not None:
            cfg.checkpoint = str(Path(cfg.checkpoint).expanduser())
            method = _imported_name(cfg, method)
            cfg.control = IMPORTED
        if cfg.control == "supervised" and not data.class_names:
            raise UserError(f"method=supervised needs labels, and {data.name} has none")
        if cfg.pflops is not None:
            cfg.epochs = self._affordable_epochs(cfg, data)
        payload = result_payload(cfg, data)
        trainer = self._trainer(cfg, data, payload)
        hash8 = short_hash(_own_payload(cfg, payload, trainer))
        folder = Path(cfg.runs_dir) / data.name / f"{method}-{hash8}" / f"seed{cfg.seed}"
        check_writable(folder)
        tasks, skipped = self._tasks(cfg, data, trainer, folder)
        setting = {k: v for k, v in payload.items() if k not in ("method", "objective", "control")}
        run = Run(
            method=method,
            objective=choices.objective,
            encoder=choices.encoder,
            data=data.name,
            preset=choices.preset,
            seed=cfg.seed,
            control=cfg.control,
            fingerprint=data.train_fingerprint,
            hash8=hash8,
            setting=short_hash(setting),
            folder=folder,
            tasks=tasks,
            skipped=skipped,
            varied=tuple(varied),
            update=_update(cfg, trainer),
        )
        return Planned(run, cfg)

    def _find_packs(self, cfg: Config) -> None:
        """Name every data set that is not prepared, not just the first."""
        tasks = [cfg.tasks[name] for name in task_names(cfg)]
        nodes = [cfg.data, *(task.get("data") for task in tasks if isinstance(task, Mapping))]
        missing = []
        for node in nodes:
            if isinstance(node, Mapping) and target(node) is load_pack:
                try:
                    self._load(node)
                except MissingPackError as error:
                    missing.append(str(error))
        if missing:
            raise UserError(" ".join(dict.fromkeys(missing)))

    def data(self, cfg: Config) -> Dataset:
        """The pretraining data of a configuration."""
        return normalised_as(self._load(cfg.data), cfg.normalisation)

    def task_data(self, cfg: Config, name: str) -> Dataset:
        """The data that a task of a configuration scores on."""
        node = cfg.tasks[name].get("data")
        return self._load(node) if node else self.data(cfg)

    def _load(self, node: Mapping[str, Any]) -> Dataset:
        key = json.dumps(node, sort_keys=True, default=str)
        if key not in self._datasets:
            self._datasets[key] = load_data(node)
        return self._datasets[key]

    def _affordable_epochs(self, cfg: Config, data: Dataset) -> int:
        """As many whole epochs as ``pflops`` pays for.

        Raises:
            UserError: if it does not pay for one.
        """
        key = short_hash(result_payload(cfg, data))
        if key not in self._epoch_pflops:
            training = build_pretraining(cfg, data, planning_device(cfg.device, cfg.launcher))
            flops = training.cost_per_image().flops * training.images_per_epoch
            self._epoch_pflops[key] = flops / 1e15
        epochs = int((cfg.pflops or 0) / self._epoch_pflops[key])
        if epochs < 1:
            raise UserError(
                f"pflops={cfg.pflops:g} does not pay for one epoch of {cfg.method['_target_']}, "
                f"which takes {self._epoch_pflops[key]:.3g}; give more"
            )
        return epochs

    def _trainer(self, cfg: Config, data: Dataset, payload: Mapping[str, Any]) -> Trainer:
        """Everything built once: the parts' constructors know what they refuse."""
        key = short_hash({**payload, "checkpoint": cfg.checkpoint, "format": cfg.format})
        if key not in self._trainers:
            if cfg.control in (None, "supervised"):
                _check_batches(cfg, len(pretraining_split(cfg, data)), data.name)
            parts = {"augment": cfg.augment, "method": cfg.method, "encoder": cfg.encoder}
            _check_sizes(parts, data.image_size, data.name)
            instantiate(cfg.augment)
            trainer = build_trainer(cfg, data, planning_device(cfg.device, cfg.launcher))
            if cfg.checkpoint is not None:
                load_foreign(Path(cfg.checkpoint), cfg.format or "", trainer.encoder)
            self._trainers[key] = trainer
        return self._trainers[key]

    def _tasks(
        self, cfg: Config, data: Dataset, trainer: Trainer, folder: Path
    ) -> tuple[tuple[PlannedTask, ...], tuple[str, ...]]:
        planned, skipped = [], []
        for name in task_names(cfg):
            node = cfg.tasks[name]
            task = build_task(node)
            if isinstance(node.get("data"), str):
                raise UserError(
                    f"tasks.{name}.data={node['data']} is no data set; "
                    f"choose one with data@tasks.{name}.data={node['data']}"
                )
            if task.scores == "masks" and node.get("data"):
                raise UserError(
                    f"tasks.{name}.data must be left out: the masks that it scores are of the data "
                    f"of pretraining, {data.name}"
                )
            task_data = self.task_data(cfg, name)
            subject = trainer.encoder if task.scores == "encoder" else trainer.method
            if reason := lacks(task_data, task.needs) or task.unsuited(subject):
                skipped.append(f"{name}: {reason}")
                continue
            task.check(subject, task_data)
            own = {k: v for k, v in node.items() if k != "data"}
            hash8 = short_hash(
                {"task": own, "version": version_of(own), "data": task_data.fingerprint},
            )
            results = folder / "results" / f"{name}-{task_data.name}-{hash8}"
            seeds = cfg.eval_seeds if task.seeded else cfg.eval_seeds[:1]
            planned += [
                PlannedTask(
                    name=name,
                    data=task_data.name,
                    fingerprint=task_data.fingerprint,
                    eval_seed=seed,
                    result=results / f"seed{seed}.json",
                    protocol_id=protocol_id(node),
                )
                for seed in seeds
            ]
        return tuple(planned), tuple(skipped)


def _imported_name(cfg: Config, method: str) -> str:
    """What a checkpoint of somebody else's is called: by its file.

    Raises:
        UserError: if there is no such file, or the line asks for what a finished encoder lacks.
    """
    file = Path(cfg.checkpoint or "")
    if not file.is_file():
        raise UserError(f"checkpoint={cfg.checkpoint} is no file; give the path of one")
    if method != "none" or cfg.seed != 0:
        extra = f"method={method}" if method != "none" else f"seed={cfg.seed}"
        raise UserError(
            f"checkpoint={cfg.checkpoint} is one finished encoder; leave {extra} out, and use "
            "eval_seeds=[0,1,2] for several heads"
        )
    if cfg.format is None:
        raise UserError(f"checkpoint={cfg.checkpoint} needs format={'|'.join(FORMATS)}")
    return re.sub(r"[^\w.]+", "-", file.stem).strip("-.") or "checkpoint"


def _check_sizes(parts: Mapping[str, Any], size: int, data: str) -> None:
    """Refuse parts, and parts of these, for images of another size in pixels than the data's."""
    for name, node in parts.items():
        if not isinstance(node, Mapping):
            continue
        if node.get("image_size", size) != size:
            raise UserError(
                f"{name}.image_size={node['image_size']} differs from the {size} pixels of {data}, "
                "for which nets and masks are built; set data.image_size alone"
            )
        _check_sizes({f"{name}.{key}": part for key, part in node.items()}, size, data)


def _check_batches(cfg: Config, count: int, name: str) -> None:
    """Refuse batches that the images of pretraining do not fill."""
    if cfg.batch_size > count:
        raise UserError(
            f"batch_size={cfg.batch_size} exceeds the {count} training images of {name}; choose "
            "at most that many"
        )
    last, processes = count % cfg.batch_size, cfg.processes or 1
    if cfg.drop_last or not last:
        return
    if last % processes:
        raise UserError(
            f"drop_last=false leaves a batch of {last} of the {count} images, which {processes} "
            f"processes cannot share out; choose another batch_size than {cfg.batch_size}"
        )
    if last == processes:
        raise UserError(
            f"drop_last=false leaves a batch of one of the {count} images, which BatchNorm cannot "
            f"use; choose another batch_size than {cfg.batch_size}"
        )


def _own_payload(cfg: Config, payload: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """What of the payload matters for this very run."""
    if cfg.checkpoint is not None:
        file = sha256_of(Path(cfg.checkpoint))
        kept = {key: payload[key] for key in ("encoder", "normalisation", "threads")}
        return {"checkpoint": file, "format": cfg.format, **kept}
    own = dict(payload)
    if cfg.control:  # a sweep over objectives shares its controls
        del own["objective"]
    if trainer.mask_optimiser is None:
        del own["mask_optimiser"], own["turns"]
    if _update(cfg, trainer) == "alternating":
        own.pop("update", None)
    if cfg.control == "untrained":
        own = {k: v for k, v in own.items() if k not in ("processes", "sync_batchnorm")}
    return own


def _update(cfg: Config, trainer: Trainer) -> str:
    """The update that is made: without an adversary none is simultaneous to it."""
    alone = cfg.update == "simultaneous" and trainer.mask_optimiser is None
    return "alternating" if alone or cfg.control == "untrained" else cfg.update


def lacks(data: Dataset, need: str) -> str | None:
    """Why a task that needs a kind of ground truth cannot run on ``data``, or None."""
    if data.test is None:
        return f"{data.name} has no test split"
    if getattr(data.train, need) is None or getattr(data.test, need) is None:
        return f"{data.name} has no {need.replace('_', ' ')}"
    return None
