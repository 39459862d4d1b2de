"""The command line: two result sets, and what differs between them by more than chance explains.

    python reports/compare.py runs/before runs/after --out comparison

Each is a folder with runs, or an archive of reports/archive.py. The exit status guards a change of
the code: it is 0 only if every cell is identical or not told apart, and nothing is missing.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError
from benchmark.lock import exclusive
from reports.page.report import Report, Section
from reports.sets.result_sets import read_set
from reports.sets.set_comparison import MATCHINGS, Matching, SetComparison, compare_sets
from reports.sets.set_tables import differing, summary, tables
from reports.tables.markup import Table
from reports.write import keep_only, write_tables

_LISTED = "compare_files.json"  # not the list of a report, which may have the same folder
_STATUS = """
exit status:
  0  every cell is identical or not told apart, and nothing is missing
  1  a cell is higher, lower or of too few seeds; a configuration, cell or seed is missing on one
     side or both, or not comparable; or a result is left out: the last line says which
  2  a mistake, or nothing to compare
"""


@dataclass(frozen=True)
class Compared:
    """Two result sets side by side.

    Attributes:
        summary: in a sentence.
        tables: the cells, what was not compared, cost, and origins.
        found: what they show.
    """

    summary: str
    tables: list[Table]
    found: SetComparison

    @property
    def differing(self) -> str:
        """Why the two are not the same, in words: "1 lower, 2 cells only in A"; empty if so."""
        return differing(self.found)

    def terminal_text(self) -> str:
        """All tables that have rows, as Markdown; the summary comes first."""
        return "\n".join(table.markdown() for table in self.tables if table.rows)


def compare(a: Path, b: Path, match: Matching = "label") -> Compared:
    """Compare two result sets.

    Args:
        a: the reference: a folder with runs, or an archive.
        b: what is compared with it.
        match: see `reports.sets.set_comparison.compare_sets`.

    Raises:
        UserError: if one of them holds no run, or is no sound archive.
    """
    found = compare_sets(read_set(a), read_set(b), match)
    return Compared(summary(found), tables(found), found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status.

    It is 0 if every cell is identical or not told apart and nothing is missing or left out, else
    1, and 2 for a mistake.
    """
    parser = argparse.ArgumentParser(
        prog="reports/compare.py",
        description="What differs between two result sets?",
        epilog=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", type=Path, metavar="A", help="folder with runs, or an archive")
    parser.add_argument("b", type=Path, metavar="B", help="the same, compared with A")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for the tables as files")
    parser.add_argument(
        "--match",
        choices=MATCHINGS,
        default="label",
        help="rows: of the same setting only, or else of the same label too (as by default)",
    )
    options = parser.parse_args(arguments)
    try:
        compared = compare(options.a, options.b, options.match)
        paths = []
        if options.out is not None:
            paths = _write(compared, options.out)
    except (UserError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(compared.terminal_text())
    if paths:
        print(f"comparison: {len(paths)} files in {options.out}")
    if not compared.found.changes:
        print(
            f"error: {options.a} and {options.b} share no cell; give sets with results of the same "
            "tasks and data",
            file=sys.stderr,
        )
        return 2
    if compared.differing:
        print(f"not the same: {compared.differing}")
        return 1
    return 0


def _write(compared: Compared, out: Path) -> list[Path]:
    section = Section("Comparison", [compared.summary], compared.tables)
    report = Report("Comparison", [compared.summary], [section], [])
    with exclusive(out, lambda owner: print(f"{out}: waiting for {owner}", file=sys.stderr)):
        paths = write_tables(report, out)
        keep_only(out, paths, _LISTED)
    return paths


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader like head may leave early
    sys.exit(main())
