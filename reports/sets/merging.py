"""An archive of result sets into a folder of runs: what is new is added, nothing is replaced."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from benchmark.errors import UserError
from benchmark.files import nothing_new, sha256_of, write_atomically
from benchmark.lock import LockLostError, Owner, exclusive, remove_held
from benchmark.result_file import per_image_file, read_pretraining
from benchmark.runs import Run
from reports.results.found import find
from reports.sets.archive_file import read_manifest, unpack
from reports.sets.archive_manifest import ROOT, Manifest

_SCRATCH = ".import"  # beside the run folders, as what lies in it is moved into place


@dataclass
class Imported:
    """What became of an import, by the names of run folders.

    Attributes:
        added: those that were not there.
        completed: those that got files which they lacked, with the number of these.
        unchanged: those that lacked nothing.
        conflicts: a sentence for each folder or file that is another one here and was left so, or
            that somebody is at work in.
        left_out: what reports will not read of the archive, in sentences.
    """

    added: list[str] = field(default_factory=list)
    completed: dict[str, int] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def import_archive(path: Path, out: Path) -> Imported:
    """Add the runs of an archive to a folder of runs.

    All of the archive is checked before anything is put in place, and each run folder comes in one
    step. One that is there already, with the same encoder, gets the files that it lacks.

    Args:
        path: of the archive.
        out: the folder, made if need be.

    Raises:
        UserError: if the archive is not sound, or there is no room for it. Nothing is left of it.
    """
    manifest = read_manifest(path)
    scratch = out / _SCRATCH
    try:
        with nothing_new(out):
            out.mkdir(parents=True, exist_ok=True)
            if manifest.size > (free := shutil.disk_usage(out).free):
                raise UserError(
                    f"{path} unpacks to {manifest.size:,} bytes, and {out} has room for {free:,}; "
                    "free space there, or choose another folder"
                )
            with exclusive(scratch, lambda owner: _waiting(out, owner)):
                try:
                    return _imported(path, manifest, scratch / "new", out)
                finally:
                    remove_held(scratch)
    except OSError as error:
        raise UserError(
            f"{error.filename or out} cannot be written ({error.strerror or error}); free space "
            "there, or choose another folder"
        ) from error


def _waiting(out: Path, owner: Owner | None) -> None:
    print(f"{out}: waiting for {owner or 'another process'}, which imports too", file=sys.stderr)


def _imported(path: Path, manifest: Manifest, staged: Path, out: Path) -> Imported:
    if staged.exists():  # of an import that was killed
        shutil.rmtree(staged)
    if unpack(path, staged) != manifest:
        raise UserError(f"{path} changed while it was read; import it again")
    found = find([staged / ROOT])
    os.sync()  # what is moved into place is on the disk; file by file takes minutes
    told = Imported()
    told.left_out += [words.replace(f"{staged / ROOT}/", "") for words in found.left_out]
    runs = {run.folder.relative_to(staged / ROOT).as_posix(): run for run in found.runs}
    if unread := sorted(manifest.runs.keys() - runs.keys()):
        raise UserError(
            f"{path} holds what is no run ({'; '.join(told.left_out) or unread[0]}); get it again "
            "from whoever exported it"
        )
    for name, run in sorted(runs.items()):
        try:
            _merge(run, name, out / name, told)
        except (_HeldError, LockLostError, ValueError) as error:
            told.conflicts.append(f"{name}: {error}")
    return told


class _HeldError(Exception):
    """Somebody is at work in a folder, in words."""


def _refuse(owner: Owner | None) -> None:
    raise _HeldError(f"{owner or 'another process'} is at work in it; import again after that")


def _merge(run: Run, name: str, folder: Path, told: Imported) -> None:
    """Put an unpacked run where it belongs, or what the run there lacks."""
    checksum = _encoder_checksum(run)
    if run.encoder_file.exists() and sha256_of(run.encoder_file) != checksum:
        raise ValueError("its encoder is not the one that its pretraining.json describes")
    if not folder.exists():
        with suppress(FileExistsError), nothing_new(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _rename(run.folder, folder)
            told.added.append(name)
            return
    with ExitStack() as held:
        lock = held.enter_context(exclusive(folder, _refuse))
        if checksum is not None:
            _refuse_other_pretraining(replace(run, folder=folder), checksum)
        lacking, different = _differences(run, folder) if checksum is not None else ([], [])
        for place in dict.fromkeys(file.parent for file, _ in lacking):
            if place.parent.name == "results":  # a run holds these while it evaluates
                held.enter_context(exclusive(folder / place.relative_to(run.folder), _refuse))
        for file, target in lacking:
            lock.check()
            write_atomically(target, partial(shutil.copyfile, file))
            if target.parent.parent.name == "results":
                target.with_suffix(".error.txt").unlink(missing_ok=True)
    told.conflicts += [f"{name}: {words}" for words in different]
    if lacking:
        told.completed[name] = len(lacking)
    elif not different:
        told.unchanged.append(name)


def _rename(source: Path, target: Path) -> None:
    """Move a folder in one step.

    Raises:
        FileExistsError: if there is something meanwhile.
    """
    try:
        source.rename(target)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(error.errno, error.strerror, str(target)) from error
        raise


def _encoder_checksum(run: Run) -> str | None:
    """Of the encoder that a run was finished with."""
    return read_pretraining(run)["encoder_sha256"] if run.pretraining_file.exists() else None


def _refuse_other_pretraining(run: Run, checksum: str) -> None:
    """Make sure that a folder has the encoder of that checksum, or is still to be trained."""
    own = _encoder_checksum(run)
    if own is None and (run.folder / "config.yaml").exists():
        raise ValueError(
            "it has a pretraining here that is not finished; let it finish, or remove its folder"
        )
    if own not in (None, checksum):
        raise ValueError(
            "it has another encoder here, by the checksum in pretraining.json; import into "
            "another folder to compare the two"
        )


def _differences(run: Run, folder: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """What a folder lacks of an unpacked run, and the results that it has with other content.

    Returns:
        Each file and its place, in the order in which they may come: what others rely on first.
    """
    lacking: list[Path] = []
    different = []

    def own(file: Path) -> Path:
        return folder / file.relative_to(run.folder)

    for result in sorted(run.folder.glob("results/*/seed*.json")):
        images = [file for file in [per_image_file(result)] if file.exists()]
        if not own(result).exists():
            lacking += [*(file for file in images if not _same(file, own(file))), result]
        elif _same(result, own(result)):
            lacking += [file for file in images if not own(file).exists()]
        else:
            different.append(
                f"{result.relative_to(run.folder)} is another one here; remove one of the two"
            )
    files = (file for file in run.folder.rglob("*") if file.is_file())
    others = [f for f in files if f.parent.parent.name != "results" and not own(f).exists()]
    # pretraining.json comes last: with it, a run counts as finished.
    lacking += sorted(others, key=lambda file: (file == run.pretraining_file, file))
    return [(file, own(file)) for file in lacking], different


def _same(file: Path, other: Path) -> bool:
    return other.exists() and file.read_bytes() == other.read_bytes()
