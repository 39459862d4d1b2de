"""A report as files: each table three times, the page, and the list of what was written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from benchmark.files import read_json, write_json, write_text
from benchmark.type_check import misfit
from reports.page.report import Report

_NAME = re.compile(r"(figures/)?\w[\w.-]*")


def write_tables(report: Report, out: Path) -> list[Path]:
    """Write each table as Markdown, LaTeX and CSV; returns the paths."""
    written = []
    for table in report.tables:
        texts = {"md": table.markdown(), "tex": table.latex(), "csv": table.csv()}
        for suffix, text in texts.items():
            path = out / f"{table.name}.{suffix}"
            write_text(path, text)
            written.append(path)
    return written


def keep_only(out: Path, written: Iterable[Path], listed: str = "files.json") -> None:
    """Remove what an earlier report wrote and this one did not, and note what there is now.

    Only files that the list of the earlier report names are touched.

    Args:
        out: the folder.
        written: files in it.
        listed: name of the list, one for each kind of report that may share a folder.
    """
    names = sorted(str(path.relative_to(out)) for path in written)
    file = out / listed
    if file.exists():
        noted = read_json(file).get("files", [])
        if misfit(noted, list[str], "files") is None:
            for name in set(noted) - set(names):
                if _NAME.fullmatch(name):
                    (out / name).unlink(missing_ok=True)
    write_json(file, {"files": names})
