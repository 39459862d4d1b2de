"""Everything that a run needs to go on as if it had never stopped, and its product."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from benchmark.files import read_json, sha256_of, write_atomically, write_bytes
from benchmark.runs import Run
from benchmark.trainer import Trainer
from benchmark.type_check import misfit

_KEPT = 2


class Position(TypedDict, total=False):
    """How far the notes of a training are; empty at its start."""

    metrics_bytes: int
    seconds: float


class _Content(TypedDict):
    owner: str
    step: int
    position: Position
    state: dict[str, Any]


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
    folder: Path, owner: str, trainer: Trainer, step: int, position: Position
) -> None:
    """Write the state after ``step`` steps and keep the last two files.

    Args:
        folder: of the checkpoints.
        owner: names configuration and seed; `load_checkpoint` asks for the same.
        trainer: whose state is saved.
        step: number of finished steps.
        position: anything else that must go on from here.
    """
    state = {name: part.state_dict() for name, part in _parts(trainer).items()}
    content: _Content = {"owner": owner, "step": step, "position": position, "state": state}
    file = folder / f"step{step:08d}.pt"
    write_atomically(
        file,
        lambda part: _save(content, part),
        # The name tells the checksum, so that both are there at once.
        lambda part: file.with_stem(f"{file.stem}-{_checksum(part)}"),
    )
    for old in _files(folder)[:-_KEPT]:
        old.unlink()


def _save(content: _Content, path: Path) -> None:
    buffer = io.BytesIO()  # as torch has no words for a full disk
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


def steps_done(folder: Path) -> int:
    """Steps that the newest checkpoint has behind it, by its name; 0 if there is none."""
    files = _files(folder)
    return int(files[-1].name[4:12]) if files else 0


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("step*.pt"))


def _checksum(file: Path) -> str:
    return sha256_of(file)[:16]


def newest_checkpoint(folder: Path, warn: Callable[[str], object]) -> Path | None:
    """The newest whole checkpoint, None if there is none.

    One that is truncated or altered is set aside, under a name of its own, and ``warn`` told.
    """
    for file in reversed(_files(folder)):
        if file.stem.rpartition("-")[2] == _checksum(file):
            return file
        aside = file.rename(file.with_suffix(".broken"))
        warn(f"a checkpoint is broken and was set aside as {aside}; the one before it is used")
    return None


def load_checkpoint(file: Path, owner: str, trainer: Trainer) -> tuple[int, Position]:
    """Put a state back; returns steps done and position.

    Raises:
        ValueError: naming the file, if it cannot be read or belongs to another run.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        if fault := misfit(content, _Content, "it"):
            raise ValueError(fault)
        if content["owner"] != owner:
            raise ValueError(f"it belongs to {content['owner']}, not to {owner}")
        for name, part in _parts(trainer).items():
            # The probe may be switched on at any time; it changes nothing but its own accuracy.
            if name in content["state"] or not name.startswith("probe"):
                part.load_state_dict(content["state"][name])
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{file} cannot be used ({reason}); delete it to go on without it"
        ) from error
    return content["step"], content["position"]


def owner_of(run: Run) -> str:
    """What the checkpoints and the record of a run's pretraining must belong to."""
    return f"{run.hash8}/seed{run.seed}"


def finished_pretraining(run: Run) -> str | None:
    """Checksum of the encoder, if pretraining is complete and the encoder is its product.

    Raises:
        ValueError: naming the file, if the record is broken or of another run or encoder.
    """
    record_file, encoder_file = run.pretraining_file, run.encoder_file
    if not record_file.exists() or not encoder_file.exists():
        return None
    record = read_json(record_file)
    if record.get("owner") != owner_of(run):
        raise ValueError(f"{record_file} belongs to another run; delete it to train again")
    if sha256_of(encoder_file) != record.get("encoder_sha256"):
        raise ValueError(
            f"{encoder_file} is not the encoder that {record_file.name} beside it describes; "
            "delete it to train again"
        )
    return str(record["encoder_sha256"])


def save_encoder(path: Path, encoder: nn.Module) -> None:
    """Write the encoder's weights under torchvision's names."""
    state = {k: v.cpu().contiguous() for k, v in encoder.state_dict().items()}
    # Its own `save_file` writes under another name first, which a kill would leave there.
    write_bytes(path, save(state))


def load_encoder(path: Path, encoder: nn.Module) -> None:
    """Read weights into an encoder.

    Raises:
        ValueError: naming the file, if it is broken or does not fit.
    """
    try:
        encoder.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} cannot be loaded ({error}); delete it to train again") from error
