"""What names a run folder: a hash of everything that changes its results, and of nothing else."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark.config import Config
from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.instantiate import nested_nodes, target

_SUITE = Path(__file__).resolve().parents[1]
# Keys of the configuration that change results; data enters by its fingerprint, not its path.
_RESULT_KEYS = (
    "method", "objective", "encoder", "augment", "normalisation", "fill", "fill_blur_sigma",
    "mask_both_views", "unmasked_pair", "turns", "encoder_optimiser", "mask_optimiser",
    "schedule", "epochs", "batch_size", "drop_last", "batchnorm", "precision", "threads", "control",
)  # fmt: skip
_VERSIONED = ("method", "objective", "encoder", "augment")
_PACKAGES = ("benchmark", "methods", "tasks")


def result_payload(cfg: Config, data: Dataset) -> dict[str, Any]:
    """Everything that changes the encoder of a given seed."""
    values = asdict(cfg)
    payload: dict[str, Any] = {key: values[key] for key in _RESULT_KEYS}
    if cfg.update != "alternating":  # so that hashes of the ordinary case stay as they were
        payload["update"] = cfg.update
    if cfg.processes not in (None, 1):
        payload |= {"processes": cfg.processes, "sync_batchnorm": cfg.sync_batchnorm}
    # The supervised control learns from the labelled split, of which another one for pretraining
    # says nothing.
    hidden = cfg.control == "supervised" and data.pretrain is not None
    payload["data"] = data.fingerprint if hidden else data.train_fingerprint
    for key in _VERSIONED:
        payload[key] = {**values[key], "version": version_of(values[key])}
    return payload


def protocol_id(node: Mapping[str, Any]) -> str:
    """Names what a task does: its class, its version, and a hash of these and all its settings.

    The data set is no part of it.
    """
    settings = {key: value for key, value in node.items() if key != "data"}
    name = str(node["_target_"]).rpartition(".")[2]
    hash8 = short_hash({"task": settings, "version": version_of(settings)})
    return f"{name}-{_own_version(node)}-{hash8}"


def version_of(node: Mapping[str, Any]) -> int | str | dict[str, Any] | None:
    """The version that a plug-in declares, or the hash of its source if it is not the suite's.

    With plug-ins nested in it, theirs too, by key.
    """
    nested = {key: version_of(value) for key, value in nested_nodes(node).items()}
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


def short_hash(payload: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits; the same for equal settings, whole numbers being floats too."""
    text = json.dumps(_canonical(payload), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _canonical(value: Any) -> Any:
    """1.0 and 1 are the same setting."""
    if isinstance(value, Mapping):
        return {key: _canonical(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
