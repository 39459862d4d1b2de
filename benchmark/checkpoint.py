"""Everything that a run needs to go on as if it had never stopped, and its product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from benchmark.files import write_atomically
from benchmark.trainer import Trainer

_KEPT = 2


def _parts(trainer: Trainer) -> dict[str, Any]:
    """What of a trainer has a state. Random streams have none: they are counters."""
    parts: dict[str, Any] = {
        "encoder": trainer.encoder,
        "objective": trainer.objective,
        "method": trainer.method,
        "encoder_optimiser": trainer.encoder_optimiser,
    }
    if trainer.mask_optimiser is not None:
        parts["mask_optimiser"] = trainer.mask_optimiser
    if trainer.probe is not None:
        parts["probe"] = trainer.probe
        parts["probe_optimiser"] = trainer.probe.optimiser
    return parts


def save_checkpoint(
    folder: Path, owner: str, trainer: Trainer, epoch: int, position: dict[str, Any]
) -> None:
    """Write the state after ``epoch`` epochs and keep the last two files.

    Args:
        folder: of the checkpoints.
        owner: names configuration and seed; `load_checkpoint` asks for the same.
        trainer: whose state is saved.
        epoch: number of finished epochs.
        position: anything else that must go on from here.
    """
    state = {name: part.state_dict() for name, part in _parts(trainer).items()}
    content = {"owner": owner, "epoch": epoch, "position": position, "state": state}
    write_atomically(folder / f"epoch{epoch:05d}.pt", lambda part: torch.save(content, part))
    for old in _files(folder)[:-_KEPT]:
        old.unlink()


def epochs_done(folder: Path) -> int:
    """Epochs that the newest checkpoint has behind it, by its name; 0 if there is none."""
    return max((int(file.stem.removeprefix("epoch")) for file in _files(folder)), default=0)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch*.pt"))


def load_checkpoint(folder: Path, owner: str, trainer: Trainer) -> tuple[int, dict[str, Any]]:
    """Put the newest state back; returns epochs done and position, ``(0, {})`` if there is none.

    Raises:
        ValueError: naming the file, if it is broken or belongs to another run.
    """
    files = _files(folder)
    if not files:
        return 0, {}
    try:
        content = torch.load(files[-1], map_location="cpu", weights_only=True)
        if content["owner"] != owner:
            raise ValueError(f"it belongs to {content['owner']}, not to {owner}")
        for name, part in _parts(trainer).items():
            # The probe may be switched on at any time; it changes nothing but its own accuracy.
            if name in content["state"] or not name.startswith("probe"):
                part.load_state_dict(content["state"][name])
    except Exception as error:
        raise ValueError(
            f"{files[-1]} cannot be used ({error}); delete it to go on without it"
        ) from error
    return int(content["epoch"]), dict(content["position"])


def save_encoder(path: Path, encoder: nn.Module) -> None:
    """Write the encoder's weights under torchvision's names."""
    state = {k: v.cpu().contiguous() for k, v in encoder.state_dict().items()}
    write_atomically(path, lambda part: save_file(state, part))


def load_encoder(path: Path, encoder: nn.Module) -> None:
    """Read weights into an encoder.

    Raises:
        ValueError: naming the file, if it is broken or does not fit.
    """
    try:
        encoder.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} cannot be loaded ({error}); delete it to train again") from error
