"""Makes packs in their place, one process at a time, and whole or not at all.

Everything lies in a hidden folder beside the pack until that is complete, and then takes its place
in one step: ``pack/`` with the arrays, ``scratch/`` for what a source unpacks, and a journal.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL

from benchmark.errors import UserError
from benchmark.files import nothing_new
from benchmark.lock import Owner, exclusive, remove_held
from benchmark.packs.filling import stamp_of
from benchmark.packs.journal import Journal
from benchmark.packs.manifest import FORMAT, MANIFEST, DamagedPackError, Recipe
from benchmark.packs.opened import Pack
from benchmark.packs.writer import write_pack
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
    work = recipe.work
    inode = _inode(recipe.folder)

    def wait(owner: Owner | None) -> None:
        maker = owner or "another process"
        emit(Event(recipe.name, f"{maker} is making this pack; waiting for it"))

    def needed() -> bool:  # not if another process has made it since this one began
        there = _is_there(recipe, replace=replace)
        return not there or (replace and _inode(recipe.folder) == inode)

    if not needed() and not work.exists():
        return False
    with _disk_errors(work), nothing_new(work.parent), exclusive(work, wait):
        if to_do := needed():
            pack = _make(work, recipe, source, workers=workers, trust=trust, emit=emit)
            if recipe.folder.exists():
                shutil.rmtree(work / "replaced", ignore_errors=True)  # of a killed process
                recipe.folder.rename(work / "replaced")
            pack.rename(recipe.folder)
        remove_held(work)
        return to_do


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


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
        mismatch = recipe.mismatch(Pack(folder).manifest)
    except DamagedPackError as error:
        if replace:
            return False
        raise UserError(
            f"{error.file} cannot be used because {error.problem}; add replace=true to make the "
            "pack anew."
        ) from error
    if mismatch and not replace:
        raise UserError(
            f"{folder} was {mismatch}; choose another data.name or data_dir, or add replace=true "
            "to make it anew."
        )
    return not mismatch


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
            remove_held(work)
        raise
    state = state_of(recipe, source, contents.files)
    return write_pack(work, recipe, contents, source, state=state, workers=workers, emit=emit)


def state_of(recipe: Recipe, source: Path, files: Iterable[Path]) -> str:
    """Hash of these files and of all else that decides the arrays: the recipe, and Pillow."""
    parts = [FORMAT, PIL.__version__, recipe.settings, str(source.resolve()), stamp_of(files)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextmanager
def _disk_errors(work: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or work}: {error.strerror or error}; put that right, with more space "
            "for example, and run the same command again, which goes on where it stopped."
        ) from error
