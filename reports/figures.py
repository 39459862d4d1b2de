"""What the pictures share: colours that the colour-blind can tell apart, frame, and saving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmark.files import write_atomically

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


def save(figure: Figure, path: Path) -> None:
    """Write a PNG in one step. The Agg canvas needs no display, whatever backend is set."""
    FigureCanvasAgg(figure)
    write_atomically(
        path, lambda part: figure.savefig(part, format="png", dpi=DPI, facecolor="white")
    )
