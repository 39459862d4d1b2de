"""The report as one Markdown file, for a repository or a wiki."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmark.files import write_text
from reports.page.report import Report


def write_document(report: Report, path: Path) -> Path:
    """Write ``report.md``; its pictures are linked from the folder ``figures`` beside it."""
    write_text(path, "\n".join(_lines(report)))
    return path


def _lines(report: Report) -> Iterator[str]:
    yield f"# {report.title}\n"
    yield from (f"- {sentence}" for sentence in report.summary)
    yield ""
    for section in report.sections:
        yield f"## {section.title}\n"
        yield from (f"{sentence}\n" for sentence in section.sentences)
        yield from (table.markdown() for table in section.tables)
        for picture in section.pictures:
            text = picture.text.replace("[", "(").replace("]", ")")
            yield f"![{text}](figures/{picture.png.name})\n\n*{picture.title}*\n"
    if report.left_out:
        yield "## Left out\n"
        yield from (f"- {problem}" for problem in report.left_out)
        yield ""
