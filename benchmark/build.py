"""From configuration nodes to objects."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from benchmark.batchnorm import RULES
from benchmark.config import Config, NormalisationConfig
from benchmark.contracts import Dataset, Encoder, MaskingMethod, Objective, Split, Task, UserError
from benchmark.hiding import Fill
from benchmark.objectives import Supervised
from benchmark.optim import build_optimiser
from benchmark.precision import autocast
from benchmark.pretrain import Pretraining, Schedule
from benchmark.probe import OnlineProbe
from benchmark.streams import seeded
from benchmark.trainer import Trainer, Turns

Node = Mapping[str, Any]
Kind = TypeVar("Kind")


def target(node: Any) -> Any:
    """The class or function that a node names.

    Raises:
        UserError: if it cannot be imported.
    """
    path = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(path, str):
        raise UserError(f"{node!r} names no _target_; choose one of the group's options")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_ {path!r} cannot be imported: {error}") from error
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise UserError(f"_target_ {path!r} is no class or function of Python")
    return found


def instantiate(node: Node, **runtime: Any) -> Any:
    """Call a node's target with its other keys and with what is known only at run time.

    Keys that are nodes themselves are built first, and know nothing of the run time.

    Raises:
        UserError: for a key that the target does not take, lacks, or of another type.
    """
    plugin = target(node)
    arguments = {k: v for k, v in node.items() if k != "_target_"}
    checked = _check_arguments(node["_target_"], plugin, arguments, runtime)
    try:
        return plugin(**checked, **runtime)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{node['_target_']} refuses {arguments}: {reason}") from error


def nested_nodes(node: Node) -> dict[str, Node]:
    """The keys of a node that are nodes themselves."""
    return {k: v for k, v in node.items() if isinstance(v, Mapping) and "_target_" in v}


def _build_nested(arguments: Node) -> dict[str, Any]:
    built = dict(arguments)
    for key, node in nested_nodes(arguments).items():
        try:
            built[key] = instantiate(node)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
    return built


def _check_arguments(
    name: str, plugin: Callable[..., Any], arguments: Node, runtime: Node
) -> dict[str, Any]:
    """The arguments by the types of the plugin's signature.

    Nodes among them are built, and whole numbers become floats.
    """
    signature = inspect.signature(plugin)
    try:
        signature.bind(**arguments, **runtime)
    except TypeError as error:
        raise UserError(f"{name}: {error}; it takes {', '.join(signature.parameters)}") from error
    function = plugin.__init__ if inspect.isclass(plugin) else plugin
    hints = get_type_hints(function)
    built = _build_nested(arguments)
    for key, value in built.items():
        if message := _mismatch(value, hints.get(key)):
            raise UserError(f"{name}: {key}={arguments[key]!r} must be {message}")
    # A whole number for a float, or for a float or None, becomes one.
    return {
        key: float(value) if type(value) is int and _takes_float(hints.get(key)) else value
        for key, value in built.items()
    }


def _takes_float(wanted: Any) -> bool:
    union = get_origin(wanted) in (Union, UnionType)
    return wanted is float or (union and float in get_args(wanted))


def _mismatch(value: Any, wanted: Any) -> str | None:
    """What a scalar or a part should have been; None if it is that, or of a type not checked."""
    if get_origin(wanted) in (Union, UnionType):  # int | None, say
        problems = [_mismatch(value, part) for part in get_args(wanted)]
        return problems[0] if value is not None and all(problems) else None
    if wanted is NoneType:
        return "null"
    if get_origin(wanted) is Literal:
        choices = get_args(wanted)
        return None if value in choices else f"one of {', '.join(map(str, choices))}"
    if inspect.isclass(wanted) and issubclass(wanted, nn.Module):
        return None if isinstance(value, wanted) else f"a node that builds a {wanted.__name__}"
    if wanted not in (int, float, str, bool):
        return None
    if type(value) is float and not math.isfinite(value):
        return "a finite number"
    # A whole number will do for a float, but True is no number.
    fits = type(value) is wanted or (wanted is float and type(value) is int)
    return None if fits else f"of type {wanted.__name__}"


def load_data(node: Node) -> Dataset:
    """Load a data set."""
    dataset: Dataset = instantiate(node)
    return dataset


def pretraining_data(cfg: Config) -> Dataset:
    """The data of pretraining, and of the tasks on it, with the normalisation asked for.

    Raises:
        UserError: for a normalisation that is none.
    """
    return normalised_as(load_data(cfg.data), cfg.normalisation)


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
    autocast(cfg.precision, device)  # refuses an unknown precision
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
    return Trainer(
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
    )


def build_pretraining(cfg: Config, data: Dataset, device: torch.device) -> Pretraining:
    """The loop around the trainer.

    Raises:
        UserError: for values that a constructor refuses.
    """
    return Pretraining(
        build_trainer(cfg, data, device),
        data,
        pretraining_split(cfg, data),
        instantiate(cfg.augment),
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
        checkpoint_every_epochs=cfg.checkpoint_every_epochs,
    )
