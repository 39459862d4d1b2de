"""Where a result comes from: code, versions, machine, command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmark.files import read_json, write_json, write_text
from benchmark.processes import started
from benchmark.runs import Run, identity

if TYPE_CHECKING:
    import torch

    from benchmark.config import Config

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "pillow", "hydra-core")


@cache
def git_state() -> tuple[str | None, bool]:
    """Commit of the suite's checkout, None outside one; whether tracked files have changes."""
    here = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:  # no git on this machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not (here / ".git").exists():  # installed: do not report a repository around it
        return None, False
    commit = git("rev-parse", "HEAD")
    return commit, bool(commit and git("status", "--porcelain", "--untracked-files=no"))


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
