"""The typed root of the configuration, and Hydra's errors told in one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import (
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import MISSING, DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from benchmark.errors import UserError

CONFIG_MODULE = "benchmark.conf"
HYDRA_VERSION_BASE = "1.3"


@dataclass
class OptimiserConfig:
    """One player's optimiser; see `benchmark.optim`."""

    name: str = MISSING
    lr: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING


@dataclass
class MaskNetConfig:
    """Net of the learned methods; see `methods.mask_net`."""

    width: int = MISSING
    norm: str = MISSING
    num_masks: int = MISSING


@dataclass
class ScheduleConfig:
    """Learning-rate schedule of both players; see `benchmark.schedule`."""

    per: str = MISSING
    warmup_epochs: float = MISSING
    warmup_start_lr: float = MISSING


@dataclass
class TurnsConfig:
    """Who moves when; see `benchmark.trainer.Turns`."""

    encoder_steps: int = MISSING
    mask_steps: int = MISSING
    first: str = MISSING
    encoder_mode: str = MISSING


@dataclass
class TrainerConfig:
    """How a step is executed; see `benchmark.execution.Execution`."""

    branches: str = MISSING
    compile: str = MISSING
    profile: bool = MISSING


@dataclass
class NormalisationConfig:
    """Mean and standard deviation of the pretraining data's colours; null for its own."""

    mean: list[float] | None = None
    std: list[float] | None = None


@dataclass
class ProbeConfig:
    """Online linear probe."""

    enabled: bool = MISSING
    lr: float = MISSING


@dataclass
class WandbConfig:
    """Weights & Biases; see `benchmark.trackers`."""

    enabled: bool = MISSING
    project: str = MISSING
    entity: str | None = None
    mode: str = MISSING


@dataclass
class SlurmConfig:
    """What the jobs of a sweep ask SLURM for; see `slurm.settings`."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    nodes: int = MISSING
    tasks_per_node: int = MISSING
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    time: int | str = MISSING
    signal_delay_s: int = MISSING
    max_timeouts: int = MISSING
    array_parallelism: int = MISSING
    modules: list[str] = MISSING
    setup: list[str] = MISSING
    container: str | None = None
    python: str | None = None
    mail: str | None = None
    mail_type: str = MISSING
    additional: dict[str, Any] = MISSING
    wait: bool = MISSING


@dataclass
class Config:
    """Root of the configuration; the values are in ``conf/config.yaml`` and the presets."""

    seed: int = MISSING
    method: dict[str, Any] = MISSING
    objective: dict[str, Any] = MISSING
    encoder: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    augment: dict[str, Any] = MISSING
    normalisation: NormalisationConfig = field(default_factory=NormalisationConfig)
    fill: str = MISSING
    fill_blur_sigma: float = MISSING
    mask_both_views: bool = MISSING
    unmasked_pair: bool = MISSING
    turns: TurnsConfig = field(default_factory=TurnsConfig)
    update: str = MISSING
    mask_net: MaskNetConfig = field(default_factory=MaskNetConfig)
    encoder_optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    mask_optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    epochs: int = MISSING
    pflops: float | None = None
    batch_size: int = MISSING
    drop_last: bool = MISSING
    batchnorm: str = MISSING
    processes: int | None = None
    sync_batchnorm: bool = MISSING
    precision: str = MISSING
    threads: int = MISSING
    control: str | None = None
    checkpoint: str | None = None
    format: str | None = None
    task: Any = None  # a name, a list of names or null
    tasks: dict[str, Any] = field(default_factory=dict)
    eval_seeds: list[int] = MISSING
    controls: list[str] = MISSING
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    device: str = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    residence: str = MISSING
    dry_run: bool = MISSING
    jobs: int | None = None
    launcher: str = "local"  # by hydra/launcher
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    runs_dir: str = MISSING
    tables_dir: str = MISSING
    data_dir: str = MISSING
    log_every_steps: int = MISSING
    log_limits: bool = MISSING
    checkpoint_every_seconds: float = MISSING
    mask_snapshots: int = MISSING
    figures: bool = MISSING
    tensorboard: bool = MISSING
    wandb: WandbConfig = field(default_factory=WandbConfig)


ConfigStore.instance().store(name="schema", node=Config)


GROUPS = ("method", "objective", "encoder", "data", "preset", "evaluation", "experiment")


@contextmanager
def one_sentence(overrides: Sequence[str] = ()) -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise for a user's mistake into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except MissingConfigException as error:
        raise UserError(_unknown_choice(error)) from error
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} has no value; set {error.full_key}=...") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_first_cause(error, overrides)) from error


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "?").rpartition("/")
    known = ", ".join(sorted(o for o in error.options or [] if o != "__init__"))
    return f"{group}={choice} is unknown; choose one of {known}"


def _first_cause(error: Exception, overrides: Sequence[str]) -> str:
    """The line of Hydra's message that names the mistake."""
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read; write KEY=VALUE, with quotes as in "
            "'KEY=\"a, b\"' around a value with other signs than letters and digits"
        )
    cause: BaseException = error
    while cause.__cause__ is not None and str(cause.__cause__):
        cause = cause.__cause__
    if dropped := re.search(r"resolving interpolation '\$\{preset\}_\$\{(\w+)\}", str(cause)):
        return f"{dropped[1]} names no option; leave ~{dropped[1]} out or set {dropped[1]}=..."
    if group := re.search(r"Could not override '(data@\S+)'", str(cause)):
        return f"{group[1]} is new: write +{group[1]}=..."
    full_key = re.search(r"full_key: (\S+)", str(cause))
    if full_key and re.search(r"Key '[^']+' (is )?not in", str(cause)):
        return f"unknown key {full_key[1]!r}{_nearest(full_key[1], overrides)}"
    first_line = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
    first_line = first_line.replace("DictConfig", "a mapping").replace("ListConfig", "a list")
    return f"{full_key[1]}: {first_line}" if full_key else first_line


def _nearest(key: str, overrides: Sequence[str]) -> str:
    """A suggestion among the keys of the options chosen."""
    choices = [o for o in overrides if o.split("=")[0] in GROUPS or o.startswith("hydra.")]
    with hydra.initialize_config_module(CONFIG_MODULE, version_base=HYDRA_VERSION_BASE):
        known = _keys(hydra.compose("config", choices))
    task = ".".join(key.split(".")[:2])
    if f"{task}.like" in known:
        return f"; {task} has the keys of the task that it is like: write +{key}=... to change one"
    matches = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else "; --cfg job shows all keys"


def _keys(node: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for name in map(str, node):
        keys.append(prefix + name)
        child = node._get_node(name)
        if isinstance(child, DictConfig):
            keys += _keys(child, f"{prefix}{name}.")
    return keys


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose one configuration; its ``hydra`` node tells which options were chosen.

    Raises:
        UserError: for an unknown option or key, or a value of the wrong type.
    """
    with one_sentence(overrides):
        with hydra.initialize_config_module(CONFIG_MODULE, version_base=HYDRA_VERSION_BASE):
            return hydra.compose("config", list(overrides), return_hydra_config=True)
