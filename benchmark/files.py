"""Whole files or none: atomic writes, checksums, and one writer per run folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

_LOCK = ".lock"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in place in one step.

    A reader sees the old file or the whole new one, also after a crash or on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 atomically, the same bytes on every system."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: naming the file, if it holds anything else.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is broken ({error}); delete it to have it made again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; delete it to have it made again")
    return content


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def exclusive(folder: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold a folder for one process; a second one waits and then finds the work done.

    The lock is the kernel's, so it goes with the process that holds it, however that ends. What
    a killed holder left half-written is cleared away. The holder may `remove_held` the folder.
    """
    with _lock(folder, waiting):
        for leftover in folder.rglob(".*.part"):
            leftover.unlink()
        yield


def remove_held(folder: Path) -> None:
    """Remove a folder that this process holds by `exclusive`; one that waits makes it again."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
    (folder / _LOCK).unlink()  # last: until then nobody else is in the folder
    with suppress(OSError):  # not empty, as the next process has its lock there
        folder.rmdir()


def _lock(folder: Path, waiting: Callable[[], object]) -> TextIO:
    """The locked file of a folder, which is made and may vanish meanwhile."""
    while True:
        try:
            with suppress(FileExistsError):
                folder.mkdir(parents=True)
            file = (folder / _LOCK).open("w")
        except FileNotFoundError:
            if any(path.is_symlink() and not path.exists() for path in (folder, *folder.parents)):
                raise
            continue  # the folder, or one above it, went between the calls
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), (folder / _LOCK).stat()):
                return file
        file.close()  # the process before has removed this file, so it locks nothing
