"""Makes packs in their place, one process at a time, and whole or not at all.

Everything lies in a hidden folder beside the pack until that is complete, and then takes its place
in one step: ``pack/`` with the arrays, ``scratch/`` for what a source unpacks, and a journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import PIL

from benchmark.contracts import UserError
from benchmark.files import exclusive
from benchmark.packs.journal import Journal
from benchmark.packs.manifest import FORMAT, MANIFEST, DamagedPackError, Recipe
from benchmark.packs.pack import Pack
from benchmark.packs.writer import GO_ON, write_pack
from benchmark.progress import Emit, Event


def prepare(
    recipe: Recipe, source: Path, *, workers: int, trust: bool, replace: bool, emit: Emit
) -> bool:
    """Make a pack, unless it is there already.

    A second process that is asked for the same pack waits for the first.

    Args:
        recipe: what to make.
        source: folder with the distributed files; it is only read.
        workers: processes.
        trust: see `benchmark.sources.source.Source.open`.
        replace: make it anew where it is there, or where another one or a damaged one is.
        emit: told how far it is.

    Returns:
        Whether there was anything to do.

    Raises:
        UserError: for anything wrong with the source, the disk, or what lies there already.
    """
    work = recipe.folder.with_name(f".{recipe.name}.partial")
    inode = _inode(recipe.folder)
    waits: list[Event] = []

    def wait() -> None:
        waits.append(Event(recipe.name, "another process is making this pack; waiting for it"))
        emit(waits[-1])

    def needed() -> bool:  # not if another process has made it since this one began
        there = _is_there(recipe, replace=replace)
        return not there or (replace and _inode(recipe.folder) == inode)

    while needed() or work.exists():
        waited = len(waits)
        with _disk_errors(work), existing(work.parent), exclusive(work, wait):
            if len(waits) > waited or not (work / ".lock").exists():
                continue  # the other process has moved the lock away with all else: look again
            if to_do := needed():
                pack = _make(work, recipe, source, workers=workers, trust=trust, emit=emit)
                if recipe.folder.exists():
                    recipe.folder.rename(work / "replaced")
                pack.rename(recipe.folder)
            shutil.rmtree(work)
            return to_do
    return False


def _inode(folder: Path) -> int | None:
    return folder.stat().st_ino if folder.exists() else None


def _is_there(recipe: Recipe, *, replace: bool) -> bool:
    """Whether the very pack exists, and may be used.

    Raises:
        UserError: if something else is in its place that must not be replaced.
    """
    folder = recipe.folder
    if not folder.exists():
        return False
    if not (folder / MANIFEST).exists():
        raise UserError(
            f"{folder} exists and is no pack; choose another data.name or data_dir, or move it."
        )
    try:
        differences = recipe.differences(Pack(folder).manifest)
    except DamagedPackError as error:
        if replace:
            return False
        raise UserError(
            f"{error.file} cannot be used because {error.problem}; add replace=true to make the "
            "pack anew."
        ) from error
    if differences and not replace:
        key, theirs, ours = differences[0]
        raise UserError(
            f"{folder} was made with {key}={theirs} and is now asked for with {ours}; choose "
            "another data.name, or add replace=true to make it anew."
        )
    return not differences


def _make(
    work: Path, recipe: Recipe, source: Path, *, workers: int, trust: bool, emit: Emit
) -> Path:
    emit(Event(recipe.name, f"reading {source}"))
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    try:
        contents = recipe.source.open(source, scratch, trust=trust)
    except (UserError, OSError):
        if not (work / Journal.NAME).exists():  # nothing is done yet, so leave nothing
            shutil.rmtree(work)
        raise
    files = contents.files
    if files is None:
        files = everything_in(source, recipe.folder.parent)
    state = state_of(recipe, source, files)
    return write_pack(work, recipe, contents, source, state=state, workers=workers, emit=emit)


def everything_in(folder: Path, data_dir: Path) -> Iterator[Path]:
    """Every file below a folder, but hidden ones and packs."""
    seen = set()  # of folders, as links may lead in circles
    for name, subfolders, files in os.walk(folder, followlinks=True):
        parent = Path(name)
        within = parent.resolve()
        if within in seen or (within.parent == data_dir.resolve() and MANIFEST in files):
            subfolders.clear()
            continue
        seen.add(within)
        subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
        yield from (parent / file for file in sorted(files) if not file.startswith("."))


def state_of(recipe: Recipe, source: Path, files: Iterable[Path]) -> str:
    """Hash of all that decides the arrays: the files, the recipe, and Pillow, which decodes."""
    state = hashlib.sha256()
    for part in (FORMAT, PIL.__version__, recipe.settings, str(source.resolve())):
        state.update(json.dumps(part, sort_keys=True).encode())
    for file in files:
        name = str(file).removeprefix(f"{source}/")
        try:
            stat = file.stat()
            state.update(json.dumps([name, stat.st_size, stat.st_mtime_ns]).encode())
        except OSError:  # such as a dangling link; reading the image will name it
            state.update(json.dumps([name]).encode())
    return state.hexdigest()


@contextmanager
def existing(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; after a failure, what is empty of them goes again."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in new:
            with suppress(OSError):  # not empty, or not made
                path.rmdir()
        raise


@contextmanager
def _disk_errors(work: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or work}: {error.strerror or error}; put that right, with more space "
            f"for example, and {GO_ON}."
        ) from error
