"""The command line: two result sets, and what differs between them beyond noise.

    python reports/compare.py runs/before runs/after --out comparison

Each is a folder with runs, or an archive of reports/archive.py. The exit status tells whether
anything is beyond noise, so that it can guard a change of the code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError
from reports.page.report import Report, Section
from reports.sets.result_sets import read_set
from reports.sets.set_comparison import MATCHINGS, Matching, SetComparison, compare_sets
from reports.sets.set_tables import BEYOND_NOISE, summary, tables
from reports.tables.markup import Table
from reports.write import write_tables


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
    def beyond_noise(self) -> bool:
        """Whether any cell is."""
        return any(change.verdict in BEYOND_NOISE for change in self.found.changes)

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
    """Entry point; returns the exit status: 0, 1 if something is beyond noise, 2 for a mistake."""
    parser = argparse.ArgumentParser(
        prog="reports/compare.py", description="What differs between two result sets?"
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
            report = Report("Comparison", [compared.summary], [_section(compared)], [])
            paths = write_tables(report, options.out)
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
    return 1 if compared.beyond_noise else 0


def _section(compared: Compared) -> Section:
    return Section("Comparison", [compared.summary], compared.tables)


if __name__ == "__main__":
    sys.exit(main())
