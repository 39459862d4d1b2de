"""The report as one HTML file that needs neither a network nor a server."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from benchmark.files import write_text
from reports.page.page_masks import Galleries, data_uri, galleries
from reports.page.report import Picture, Report, RunPage
from reports.tables.markup import Cell, Column, Row, Table

_SOURCES = Path(__file__).parent / "html"
_LOG = 10_000  # last letters of a log that are kept

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# What HTML allows nowhere, UTF-8 cannot hold, or makes text read otherwise than it is written.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef"
    "\ufffe\uffff]"
)


def write_page(report: Report, path: Path) -> Path:
    """Write the report; the same report gives the same bytes.

    Raises:
        ValueError: naming a picture or a file of masks that is broken.
    """
    write_text(path, page(report))
    return path


def page(report: Report) -> str:
    """The whole page.

    Raises:
        ValueError: see `write_page`.
    """
    numbers = {run.folder: k for k, run in enumerate(report.runs)}
    masks = galleries(report.runs, report.configs)
    css, js = (_source(name) for name in ("report.css", "report.js"))
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            css=Markup(css),
            js=Markup(js),
            policy=_policy(css, js),
            header=_header,
            blocks=_blocks,
            runs_of=partial(_runs_of, numbers),
            sort_value=_sort_value,
            image=_image,
            masks=masks,
            mask_data=_mask_data(masks),
            run_data=_run_data(report),
        )
    )
    return _cleaned(html)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_SOURCES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    return environment


def _source(name: str) -> str:
    return (_SOURCES / name).read_text(encoding="utf-8")


def _policy(css: str, js: str) -> str:
    """Lets the browser run this script alone and load nothing, whatever a label smuggles in."""
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )


def _prose(text: str) -> Markup:
    """A sentence; what stands in backticks is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one has no partner
        return escape(text)
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(p) if k % 2 else escape(p) for k, p in enumerate(parts))


class _Heading(NamedTuple):
    """A header cell; the number of its column where it heads a single one."""

    text: str
    columns: int = 1
    rows: int = 1
    column: int | None = None


def _header(table: Table) -> list[list[_Heading]]:
    """Rows of header cells: two where columns have groups."""
    grouped = any(column.group for column in table.columns)
    upper = [_Heading(table.head, rows=1 + grouped, column=0)]
    lower: list[_Heading] = []
    numbered = enumerate(table.columns, start=1)
    for group, members in groupby(numbered, key=lambda item: item[1].group):
        own: list[tuple[int, Column]] = list(members)
        if group:
            upper.append(_Heading(group, columns=len(own)))
            lower += [_Heading(column.heading, column=k) for k, column in own]
        else:
            upper += [_Heading(column.heading, rows=1 + grouped, column=k) for k, column in own]
    return [upper, lower] if grouped else [upper]


def _blocks(table: Table) -> list[tuple[str, list[Row]]]:
    return [(block, list(rows)) for block, rows in groupby(table.rows, key=lambda row: row.block)]


def _runs_of(numbers: Mapping[str, int], cell: Cell) -> list[int]:
    return [numbers[folder] for folder in dict.fromkeys(cell.runs) if folder in numbers]


def _sort_value(cell: Cell) -> str | None:
    known = cell.value is not None and math.isfinite(cell.value)
    return repr(float(cell.value)) if known and cell.value is not None else None


class _Image(NamedTuple):
    src: str
    width: int
    height: int


def _image(picture: Picture) -> _Image:
    content = picture.png.read_bytes()
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        raise ValueError(f"{picture.png} is no PNG; delete it to have it made again")
    width, height = (int.from_bytes(content[k : k + 4]) for k in (16, 20))
    return _Image(data_uri(content), width, height)


def _mask_data(masks: Galleries) -> dict[str, Any]:
    """Every strip at every moment, in the order of the page."""
    frames = [[asdict(frame) for frame in strip.frames] for strip in masks.strips]
    return {"moments": masks.moments, "strips": frames}


def _run_data(report: Report) -> dict[str, Any]:
    """What the page shows of a run on demand; a configuration is there once for all its seeds."""
    return {
        "configs": {hash8: _yaml(config) for hash8, config in report.configs.items()},
        "runs": [_details(run) for run in report.runs],
    }


def _details(run: RunPage) -> dict[str, str]:
    provenance = _yaml(run.provenance) if run.provenance else ""
    return {"hash8": run.hash8, "provenance": provenance, "log": _log(run.log)}


def _yaml(content: Mapping[str, Any]) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    plain = _plain(content)
    text: str = yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _plain(value: Any, name: str = "") -> Any:
    """What YAML can hold, with commands as lines to be typed."""
    if isinstance(value, Mapping):
        return {_cleaned(str(key)): _plain(part, str(key)) for key, part in value.items()}
    if isinstance(value, list | tuple) and name != "command":
        return [_plain(part) for part in value]
    if isinstance(value, list | tuple):
        value = shlex.join(map(str, value))
    if value is None or isinstance(value, bool | int | float):
        return value
    return _cleaned(str(value))


def _log(log: str) -> str:
    """As a terminal would show it: the end, without colours and overwritten progress bars."""
    lines = _cleaned(log[-20 * _LOG :]).replace("\r\n", "\n").split("\n")
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines).strip("\n")
    return text if len(text) <= _LOG else "…" + text[-_LOG:]


def _cleaned(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", _ANSI.sub("", text))
