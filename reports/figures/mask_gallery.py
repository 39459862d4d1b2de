"""Figure 2 of the seed paper (arXiv 2212.08277) for every method: what each slot hides."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from reports.figures.style import DPI, FAINT, colours, save_sheets
from reports.results.mask_runs import Configuration, origin, sheets
from reports.results.masked_run import MaskFile

Tile = Float[np.ndarray, "h w 3"]

_METHODS = 8  # rows of a block
_ROWS = 24  # of a picture
_IMAGES = 4
_TILE = 72  # least side of a tile in pixels of the picture
_GAP = 6
_LABEL = 24  # letters in a line of a label
_LETTER = 11  # their width in pixels, about
_HEAD, _FOOT = 74, 64
_WIDTH = 750  # least, for the title


def write_galleries(configurations: Sequence[Configuration], out: Path) -> list[Path]:
    """Draw the masks of each configuration's first seed on the same few images.

    Returns:
        The files written: ``gallery.png``, or several for many methods or data sets.

    Raises:
        ValueError: naming a file that is broken, or runs of one data set with other images.
    """
    return save_sheets(sheets(configurations, _METHODS), _picture, out / "gallery")


def _picture(configurations: Sequence[Configuration]) -> Figure:
    count = max(1, min(_IMAGES, _ROWS // len(configurations)))
    files = [_first(configuration, count) for configuration in configurations]
    _refuse_other_images(configurations, files)
    canvas = _Canvas(files)
    for k in range(len(files[0].images)):
        canvas.block(k)
    return canvas.figure(configurations)


def _first(configuration: Configuration, count: int) -> MaskFile:
    """The first images alone: the whole files of many methods do not fit in memory."""
    file = configuration.first.mask_file()
    segments = None if file.segments is None else file.segments[:count].copy()
    return MaskFile(file.images[:count].copy(), file.masks[:count].copy(), segments)


def _refuse_other_images(
    configurations: Sequence[Configuration], files: Sequence[MaskFile]
) -> None:
    for configuration, file in zip(configurations, files, strict=True):
        if not np.array_equal(file.images, files[0].images):
            raise ValueError(
                f"{configurations[0].first.run.folder} and {configuration.first.run.folder} hold "
                "masks of different images; show them apart, one folder at a time"
            )


class _Canvas:
    """Tiles pasted on white, a block of rows per image, a row per method."""

    def __init__(self, files: Sequence[MaskFile]) -> None:
        self.files = files
        height, width = map(int, files[0].images.shape[2:])
        self.zoom = math.ceil(_TILE / min(height, width))
        self.tile: tuple[int, int] = (height * self.zoom, width * self.zoom)
        self.slots: int = max(file.masks.shape[1] for file in files)
        # Image and objects fill the left of a block as far as its rows allow.
        self.parts = 2 if files[0].segments is not None and len(files) > 1 else 1
        self.magnified = max(1, min(len(files) // self.parts, 3))
        self.rows = len(files) * len(files[0].images)
        self.pixels = np.ones((self._top(self.rows - 1) + self.tile[0], self._left(2, 0), 3))
        self.pixels = self.pixels[:, : -3 * _GAP]

    def block(self, image: int) -> None:
        """Paste the rows of one image."""
        pixels = self.files[0].images[image].transpose(1, 2, 0) / 255
        row = image * len(self.files)
        self._paste(row, 0, pixels, self.magnified)
        if self.parts == 2 and self.files[0].segments is not None:
            objects = _painted(self.files[0].segments[image])
            self._paste(row + self.magnified, 0, objects, self.magnified)
        mean = self.files[0].images.mean((0, 2, 3)) / 255
        for k, file in enumerate(self.files):
            for slot, mask in enumerate(file.masks[image]):
                hidden = mask[..., None] / 255 * np.ones(3)
                self._paste(row + k, self._left(0, slot), hidden)
                remains = pixels * (1 - hidden) + mean * hidden
                self._paste(row + k, self._left(1, slot), remains)

    def figure(self, configurations: Sequence[Configuration]) -> Figure:
        """The pasted tiles at one to one, with words around them."""
        labels = [textwrap.wrap(c.label, _LABEL) for c in configurations]
        margin = round(_LETTER * max(len(line) for label in labels for line in label)) + 3 * _GAP
        height, width = self.pixels.shape[:2]
        size = (max(margin + width + 2 * _GAP, _WIDTH), _HEAD + height + _FOOT)
        figure = Figure(figsize=(size[0] / DPI, size[1] / DPI))
        axes = figure.add_axes(
            (margin / size[0], _FOOT / size[1], width / size[0], height / size[1])
        )
        axes.imshow(self.pixels, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        for row in range(self.rows):
            text = "\n".join(labels[row % len(labels)])
            middle = self._top(row) + self.tile[0] / 2
            axes.text(-2 * _GAP, middle, text, ha="right", va="center", fontsize=8)
        for left, text in self._headings():
            axes.text(left + self.tile[1] / 2, -_GAP, text, ha="center", va="bottom", fontsize=7)
        first = configurations[0]
        figure.text(
            _GAP / size[0],
            1 - _GAP / size[1],
            f"What each slot hides: {first.data} (white is hidden)",
            va="top",
            fontsize=10,
        )
        seeds = sorted({c.first.run.seed for c in configurations})
        footer = f"Seed {', '.join(map(str, seeds))} of: {origin(configurations)}."
        lines = textwrap.wrap(footer, max(40, round(size[0] / 8)))
        figure.text(
            _GAP / size[0], _GAP / size[1], "\n".join(lines), va="bottom", fontsize=7, color=FAINT
        )
        return figure

    def _headings(self) -> list[tuple[int, str]]:
        slots = range(self.slots)
        masks = [(self._left(0, k), f"mask {k + 1}") for k in slots]
        remains = [(self._left(1, k), f"without {k + 1}") for k in slots]
        return [*masks, *remains]

    def _top(self, row: int) -> int:
        return row * (self.tile[0] + _GAP) + row // len(self.files) * 3 * _GAP

    def _left(self, group: int, slot: int) -> int:
        """Left edge of a slot's tile among the masks (group 0) or what remains (1)."""
        step = self.tile[1] + _GAP
        return (self.magnified + group * self.slots + slot) * step + (1 + group) * 2 * _GAP

    def _paste(self, row: int, left: int, tile: Tile, times: int = 1) -> None:
        """Paste a tile enlarged, as large as ``times`` tiles with the gaps between them."""
        height, width = (times * side + (times - 1) * _GAP for side in self.tile)
        rows, columns = (
            np.arange(large) * small // large
            for large, small in zip((height, width), tile.shape[:2], strict=True)
        )
        framed = tile[rows][:, columns]
        framed[[0, -1]] = framed[:, [0, -1]] = 0.7
        top = self._top(row)
        self.pixels[top : top + height, left : left + width] = framed


def _painted(segments: UInt8[np.ndarray, "h w"]) -> Tile:
    """A colour per object on light grey."""
    palette = np.array([(0.93, 0.93, 0.93), *colours(max(8, int(segments.max())))])
    painted: Tile = palette[segments]
    return painted
