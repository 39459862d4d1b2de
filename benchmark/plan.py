"""From command-line overrides to planned runs, all of them checked before the first one trains."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from benchmark.build import (
    build_task,
    build_trainer,
    instantiate,
    load_data,
    nested_nodes,
    normalised_as,
    target,
)
from benchmark.config import Config, compose, one_sentence
from benchmark.contracts import Dataset, Encoder, UserError, at_least
from benchmark.precision import native_precision
from benchmark.runs import PlannedTask, Run
from benchmark.trainer import Trainer

_SUITE = Path(__file__).resolve().parents[1]
# Keys of the configuration that change results; data enters by its fingerprint, not its path.
_RESULT_KEYS = (
    "method", "objective", "encoder", "augment", "normalisation", "fill", "fill_blur_sigma",
    "mask_both_views", "unmasked_pair", "turns", "encoder_optimiser", "mask_optimiser",
    "schedule", "epochs", "batch_size", "drop_last", "batchnorm", "precision", "threads", "control",
)  # fmt: skip
CONTROLS = ("untrained", "supervised")
_VERSIONED = ("method", "objective", "encoder", "augment")
_PACKAGES = ("benchmark", "methods", "tasks")


@dataclass(frozen=True)
class Planned:
    """A run together with its resolved configuration, which no comparison needs."""

    run: Run
    cfg: Config = field(compare=False)


def expand(overrides: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """Split a sweep's overrides into those of each run.

    Raises:
        UserError: for an override that cannot be parsed, or a sweep without ``-m``.
    """
    with one_sentence():
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        swept = [o.input_line for o in parsed if o.is_sweep_override()]
        if swept and not multirun:
            raise UserError(f"{swept[0]!r} lists several values; add -m to run a sweep")
        if not multirun:
            return [list(overrides)]
        return [list(run) for batch in BasicSweeper.split_arguments(parsed, None) for run in batch]


def with_experiment(overrides: Sequence[str]) -> list[str]:
    """The overrides with the sweep of a chosen experiment before them; the line's own keys win.

    Raises:
        UserError: for an unknown experiment.
    """
    keys = {o.split("=")[0].lstrip("+~") for o in overrides}
    named = [o for o in overrides if o.split("=")[0] in ("experiment", "hydra.searchpath")]
    sweep = compose(named).hydra.sweeper.params if "experiment" in keys else None
    return [f"{key}={value}" for key, value in (sweep or {}).items() if key not in keys] + [
        *overrides
    ]


def control_line(overrides: Sequence[str], controls: Sequence[str]) -> list[str]:
    """The same sweep over the controls, which know no options of the methods compared."""
    others = [o for o in overrides if not re.match(r"[+~]*method[.=@]", o)]
    return [f"method={','.join(controls)}", *others]


class Planner:
    """Plans runs; data sets are loaded once and configurations that differ in seed checked once."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._trainers: dict[str, Trainer] = {}

    def plan(self, overrides: Sequence[str]) -> Planned:
        """Compose, check and name one run.

        Raises:
            UserError: for anything that would make the run fail later.
        """
        composed = compose(overrides)
        choices = composed.hydra.runtime.choices
        with one_sentence():
            cfg = _typed(composed)
        _check_numbers(cfg)
        data = self.data(cfg)
        if not re.fullmatch(r"\w[\w.-]*", data.name) or data.name == "tables":
            raise UserError(f"data.name={data.name} cannot be a folder's name; choose another")
        if cfg.control not in (None, *CONTROLS):
            raise UserError(f"control={cfg.control} is not one of null, {', '.join(CONTROLS)}")
        if cfg.control == "supervised" and not data.class_names:
            raise UserError(f"method=supervised needs labels, and {data.name} has none")
        payload = _result_payload(cfg, data)
        trainer = self._trainer(cfg, data, payload)
        own = dict(payload)
        if cfg.control:  # a sweep over objectives shares its controls
            del own["objective"]
        if trainer.mask_optimiser is None:
            del own["mask_optimiser"], own["turns"]
        hash8 = _hash(own)
        folder = Path(cfg.runs_dir) / data.name / f"{choices.method}-{hash8}" / f"seed{cfg.seed}"
        check_writable(folder)
        tasks, skipped = self._tasks(cfg, data, trainer.encoder, folder)
        setting = {k: v for k, v in payload.items() if k not in ("method", "objective", "control")}
        run = Run(
            method=choices.method,
            objective=choices.objective,
            encoder=choices.encoder,
            data=data.name,
            preset=choices.preset,
            seed=cfg.seed,
            control=cfg.control,
            fingerprint=data.train_fingerprint,
            hash8=hash8,
            setting=_hash(setting),
            folder=folder,
            tasks=tasks,
            skipped=skipped,
        )
        return Planned(run, cfg)

    def data(self, cfg: Config) -> Dataset:
        """The pretraining data of a configuration."""
        return normalised_as(self._load(cfg.data), cfg.normalisation)

    def _load(self, node: Mapping[str, Any]) -> Dataset:
        key = json.dumps(node, sort_keys=True, default=str)
        if key not in self._datasets:
            self._datasets[key] = load_data(node)
        return self._datasets[key]

    def _trainer(self, cfg: Config, data: Dataset, payload: Mapping[str, Any]) -> Trainer:
        """Everything built once: the parts' constructors know what they refuse."""
        key = _hash(payload)
        if key not in self._trainers:
            if cfg.batch_size > len(data.train):
                raise UserError(
                    f"batch_size={cfg.batch_size} exceeds the {len(data.train)} training images "
                    f"of {data.name}; choose at most that many"
                )
            if not cfg.drop_last and len(data.train) % cfg.batch_size == 1:
                raise UserError(
                    f"drop_last=false leaves a batch of one of the {len(data.train)} images, which "
                    f"BatchNorm cannot use; choose another batch_size than {cfg.batch_size}"
                )
            augment = instantiate(cfg.augment)
            if augment.image_size != data.image_size:
                raise UserError(
                    f"augment.image_size={augment.image_size} differs from the {data.image_size} "
                    f"pixels of {data.name}, for which nets and masks are built; set "
                    "data.image_size alone"
                )
            self._trainers[key] = build_trainer(cfg, data, resolve_device(cfg.device))
        return self._trainers[key]

    def _tasks(
        self, cfg: Config, data: Dataset, encoder: Encoder, folder: Path
    ) -> tuple[tuple[PlannedTask, ...], tuple[str, ...]]:
        planned, skipped = [], []
        for name, node in cfg.tasks.items():
            if node is None:  # switched off with tasks.NAME=null
                continue
            task = build_task(node)
            if isinstance(node.get("data"), str):
                raise UserError(
                    f"tasks.{name}.data={node['data']} is no data set; "
                    f"choose one with data@tasks.{name}.data={node['data']}"
                )
            task_data = self._load(node["data"]) if node.get("data") else data
            if reason := lacks(task_data, task.needs) or task.unsuited(encoder):
                skipped.append(f"{name}: {reason}")
                continue
            task.check(encoder, task_data)
            own = {k: v for k, v in node.items() if k != "data"}
            hash8 = _hash(
                {"task": own, "version": _version(own), "data": task_data.fingerprint},
            )
            file = folder / "results" / f"{name}-{task_data.name}-{hash8}" / f"seed{cfg.eval_seed}"
            result = file.with_suffix(".json")
            planned.append(PlannedTask(name, task_data.name, task_data.fingerprint, result))
        return tuple(planned), tuple(skipped)


def lacks(data: Dataset, need: str) -> str | None:
    """Why a task that needs a kind of ground truth cannot run on ``data``, or None."""
    if data.test is None:
        return f"{data.name} has no test split"
    if getattr(data.train, need) is None or getattr(data.test, need) is None:
        return f"{data.name} has no {need.replace('_', ' ')}"
    return None


def resolve_device(name: str) -> torch.device:
    """The device that ``device=auto|cpu|cuda`` means here.

    Raises:
        UserError: for another name, or cuda where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={name} is not one of auto, cpu, cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device=cuda, but torch finds no CUDA device here; use device=auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing can be written, without creating it.

    Raises:
        UserError: naming the folder that is in the way.
    """
    try:
        existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); choose another runs_dir"
        ) from error


def _typed(composed: DictConfig) -> Config:
    """The resolved configuration as a plain object, without Hydra's own node."""
    plain = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    if plain.precision == "auto":  # before what refers to it is resolved
        plain.precision = native_precision(resolve_device(plain.device))
    # Merging into the schema once more refuses keys that +key=value added at the root.
    cfg = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    assert isinstance(cfg, Config)
    return cfg


def _check_numbers(cfg: Config) -> None:
    at_least(0, seed=cfg.seed, eval_seed=cfg.eval_seed, epochs=cfg.epochs)
    at_least(2, batch_size=cfg.batch_size)
    at_least(
        1,
        threads=cfg.threads,
        log_every_steps=cfg.log_every_steps,
        checkpoint_every_epochs=cfg.checkpoint_every_epochs,
    )
    if cfg.jobs is not None and cfg.jobs < 1:
        raise UserError(f"jobs={cfg.jobs} must be at least 1, or null")
    if cfg.schedule.per not in ("epoch", "step"):
        raise UserError(f"schedule.per={cfg.schedule.per} is not one of epoch, step")
    for key in ("warmup_epochs", "warmup_start_lr"):
        if getattr(cfg.schedule, key) < 0:
            raise UserError(f"schedule.{key}={getattr(cfg.schedule, key)} must not be negative")
    if unknown := set(cfg.controls) - set(CONTROLS):
        raise UserError(f"controls={cfg.controls}: {unknown.pop()} is not one of {CONTROLS}")
    if cfg.probe.lr < 0:
        raise UserError(f"probe.lr={cfg.probe.lr} must not be negative")
    resolve_device(cfg.device)
    check_writable(Path(cfg.runs_dir))


def _result_payload(cfg: Config, data: Dataset) -> dict[str, Any]:
    """Everything that changes the encoder of a given seed."""
    values = asdict(cfg)
    payload: dict[str, Any] = {key: values[key] for key in _RESULT_KEYS}
    payload["data"] = data.train_fingerprint
    for key in _VERSIONED:
        payload[key] = {**values[key], "version": _version(values[key])}
    return payload


def _version(node: Mapping[str, Any]) -> int | str | dict[str, Any] | None:
    """The version that a plug-in declares, or the hash of its source if it is not the suite's.

    With plug-ins nested in it, theirs too, by key.
    """
    nested = {key: _version(value) for key, value in nested_nodes(node).items()}
    return {"own": _own_version(node), **nested} if nested else _own_version(node)


def _own_version(node: Mapping[str, Any]) -> int | str | None:
    plugin = target(node)
    try:
        source = Path(inspect.getsourcefile(plugin) or "").resolve()
    except TypeError as error:  # built into the interpreter
        raise UserError(f"_target_ {node['_target_']!r} is no plug-in") from error
    if any(source.is_relative_to(_SUITE / package) for package in _PACKAGES):
        return getattr(plugin, "version", None)
    return hashlib.sha256(source.read_bytes()).hexdigest()


def _hash(payload: Mapping[str, Any]) -> str:
    text = json.dumps(_canonical(payload), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _canonical(value: Any) -> Any:
    """1.0 and 1 are the same setting."""
    if isinstance(value, Mapping):
        return {key: _canonical(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
