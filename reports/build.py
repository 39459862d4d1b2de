"""The command line: every table, figure and page that run folders have something for.

    python reports/build.py runs --out report

Reads results, whoever made them; trains and changes nothing in the run folders.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.checkout import git_state
from benchmark.errors import UserError
from benchmark.lock import exclusive
from benchmark.runs import Run
from reports.assemble import assemble
from reports.page.document import write_document
from reports.page.report import Report
from reports.results.collect import collect
from reports.results.found import find
from reports.results.labels import Config
from reports.stats import TESTS, Test
from reports.write import keep_only, write_tables


@dataclass(frozen=True)
class Built:
    """What became of a report.

    Attributes:
        report: that was written.
        paths: of the files.
    """

    report: Report
    paths: list[Path]

    @property
    def first(self) -> Path:
        """The file to read: the page, or a table where there is none."""
        return next((path for path in self.paths if path.suffix == ".html"), self.paths[0])

    def terminal_text(self) -> str:
        """The tables that are read first, as Markdown."""
        first = next(iter(self.report.sections), None)
        return "" if first is None else "\n".join(table.markdown() for table in first.tables)


def build(
    runs: Sequence[Run],
    configs: Mapping[str, Config],
    out: Path,
    *,
    command: str,
    commit: str | None,
    left_out: Sequence[str] = (),
    test: Test = "t",
    page: bool = True,
    fork: bool = False,
) -> Built:
    """Write the report of some runs.

    Args:
        runs: with their tasks; what has not finished is said in the cells.
        configs: resolved configurations by hash8, as far as known.
        out: folder for the files.
        command: command line that makes it.
        commit: of the code that makes it, if known.
        left_out: what else lies in the folders, in sentences.
        test: see `reports.tables.score_tables.score_tables`.
        page: whether figures and the HTML page are wanted too, which take seconds.
        fork: see `reports.assemble.assemble`.
    """
    with exclusive(out, lambda owner: print(f"{out}: waiting for {owner}", file=sys.stderr)):
        report = assemble(
            collect(runs, configs),
            runs,
            configs,
            figures=out / "figures" if page else None,
            left_out=left_out,
            command=command,
            commit=commit,
            test=test,
            fork=fork and page,
        )
        paths = write_tables(report, out)
        if page:
            from reports.page.page import write_page  # here, as jinja2 takes long to import

            pictures = [picture for section in report.sections for picture in section.pictures]
            paths += [p.png.with_suffix(kind) for p in pictures for kind in (".png", ".pdf")]
            paths.append(write_page(report, out / "report.html"))
            paths.append(write_document(report, out / "report.md"))
        keep_only(out, paths)
    return Built(report, paths)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 if something is left out, 2 for a mistake."""
    parser = argparse.ArgumentParser(
        prog="reports/build.py", description="Tables, figures and an HTML page of runs."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folder with runs")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="for the files")
    parser.add_argument("--test", choices=TESTS, default="t", help="paired, over shared seeds")
    parser.add_argument("--tables", action="store_true", help="no figures, no page: tables alone")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(arguments)
    try:
        found = find(options.runs)
        built = build(
            found.runs,
            found.configs,
            options.out,
            command=shlex.join(["python", "reports/build.py", *arguments]),
            commit=git_state()[0],
            left_out=found.left_out,
            test=options.test,
            page=not options.tables,
            fork=sys.platform == "linux",
        )
    except (UserError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(built.terminal_text())
    for problem in built.report.left_out:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"report: {len(built.paths)} files in {options.out}, of which to read {built.first}")
    return 1 if built.report.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
