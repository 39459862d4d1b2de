"""The command line: what trained methods hide, as scores, pictures and curves.

    python reports/masks.py runs --out runs/masks

Reads the runs below the folders, as far as they left masks behind; trains and changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.mask_curves import write_curves
from reports.mask_gallery import write_galleries
from reports.mask_quality import write_quality
from reports.mask_runs import find


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, or 2 for a user's mistake or a broken file."""
    parser = argparse.ArgumentParser(
        prog="reports/masks.py", description="Scores, pictures and curves of the masks of runs."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folder with runs")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="for the files")
    options = parser.parse_args(arguments)
    try:
        written = write_all(options.runs, options.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((options.out / "quality.md").read_text(encoding="utf-8"))
    print(f"masks: {', '.join(str(path) for path in written)}")
    return 0


def write_all(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write every file; returns their paths.

    Args:
        folders: searched for runs with masks.
        out: gets ``quality.md``, ``quality.csv``, ``gallery.png`` and ``curves.png``; several
            pictures of a kind for many configurations or data sets.

    Raises:
        ValueError: naming a folder or file that is wrong, or if there is nothing to show.
    """
    configurations = find(folders)
    if not configurations:
        where = ", ".join(map(str, folders))
        raise ValueError(f"no run below {where} has masks; train one with a method that hides")
    quality = write_quality(configurations, out)
    return [*quality, *write_galleries(configurations, out), *write_curves(configurations, out)]


if __name__ == "__main__":
    sys.exit(main())
