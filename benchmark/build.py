"""The parts of a run from its configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from benchmark.batchnorm import RULES
from benchmark.config import Config, NormalisationConfig
from benchmark.contracts import Encoder, MaskingMethod, Objective
from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError
from benchmark.execution import Execution, compile_nets
from benchmark.hiding import Fill
from benchmark.instantiate import Node, instantiate, target
from benchmark.objectives import Supervised
from benchmark.optim import build_optimiser
from benchmark.precision import check_precision
from benchmark.pretrain import Pretraining
from benchmark.probe import OnlineProbe
from benchmark.processes import count, rank
from benchmark.runs import Run
from benchmark.schedule import Schedule
from benchmark.streams import seeded
from benchmark.task import Task
from benchmark.trackers import TensorBoard, Tracker, Trackers, WeightsAndBiases
from benchmark.trainer import Trainer
from benchmark.turns import Turns

Kind = TypeVar("Kind")


def load_data(node: Node) -> Dataset:
    """Load a data set."""
    dataset: Dataset = instantiate(node)
    return dataset


def pretraining_split(cfg: Config, data: Dataset) -> Split:
    """What a run trains on: everything, but the supervised control what has a label."""
    return data.train if cfg.control == "supervised" else data.pretraining


def normalised_as(data: Dataset, wanted: NormalisationConfig) -> Dataset:
    """The data set with another mean or standard deviation than its own, where one is given."""
    changes: dict[str, Any] = {}
    for key, lowest in (("mean", 0.0), ("std", 1e-3)):
        value = getattr(wanted, key)
        if value is None:
            continue
        if len(value) != 3 or not all(lowest <= v <= 1 for v in value):
            raise UserError(
                f"normalisation.{key}={value} must be null or three numbers from {lowest:g} to 1"
            )
        changes[key] = tuple(value)
    return replace(data, **changes)


def build_task(node: Any) -> Task:
    """Build a task; its ``data`` is the caller's to load."""
    target(node)  # refuses what is no node
    task: Task = instantiate({k: v for k, v in node.items() if k != "data"})
    return _checked_kind(task, Task)


def _checked_kind(built: Kind, kind: type) -> Kind:
    if not isinstance(built, kind):
        raise UserError(f"{type(built).__name__} is no {kind.__name__}; see benchmark.contracts")
    return built


def build_encoder(cfg: Config) -> Encoder:
    """The encoder as the seed initialises it, the same for every method and objective."""
    with seeded(cfg.seed, "init/encoder"):
        encoder: Encoder = instantiate(cfg.encoder)
    return _checked_kind(encoder, Encoder)


def build_trainer(cfg: Config, data: Dataset, device: torch.device) -> Trainer:
    """Build both players with their optimisers.

    Raises:
        UserError: for values that their constructors refuse.
    """
    if cfg.batchnorm not in RULES:
        raise UserError(f"batchnorm={cfg.batchnorm} is not one of {', '.join(RULES)}")
    check_precision(cfg.precision)
    encoder = build_encoder(cfg)
    feature_dim = encoder.feature_dim
    num_classes = len(data.class_names)
    with seeded(cfg.seed, "init/objective"):
        objective: Objective = (
            Supervised(encoder, feature_dim=feature_dim, num_classes=num_classes)
            if cfg.control == "supervised"
            else _checked_kind(
                instantiate(cfg.objective, encoder=encoder, feature_dim=feature_dim), Objective
            )
        )
    with seeded(cfg.seed, "init/method"):
        method = _checked_kind(instantiate(cfg.method), MaskingMethod)
    splits = [split for split in (data.train, data.test) if split is not None]
    if "segments" in method.needs and any(split.segments is None for split in splits):
        raise UserError(
            f"{type(method).__name__} needs the objects of each image, and {data.name} has none; "
            "use data=scenes or another method"
        )
    probe = None
    if cfg.probe.enabled and num_classes:
        with seeded(cfg.seed, "init/probe"):
            probe = OnlineProbe(feature_dim, num_classes, cfg.probe.lr).to(device)
    nets: tuple[nn.Module, ...] = (encoder, objective, method)
    for net in nets:
        net.to(device).to(memory_format=torch.channels_last)
    execution = _execution(cfg, device)
    objective.at_once = execution.branches == "batch"
    trainer = Trainer(
        encoder=encoder,
        objective=objective,
        method=method,
        probe=probe,
        encoder_optimiser=build_optimiser((encoder, objective), **vars(cfg.encoder_optimiser)),
        mask_optimiser=(
            build_optimiser((method,), **vars(cfg.mask_optimiser)) if method.adversarial else None
        ),
        batchnorm=cfg.batchnorm,
        precision=cfg.precision,
        turns=Turns(**vars(cfg.turns)),
        fill=Fill(cfg.fill, cfg.fill_blur_sigma),
        mask_both_views=cfg.mask_both_views,
        unmasked_pair=cfg.unmasked_pair,
        update=cfg.update,
        sync_batchnorm=cfg.sync_batchnorm and count() > 1,
        cuda_graphs=execution.compile == "reduce-overhead",
    )
    # After the trainer has let BatchNorm record.
    costly = (encoder, *objective.costly_nets(), *method.costly_nets())
    compile_nets(costly, execution.compile)
    return trainer


def _execution(cfg: Config, device: torch.device) -> Execution:
    return Execution(**vars(cfg.trainer)).on(device)


def build_pretraining(cfg: Config, data: Dataset, device: torch.device) -> Pretraining:
    """The loop around the trainer.

    Raises:
        UserError: for values that a constructor refuses.
    """
    augment = instantiate(cfg.augment)
    if _execution(cfg, device).compile != "off":
        augment.compile()
    return Pretraining(
        build_trainer(cfg, data, device),
        data,
        pretraining_split(cfg, data),
        augment,
        seed=cfg.seed,
        epochs=cfg.epochs,
        batch_size=cfg.batch_size,
        base_rates=(cfg.encoder_optimiser.lr, cfg.mask_optimiser.lr),
        schedule=Schedule(**vars(cfg.schedule)),
        device=device,
        residence=cfg.residence,
        drop_last=cfg.drop_last,
        log_every_steps=cfg.log_every_steps,
        log_limits=cfg.log_limits,
        checkpoint_every_seconds=cfg.checkpoint_every_seconds,
        cache=Path(cfg.runs_dir) / ".cache",
        profile=cfg.trainer.profile,
    )


def build_trackers(cfg: Config, run: Run) -> Trackers:
    """Who follows a training, which the first of several processes tells."""
    makers: list[Callable[[int], Tracker]] = []
    if cfg.tensorboard:
        makers.append(partial(TensorBoard, run.folder / "tensorboard"))
    if cfg.wandb.enabled:
        makers.append(
            partial(
                WeightsAndBiases,
                run.folder,
                project=cfg.wandb.project,
                entity=cfg.wandb.entity,
                mode=cfg.wandb.mode,
                identity=f"{run.hash8}-seed{run.seed}",
                name=run.name,
                config=asdict(cfg),
            )
        )
    return Trackers(makers if rank() == 0 else ())
