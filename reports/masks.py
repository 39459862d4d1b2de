"""The command line: what trained methods hide, as scores, pictures and curves.

    python reports/masks.py runs --out runs/masks

Reads the runs below the folders, as far as they left masks behind; trains and changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import UserError
from reports.figures.mask_curves import write_curves
from reports.figures.mask_gallery import write_galleries
from reports.results.mask_runs import Configuration, find
from reports.tables.mask_quality import write_quality


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 if a run is left out, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="reports/masks.py", description="Scores, pictures and curves of the masks of runs."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folder with runs")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="for the files")
    options = parser.parse_args(arguments)
    try:
        found = find(options.runs)
        for problem in found.problems:
            print(f"error: {problem}", file=sys.stderr)
        if found.configurations:
            written = write_all(found.configurations, options.out)
            print((options.out / "quality.md").read_text(encoding="utf-8"))
            print(f"masks: {', '.join(str(path) for path in written)}")
        elif not found.problems:
            where = ", ".join(map(str, options.runs))
            raise UserError(f"no run below {where} has masks; train one with a method that hides")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if found.problems else 0


def write_all(configurations: Sequence[Configuration], out: Path) -> list[Path]:
    """Write every file; returns their paths.

    Args:
        configurations: runs with masks.
        out: gets ``quality.md``, ``quality.csv``, ``gallery.png`` and ``curves.png``; several
            pictures of a kind for many configurations or data sets.

    Raises:
        ValueError: if masks are of different images.
    """
    quality = write_quality(configurations, out)
    return [*quality, *write_galleries(configurations, out), *write_curves(configurations, out)]


if __name__ == "__main__":
    sys.exit(main())
