"""A failure in words, and its trace in a file for whoever looks closer."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from benchmark.files import write_text
from benchmark.lock import LockLostError


class NotPretrainedError(RuntimeError):
    """An evaluation found no finished pretraining."""


def note_failure(error: Exception, file: Path) -> str:
    """Keep the trace of an error in a file; returns what to tell.

    The last line of the file is the reason. A folder that is not this process' to write in, or that
    tells already what went wrong, gets no such file.
    """
    reason = _reason(error)
    if isinstance(error, LockLostError | NotPretrainedError):
        return f"FAILED: {reason}"
    trace = "".join(traceback.format_exception(error)).rstrip()
    try:
        write_text(file, f"{trace}\n\n{reason}\n")
    except OSError as full:  # the disk, as a rule; then the trace is all there is
        return f"FAILED: {reason}; {file} could not be written ({full.strerror}):\n{trace}"
    return f"FAILED: {reason} (see {file})"


def _reason(error: Exception) -> str:
    """What went wrong, with the remedy where there is one."""
    text = str(error) or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"the device's memory is full ({text.splitlines()[0]}); choose update=low_memory, "
            "trainer.branches=loop or a smaller batch_size"
        )
    return text
