"""The command line: result sets to one archive with checksums, and into a folder of runs again.

    python reports/archive.py export runs --out results.tar.gz
    python reports/archive.py import results.tar.gz --out runs

An archive holds what reports read, so that a report of it is the same as that of the runs, but for
what failed: errors stay at home, and it comes back as not run.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import UserError
from reports.sets.archive_contents import export_runs
from reports.sets.archive_file import read_manifest, unpack
from reports.sets.archive_manifest import Manifest
from reports.sets.merging import import_archive


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 if something is left out, 2 for a mistake."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.action(options))
    except (UserError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reports/archive.py", description="Result sets as one file: to publish, and to merge."
    )
    actions = parser.add_subparsers(required=True, metavar="export|import|list|verify")

    export = actions.add_parser("export", help="run folders into an archive")
    export.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folder with runs")
    export.add_argument("--out", required=True, type=Path, metavar="FILE", help="ends in .tar.gz")
    export.add_argument("--encoders", action="store_true", help="with the encoders' weights")
    export.add_argument("--no-masks", action="store_true", help="without the masks of test images")
    export.add_argument(
        "--anonymous",
        action="store_true",
        help="without hosts, paths outside the working folder, and settings of SLURM and wandb",
    )
    export.set_defaults(action=_export)

    add = actions.add_parser("import", help="the runs of an archive into a folder of runs")
    add.add_argument("--out", required=True, type=Path, metavar="RUNS", help="folder of runs")
    add.set_defaults(action=_import)
    show = actions.add_parser("list", help="which runs an archive says it holds")
    show.set_defaults(action=_list)
    verify = actions.add_parser("verify", help="check every byte of an archive")
    verify.set_defaults(action=_verify)
    for action in (add, show, verify):
        action.add_argument("file", type=Path, metavar="FILE", help="an archive")
    return parser


def _export(options: argparse.Namespace) -> int:
    from benchmark.checkout import git_state

    commit, dirty = git_state()
    exported = export_runs(
        options.runs,
        options.out,
        masks=not options.no_masks,
        encoders=options.encoders,
        anonymous=options.anonymous,
        commit=commit,
        dirty=dirty,
    )
    _tell("left out", exported.left_out)
    print(f"exported {_counted(exported.manifest)} to {options.out}")
    return 1 if exported.left_out else 0


def _import(options: argparse.Namespace) -> int:
    done = import_archive(options.file, options.out)
    _tell("left out", done.left_out)
    _tell("conflict", done.conflicts)
    for name, files in done.completed.items():
        print(f"{name} got {files} files that it lacked")
    print(
        f"imported into {options.out}: {len(done.added)} runs added, {len(done.completed)} "
        f"completed, {len(done.unchanged)} already there, {len(done.conflicts)} conflicts"
    )
    return 1 if done.left_out or done.conflicts else 0


def _list(options: argparse.Namespace) -> int:
    manifest = read_manifest(options.file)
    state = f"{manifest.commit or 'unknown'}{' (uncommitted changes)' * manifest.dirty}"
    print(f"{options.file}: {_counted(manifest)}, exported at commit {state}")
    for run, members in manifest.runs.items():
        results = sum("/results/" in name and name.endswith(".json") for name in members)
        finished = any(name.endswith("/pretraining.json") for name in members)
        words = ["" if finished else "not pretrained", f"{results} results"]
        print(f"{run}  {', '.join(filter(None, words))}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    manifest = unpack(options.file, None)
    print(f"{options.file} is sound: {_counted(manifest)}")
    return 0


def _counted(manifest: Manifest) -> str:
    what = "anonymous runs" if manifest.anonymous else "runs"
    return (
        f"{len(manifest.runs)} {what} of {len(manifest.members):,} files, {manifest.size:,} bytes"
    )


def _tell(what: str, sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print(f"{what}: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] in (["list"], ["verify"]):  # which change nothing
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader like head may leave early
    sys.exit(main())
