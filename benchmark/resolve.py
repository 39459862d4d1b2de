"""From a composed configuration to a typed and checked one, on the machine at hand."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.distributed import is_torchelastic_launched

from benchmark import processes
from benchmark.config import Config
from benchmark.errors import UserError, at_least, at_most
from benchmark.execution import Execution
from benchmark.feed import check_residence
from benchmark.precision import native_precision
from benchmark.trackers import check_wandb

CONTROLS = ("untrained", "supervised")
MOST_THREADS = 1024  # OpenMP ends the process where the system has no more
# Hydra's own choice, where the line makes none, means the same as ours.
LAUNCHERS = {"basic": "local", "local": "local", "slurm": "slurm"}


def resolve_device(name: str) -> torch.device:
    """The device that ``device=auto|cpu|cuda`` means here, in this process.

    Raises:
        UserError: for another name, or cuda where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={name} is not one of auto, cpu, cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device=cuda, but torch finds no CUDA device here; use device=auto or cpu")
    if name == "cpu" or not available:
        return torch.device("cpu")
    # Several processes of a machine take a GPU each, or see only their own if SLURM arranges it.
    number = processes.local_rank() % torch.cuda.device_count()
    return torch.device("cuda", number) if processes.started() > 1 else torch.device("cuda")


def planning_device(name: str, launcher: str) -> torch.device:
    """Where this process builds the parts of a run to check them.

    That is the run's device, unless SLURM sends the run to another machine.

    Raises:
        UserError: as `resolve_device` does.
    """
    elsewhere = launcher == "slurm" and name == "cuda"
    return torch.device("cpu") if elsewhere else resolve_device(name)


def check_writable(folder: Path, key: str = "runs_dir") -> None:
    """Refuse a folder in which nothing can be written, without creating it.

    Args:
        folder: that may not exist yet.
        key: of the configuration, by which the user chose it.

    Raises:
        UserError: naming the folder that is in the way.
    """
    try:
        existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); choose another {key}"
        ) from error


def typed(composed: DictConfig) -> Config:
    """The resolved configuration as a plain object, without Hydra's own node."""
    plain = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    chosen = composed.hydra.runtime.choices["hydra/launcher"]
    if chosen not in LAUNCHERS:
        raise UserError(f"hydra/launcher={chosen} is not one of local, slurm")
    if plain.launcher != "local":
        raise UserError(f"launcher={plain.launcher} is set by hydra/launcher={plain.launcher}")
    plain.launcher = LAUNCHERS[chosen]
    if plain.precision == "auto":  # before what refers to it is resolved
        plain.precision = native_precision(planning_device(plain.device, plain.launcher))
    if plain.processes is None:
        plain.processes = _processes(plain.launcher, plain.slurm)
    # Merging into the schema once more refuses keys that +key=value added at the root.
    cfg = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    assert isinstance(cfg, Config)
    cfg.tasks = {name: _like(name, cfg.tasks) for name in cfg.tasks}
    return cfg


def _processes(launcher: str, slurm: Any) -> int:
    """Processes that each run has: as many as there are now, or as SLURM will start."""
    sent = launcher == "slurm"
    return int(slurm.nodes * slurm.tasks_per_node) if sent else processes.started()


def _like(name: str, tasks: Mapping[str, Any]) -> Any:
    """The node of a task, with everything that it takes over from the task it is ``like``.

    What is like a task that is left out is left out too.
    """
    node = tasks[name]
    if not isinstance(node, dict) or "like" not in node:
        return node
    model = tasks.get(node["like"], {"like": None})
    if not isinstance(model, dict):
        return model
    if "like" in model:
        known = [other for other, n in tasks.items() if isinstance(n, dict) and "like" not in n]
        raise UserError(f"tasks.{name}.like={node['like']} is not one of {', '.join(known)}")
    return _changed(model, {key: value for key, value in node.items() if key != "like"})


def _changed(model: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A node with other values; one nested in it too, unless a whole one takes its place."""
    return {**model} | {
        key: _changed(model[key], value)
        if isinstance(value, Mapping)
        and isinstance(model.get(key), Mapping)
        and "_target_" not in value
        else value
        for key, value in changes.items()
    }


def check_numbers(cfg: Config) -> None:
    """Refuse root keys out of range, and a runs_dir that cannot be written.

    Raises:
        UserError: naming the first.
    """
    at_least(0, seed=cfg.seed, epochs=cfg.epochs, mask_snapshots=cfg.mask_snapshots)
    if not cfg.eval_seeds or len(set(cfg.eval_seeds)) < len(cfg.eval_seeds):
        raise UserError(f"eval_seeds={cfg.eval_seeds} must be a list of different numbers")
    for seed in cfg.eval_seeds:
        at_least(0, eval_seeds=seed)
    at_least(2, batch_size=cfg.batch_size)
    _check_processes(cfg)
    at_least(
        1,
        threads=cfg.threads,
        log_every_steps=cfg.log_every_steps,
    )
    at_most(MOST_THREADS, threads=cfg.threads)
    if not 0 <= cfg.checkpoint_every_seconds < math.inf:
        raise UserError(
            f"checkpoint_every_seconds={cfg.checkpoint_every_seconds:g} must be a number from 0 on"
        )
    if cfg.pflops is not None and not 0 < cfg.pflops < math.inf:
        raise UserError(f"pflops={cfg.pflops:g} must be a number above 0, or null")
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
    Execution(**vars(cfg.trainer)).check(planning_device(cfg.device, cfg.launcher))
    check_residence(cfg.residence)
    check_wandb(enabled=cfg.wandb.enabled, mode=cfg.wandb.mode, project=cfg.wandb.project)
    check_writable(Path(cfg.runs_dir))
    check_writable(Path(cfg.tables_dir), "tables_dir")


def _check_processes(cfg: Config) -> None:
    wanted, there = cfg.processes, _processes(cfg.launcher, cfg.slurm)
    assert wanted is not None
    at_least(1, processes=wanted)
    if cfg.launcher == "slurm" and processes.started() > 1:
        raise UserError(
            f"hydra/launcher=slurm sends runs, and {processes.started()} processes were started to "
            "train one; start one process, and set slurm.nodes and slurm.tasks_per_node"
        )
    if wanted != there and cfg.launcher == "slurm":
        raise UserError(
            f"processes={wanted}, but slurm.nodes={cfg.slurm.nodes} times slurm.tasks_per_node="
            f"{cfg.slurm.tasks_per_node} is {there}; change these, or leave processes out"
        )
    if wanted != there:
        raise UserError(
            f"processes={wanted}, but {there} {'was' if there == 1 else 'were'} started; start "
            f"torchrun --nproc-per-node={wanted} benchmark/run.py ..., or leave processes out"
        )
    if there == 1:
        return
    here, gpus = processes.started_here(), torch.cuda.device_count()
    # SLURM may show each task a GPU of its own; torchrun's processes see the same ones.
    on_gpus = planning_device(cfg.device, cfg.launcher).type == "cuda"
    if on_gpus and is_torchelastic_launched() and here > gpus:
        raise UserError(
            f"device={cfg.device}: torchrun started {here} processes, and torch finds {gpus} CUDA "
            f"devices here; start one for each, or use device=cpu"
        )
    if cfg.batch_size % there or cfg.batch_size < 2 * there:
        raise UserError(
            f"batch_size={cfg.batch_size} cannot be shared out among {there} processes; choose a "
            f"multiple of {there} from {2 * there} on"
        )
    if cfg.jobs not in (None, 1):
        raise UserError(
            f"jobs={cfg.jobs} must be 1 or null with {there} processes, which share every run"
        )


def task_names(cfg: Config) -> list[str]:
    """The tasks to run, in the order of ``tasks``; those switched off with null are none.

    Raises:
        UserError: for a name that ``tasks`` does not have.
    """
    asked = [cfg.task] if isinstance(cfg.task, str) else cfg.task
    known = [name for name, node in cfg.tasks.items() if node is not None]
    if asked is None:
        return known
    if not isinstance(asked, list) or (unknown := [t for t in asked if t not in [*cfg.tasks]]):
        wrong = asked if not isinstance(asked, list) else unknown[0]
        raise UserError(
            f"task={wrong} is not one of {', '.join(cfg.tasks)}; several are written as "
            "'task=[linear,knn]'"
        )
    return [name for name in known if name in asked]
