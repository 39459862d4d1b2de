"""What the pictures share: colours that the colour-blind can tell apart, frame, and saving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import matplotlib
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmark.files import write_atomically

Shown = TypeVar("Shown")

DPI = 150
INK, FAINT = "0.15", "0.55"


def colours(count: int) -> list[tuple[float, float, float]]:
    """That many colours: seaborn's colour-blind palette, an even scale beyond its ten."""
    return list(sns.color_palette("colorblind" if count <= 10 else "viridis", count))


@contextmanager
def themed() -> Iterator[None]:
    """Draw on white, with a quiet grid."""
    with sns.axes_style("whitegrid", {"axes.edgecolor": FAINT, "grid.color": "0.9"}):
        with (
            sns.plotting_context("paper", font_scale=1.1),
            matplotlib.rc_context(
                {"text.color": INK, "axes.labelcolor": INK, "axes.titlesize": 10}
            ),
        ):
            yield


def save_sheets(
    sheets: Mapping[str, Shown], draw: Callable[[Shown], Figure], stem: Path
) -> list[Path]:
    """Draw each sheet into a PNG of its own; returns the paths.

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
    """Write a PNG in one step. The Agg canvas needs no display, whatever backend is set."""
    FigureCanvasAgg(figure)
    write_atomically(
        path, lambda part: figure.savefig(part, format="png", dpi=DPI, facecolor="white")
    )
