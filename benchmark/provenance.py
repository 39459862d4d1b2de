"""Where a result comes from: code, versions, machine, command."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import yaml

from benchmark.checkout import git_state
from benchmark.files import read_json, write_json, write_text
from benchmark.processes import started
from benchmark.runs import Run, identity

if TYPE_CHECKING:
    import torch

    from benchmark.config import Config

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "pillow", "hydra-core")


def collect(device: str) -> dict[str, Any]:
    """What a run notes about its surroundings before its first step."""
    commit, dirty = git_state()
    return {
        "commit": commit,
        "dirty": dirty,
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
        "machine": {
            "host": platform.node(),
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "device": device,
            "processes": started(),
        },
    }


def note_attempt(run: Run, cfg: Config, device: torch.device) -> None:
    """Write the configuration, and add this attempt's surroundings to those of earlier ones.

    Raises:
        ValueError: naming the file, if that of earlier ones is broken.
    """
    config = yaml.safe_dump({"run": identity(run), **asdict(cfg)}, sort_keys=False)
    write_text(run.folder / "config.yaml", config)
    file = run.folder / "provenance.json"
    attempts = read_json(file).get("attempts") if file.exists() else []
    if not isinstance(attempts, list):
        raise ValueError(f"{file} has no list of attempts; delete it to have it made again")
    write_json(file, {"attempts": [*attempts, collect(str(device))]})
