"""metrics.jsonl: what a run notes every few steps, and the check that its losses are finite."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from benchmark.processes import averaged
from benchmark.trainer import Terms


class NonFiniteLossError(RuntimeError):
    """A loss became infinite or not a number."""


class MetricsLog:
    """Appends lines to a file and can go back to where a checkpoint was made."""

    def __init__(self, path: Path, offset: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: what is left in a buffer would be written when the folder is another one's.
        self._file = path.open("a+b", buffering=0)
        if os.fstat(self._file.fileno()).st_size < offset:
            raise ValueError(
                f"{path} is shorter than its checkpoint says; delete checkpoints/ beside it "
                "to train again"
            )
        self._file.truncate(offset)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        self._file.write(json.dumps(line).encode() + b"\n")

    def flush(self) -> int:
        """Make everything durable; returns the file's length."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StepBuffer:
    """Collects the terms of steps on the device and reads them all at once."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, Terms]] = []

    def add(self, step: int, terms: Terms) -> None:
        """Keep a step's terms."""
        self._steps.append((step, terms))

    def drain(self) -> list[tuple[int, dict[str, Any]]]:
        """Terms of the steps since the last call, each step's own, as numbers and lists.

        They are means over the processes, and so of the whole batch.

        Raises:
            NonFiniteLossError: naming the first step and term that is not finite.
        """
        if not self._steps:
            return []
        flat = torch.cat([value.flatten().float() for _, t in self._steps for value in t.values()])
        values = iter(averaged(flat).tolist())
        drained = []
        for step, terms in self._steps:
            line: dict[str, Any] = {}
            for name, term in terms.items():
                numbers = [next(values) for _ in range(term.numel())]
                if not all(map(math.isfinite, numbers)):
                    shown = ", ".join(map(str, numbers))
                    raise NonFiniteLossError(f"step {step}: {name} is {shown}; training stopped")
                line[name] = numbers if term.ndim else numbers[0]
            drained.append((step, line))
        self._steps.clear()
        return drained
