"""What of run folders goes into an archive: what reports read, and encoders if asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError
from benchmark.result_file import per_image_file
from benchmark.runs import Run
from reports.results.found import find
from reports.sets.anonymous import anonymised
from reports.sets.archive_file import Source, write_archive
from reports.sets.archive_manifest import ROOT, Manifest, is_member

_ALWAYS = (
    "plan.json",
    "config.yaml",
    "provenance.json",
    "pretraining.json",
    "metrics.jsonl",
)


@dataclass(frozen=True)
class Exported:
    """What became of an export.

    Attributes:
        manifest: of the archive.
        left_out: a sentence for each folder and file that is not in it.
    """

    manifest: Manifest
    left_out: list[str]


def export_runs(
    folders: Sequence[Path],
    out: Path,
    *,
    masks: bool = True,
    encoders: bool = False,
    anonymous: bool = False,
    commit: str | None = None,
    dirty: bool = False,
) -> Exported:
    """Write the runs below some folders into one archive; the same runs give the same bytes.

    Args:
        folders: with runs, finished or not.
        out: the archive.
        masks: whether masks go with them.
        encoders: whether the weights go with them too.
        anonymous: whether hosts and paths that leave the working folder are taken out.
        commit: of the code that exports.
        dirty: whether that has uncommitted changes.

    Raises:
        UserError: if there is no run that can be read, or the archive cannot hold them.
        OSError: if it cannot be written.
    """
    found = find(folders)
    sources: dict[str, Source] = {}
    left_out = list(found.left_out)
    for run in found.runs:
        files = {_place(run, file): file for file in _files(run, masks=masks, encoders=encoders)}
        if odd := [name for name in files if not is_member(name)]:
            left_out.append(f"{run.folder} would be {odd[0]} in an archive, which allows no such")
            continue
        try:
            sources |= {k: anonymised(file) if anonymous else file for k, file in files.items()}
        except (ValueError, OSError) as error:
            left_out.append(str(error))
    if not sources:
        raise UserError(f"nothing can be exported: {'; '.join(left_out)}")
    manifest = write_archive(out, sources, commit=commit, dirty=dirty, anonymous=anonymous)
    return Exported(manifest, left_out)


def _files(run: Run, *, masks: bool, encoders: bool) -> Iterator[Path]:
    names = [*_ALWAYS, *["encoder.safetensors"] * encoders]
    wanted = [run.folder / name for name in names]
    for task in run.tasks:
        if task.result.is_file():
            wanted += [task.result, per_image_file(task.result)]
    if masks:
        wanted += sorted(run.folder.glob("masks/[!.]*.npz"))
        wanted += sorted(run.folder.glob("masks/steps/[!.]*.npz"))
    return (file for file in wanted if file.is_file())


def _place(run: Run, file: Path) -> str:
    """The name of a file of a run in an archive."""
    folder = f"{ROOT}/{run.data}/{run.method}-{run.hash8}/seed{run.seed}"
    return f"{folder}/{file.relative_to(run.folder).as_posix()}"
