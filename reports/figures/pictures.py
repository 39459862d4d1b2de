"""Which figures a report has: drawn, written, and told in words for who cannot see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmark.mask_metrics import slot_overlap
from reports.figures.ablation_plots import plot_ablation
from reports.figures.mask_curves import write_curves
from reports.figures.mask_gallery import write_galleries
from reports.figures.score_plots import MOST_ROWS, plot_compute, plot_points
from reports.figures.style import save, themed
from reports.figures.training_plots import MOST_CURVES, logged, plot_curves, plot_overlap
from reports.material import Material
from reports.page.report import Picture, Pictures
from reports.results.mask_runs import Configuration
from reports.tables.ablations import ablation_names, also_varied, varied_alone

MOST_WITH_MASKS = 5  # configurations; `reports/masks.py` draws all


def draw_scores(material: Material, folder: Path) -> Pictures:
    """Draw what there is of scores, training and cost, each as PNG and PDF.

    Args:
        material: that they are made of.
        folder: for the files.
    """
    pictures: dict[str, list[Picture]] = {}

    def add(section: str, name: str, title: str, text: str, figure: Figure | None) -> None:
        if figure is not None:
            save(figure, folder / f"{name}.png")
            pictures.setdefault(section, []).append(Picture(title, text, folder / f"{name}.png"))

    frame, entrants = material.scored, material.entrants
    scored = frame[frame["main"] & (frame["status"] == "ok")]
    if not scored.empty:
        text = (
            "A panel for each evaluation with a row for each method. Table 1 and 2 have the means."
        )
        rows = scored["label"].nunique()
        first = f", the first {MOST_ROWS} of {rows} rows" if rows > MOST_ROWS else ""
        title = f"Every seed{first}: points are seeds, bars 95% t intervals of the mean"
        add("Scores", "points", title, text, plot_points(scored))
    curves = [one.label for one in logged(entrants, material.logs)]
    first = f", the first {MOST_CURVES} of {len(curves)}" if len(curves) > MOST_CURVES else ""
    title = (
        f"Online probe and loss over training{first}: mean over seeds, from the lowest to the "
        "highest, averaged over a twentieth of the training; thin, seeds that have not ended. Each "
        "method has a loss of its own, which compares with no other"
    )
    text = f"Curves of {', '.join(curves[:MOST_CURVES])}."
    add("Training", "training", title, text, plot_curves(entrants, material.logs))
    title = "Scores against the operations of pretraining; dotted, the best that they buy"
    text = "A panel for each evaluation. The numbers are in the table of costs and Tables 1 and 2."
    add("Cost", "compute", title, text, plot_compute(scored, entrants))
    varied = varied_alone(entrants.values())
    names = ablation_names(varied)
    for key, groups in varied.items():
        also = also_varied(key, groups)
        title = f"Scores over {key}" + (f", with which {also} vary" if also else "")
        text = f"The table of the ablation of {key} has the numbers."
        figure = plot_ablation(scored, key, groups)
        add("Ablations", names[key], title, text, figure)
    return pictures


def draw_masks(material: Material, folder: Path) -> Pictures:
    """The same of masks.

    Raises:
        ValueError: naming a file that is broken.
    """
    if not material.masks:
        return {}
    masks = material.masks[:MOST_WITH_MASKS]
    count = len(material.masks)
    more = f" (the first {len(masks)} of {count})" if count > len(masks) else ""
    names = ", ".join(one.label for one in masks)
    pictures = [
        Picture(
            f"What each slot hides of the same images{more}",
            f"Rows of masks, white where hidden, and of what remains, for {names}.",
            path,
        )
        for path in write_galleries(masks, folder)
    ]
    pictures += [
        Picture(
            f"Slots over training: area against budget, binary pixels, loss added{more}",
            f"Curves of each slot and seed for {names}; the tables of masks have the last values.",
            path,
        )
        for path in write_curves(masks, folder)
    ]
    overlaps = dict(_overlaps(masks))
    if overlaps:
        path = folder / "overlap.png"
        with themed():
            save(plot_overlap(overlaps), path)
        text = "; ".join(f"{label}: {_told(overlap)}" for label, overlap in overlaps.items())
        title = f"Overlap of slots, mean cosine of the masks of an image{more}"
        pictures.append(Picture(title, text, path))
    return {"Masks": pictures}


def _overlaps(masks: Sequence[Configuration]) -> Iterator[tuple[str, np.ndarray]]:
    for one in masks:
        found = slot_overlap(one.first.mask_file().masks)
        if len(found) > 1:
            yield one.label, found


def _told(overlap: np.ndarray) -> str:
    others = overlap[~np.eye(len(overlap), dtype=bool)]
    return f"{others.mean():.2f} on average, at most {others.max():.2f}"
