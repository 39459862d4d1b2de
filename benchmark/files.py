"""Whole files or none: atomic writes and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_HOST = socket.gethostname().replace(".", "-")
# As `write_atomically` names it; torch's profiler writes it under a name of its own first.
_PART = re.compile(r"\..+\.([^.]+)\.(\d+)\.part(?:\.tmp)?", re.DOTALL)
_WRITING_SECONDS = 60  # that a file takes at most, on another machine


def write_atomically(
    path: Path,
    write: Callable[[Path], object],
    rename: Callable[[Path], Path] | None = None,
) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in place in one step.

    A reader sees the old file or the whole new one, also after a crash or on a full disk.

    Args:
        path: of the file.
        write: is given the path of a temporary file.
        rename: gives the final path, if that depends on what was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(rename(part) if rename else path)
    except OSError as error:
        if error.filename is None:  # as where a disk is full
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left half-written in a folder and below it."""
    for part in folder.rglob(".*.part*"):
        named = _PART.fullmatch(part.name)
        if named and not _is_being_written(part, host=named[1], pid=named[2]):
            part.unlink(missing_ok=True)


def _is_being_written(part: Path, *, host: str, pid: str) -> bool:
    if host == _HOST:
        return Path(f"/proc/{pid}").exists() and int(pid) != os.getpid()
    try:
        return time.time() - part.stat().st_mtime < _WRITING_SECONDS
    except FileNotFoundError:
        return False


@contextmanager
def nothing_new(folder: Path) -> Iterator[None]:
    """After a failure, remove a folder and those above it that were not there and are empty."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in new:
            with suppress(OSError):  # not empty, or not made
                path.rmdir()
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write what is in memory atomically."""
    write_atomically(path, lambda part: part.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 atomically, the same bytes on every system."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically; NaN and infinity are refused."""
    write_text(path, json_text(content))


def json_text(content: dict[str, Any]) -> str:
    """What `write_json` writes."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: naming the file, if it holds anything else, NaN or infinity for instance.
    """
    try:
        content = parsed_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is broken ({error}); delete it to have it made again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; delete it to have it made again")
    return content


def parsed_json(text: str) -> Any:
    """Any JSON value, whoever wrote it.

    Raises:
        ValueError: if it is none, which NaN and infinity are not, or nested too deeply.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
