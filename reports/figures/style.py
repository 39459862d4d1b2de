"""What the pictures share: colours that the colour-blind can tell apart, frame, and saving."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmark.files import write_bytes

Shown = TypeVar("Shown")

DPI = 150
INK, FAINT = "0.15", "0.55"


def colours(count: int) -> list[tuple[float, float, float]]:
    """That many colours: seaborn's colour-blind palette, an even scale beyond its ten."""
    return list(sns.color_palette("colorblind" if count <= 10 else "viridis", count))


def wrapped(text: str, letters: int) -> str:
    """The text in lines of at most so many letters."""
    return "\n".join(textwrap.wrap(text, letters))


@contextmanager
def themed() -> Iterator[None]:
    """Draw on white, with a quiet grid."""
    with sns.axes_style("whitegrid", {"axes.edgecolor": FAINT, "grid.color": "0.9"}):
        with (
            sns.plotting_context("paper", font_scale=1.1),
            matplotlib.rc_context(
                {
                    "text.color": INK,
                    "axes.labelcolor": INK,
                    "axes.titlesize": 10,
                    "axes.titley": 1.0,  # else every drawing looks for the place anew
                }
            ),
        ):
            yield


def panels(
    count: int, size: tuple[float, float], margin: tuple[float, float], across: int = 3
) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels in rows.

    Args:
        count: of panels.
        size: of a panel in inches, width and height.
        margin: around all of them, likewise.
        across: panels beside each other, at most.
    """
    columns = min(across, count)
    rows = math.ceil(count / columns)
    width, height = (
        n * one + more for n, one, more in zip((columns, rows), size, margin, strict=True)
    )
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for unused in grid.flat[count:]:
        unused.set_visible(False)
    return figure, list(grid.flat[:count])


def save_sheets(
    sheets: Mapping[str, Shown], draw: Callable[[Shown], Figure], stem: Path
) -> list[Path]:
    """Draw each sheet into a PNG and a PDF of its own; returns the paths of the PNGs.

    Args:
        sheets: what each shows, by what its file's name ends with.
        draw: makes the picture of a sheet.
        stem: what all files' names begin with.
    """
    written = []
    for suffix, own in sheets.items():
        path = stem.with_name(f"{stem.name}{suffix}.png")
        with themed():
            save(draw(own), path)
        written.append(path)
    return written


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, and the PDF beside it. The Agg canvas needs no display, whatever is set.

    The same figure gives the same bytes.
    """
    FigureCanvasAgg(figure)
    figure.set_dpi(DPI)  # of which letters are a little wider than of others
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)
        figure.set_layout_engine(None)  # found once; else each format would draw twice, to find it
    formats: dict[str, dict[str, Any]] = {
        "png": {"dpi": DPI},
        "pdf": {"metadata": {"CreationDate": None}},
    }
    for kind, options in formats.items():
        drawn = io.BytesIO()  # no file: on a full disk matplotlib hides what is wrong
        figure.savefig(drawn, format=kind, facecolor="white", **options)
        write_bytes(path.with_suffix(f".{kind}"), drawn.getvalue())
