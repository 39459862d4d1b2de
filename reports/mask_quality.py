"""What masks are worth, a row per configuration: quality.md to read, quality.csv to go on with."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.files import write_text
from benchmark.mask_metrics import (
    CONTROLS,
    EMPTY,
    SCORES,
    empty_share,
    mask_statistics,
    with_controls,
)
from reports.markup import markdown_grid
from reports.mask_runs import Configuration, origin
from reports.masked_run import MaskedRun

Line = Mapping[Hashable, Any]  # of the CSV

# The scores that quality.md has room for; quality.csv has all of them.
HEADINGS = {
    "ari": "ARI",
    "ari_foreground": "ARI-fg",
    "mean_segcover": "mSC",
    "miou": "mIoU",
}

_SCORES_NOTE = (
    "Scores, in percent, on hard labels: a pixel belongs to the slot that hides it most, and to no "
    "slot where none hides more than half of it. ARI: adjusted Rand index, over all pixels and "
    "(fg) over those of objects. mSC: best IoU of each segment, background included. mIoU: best "
    "IoU that what a slot hides by more than half reaches with each object.",
    "In brackets the two controls, scored alike: the masks of another image, and the mean mask of "
    "the set used for every image, where each slot hides the pixels that it hides most often, as "
    "many as it does on average. A score is bold where it exceeds both in every seed; others "
    "say nothing about objects.",
)
_NO_SCORES_NOTE = "The data set has no objects to score against, so ARI, mSC and mIoU are left out."
_STATISTICS_NOTE = (
    "Area: share of pixels that each slot hides, in percent, mean ± standard deviation over "
    "images, averaged over seeds slot by slot. Overlap: cosine between the masks of two slots, in "
    "percent, 0 if they are disjoint and 100 if they are alike however faint, averaged over pairs "
    "and images. Binary: share of values below 0.1 or above 0.9, in percent.",
    f"Empty slots: those whose loss exceeds the loss without mask by less than {EMPTY:.0%} of what "
    "hiding everything adds, in the last epoch; – where a run does not know the loss of every "
    "slot.",
)


def measure(configurations: Iterable[Configuration]) -> pd.DataFrame:
    """One row per run with its scores, controls and statistics; no object scores without objects.

    Raises:
        ValueError: naming a file that is broken.
    """
    rows = []
    for configuration in configurations:
        for masked in configuration.runs:
            run = masked.run
            rows.append(
                {
                    "label": configuration.label,
                    "data": run.data,
                    "method": run.method,
                    "objective": run.objective,
                    "encoder": run.encoder,
                    "preset": run.preset,
                    "hash8": run.hash8,
                    "seed": run.seed,
                    "commit": masked.commit(),
                    **_figures(masked),
                }
            )
    return pd.DataFrame(rows)


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Reduce the seeds of each configuration to one line: the CSV.

    Every figure becomes ``<figure>_mean`` and the sample standard deviation ``<figure>_std``;
    ``<score>_above`` counts the seeds in which a score exceeds both of its controls.
    """
    about = ["label", "data", "method", "objective", "encoder", "preset"]
    areas = [f"area_{k}" for k in range(1, int(frame["slots"].max()) + 1)]
    figures = ["area", *areas, *(f"{area}_spread" for area in areas), "overlap", "binary", "empty"]
    scores = [score for score in SCORES if score in frame]
    lines = []
    for _, seeds in frame.groupby("hash8", sort=False):
        line: dict[Hashable, Any] = {
            **seeds.iloc[0][[*about, "hash8", "images", "slots"]].to_dict(),
            "n": len(seeds),
            "seeds": " ".join(map(str, seeds["seed"])),
            "commits": " ".join(seeds["commit"].unique()),
        }
        for name in figures:
            line |= _spread(seeds, name)
        for score in scores:
            controls = [f"{score}_{control}" for control in CONTROLS]
            for name in (score, *controls):
                line |= _spread(seeds, name)
            line[f"{score}_above"] = int((seeds[score] > seeds[controls].max(axis=1)).sum())
        lines.append(line)
    return pd.DataFrame(lines)


def write_quality(configurations: Sequence[Configuration], out: Path) -> list[Path]:
    """Write both files; returns their paths.

    Raises:
        ValueError: naming a file that is broken.
    """
    summary = summarise(measure(configurations))
    parts = []
    for data, lines in summary.groupby("data", sort=False):
        own = [configuration for configuration in configurations if configuration.data == data]
        parts.append(_section(str(data), lines, origin(own)))
    texts = {
        out / "quality.md": "\n".join(parts),
        out / "quality.csv": summary.to_csv(index=False, lineterminator="\n"),
    }
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def _figures(masked: MaskedRun) -> dict[str, float]:
    file = masked.mask_file()
    images, slots = file.masks.shape[:2]
    found = {"images": images, "slots": slots, **mask_statistics(file.masks)}
    found["empty"] = empty_share(masked.lines(), slots)
    if file.segments is not None:
        found |= with_controls(file.masks, file.segments)
    return found


def _section(data: str, lines: pd.DataFrame, where: str) -> str:
    """One data set's table as Markdown."""
    scores = {s: heading for s, heading in HEADINGS.items() if _known(lines, f"{s}_mean").any()}
    header = ["Method", "n", *scores.values(), "Area", "Overlap", "Binary", "Empty slots"]
    body = [
        [
            line["label"],
            str(line["n"]),
            *(_score(line, score) for score in scores),
            _areas(line),
            _percent(line, "overlap"),
            _percent(line, "binary"),
            _empty(line),
        ]
        for line in lines.to_dict("records")
    ]
    images = sorted({int(count) for count in lines["images"]})
    caption = (
        f"**Masks on {data}.** What trained methods hide of "
        f"{' or '.join(map(str, images))} test images: mean ± sample standard deviation over n "
        f"seeds ({where})."
    )
    notes = [*(_SCORES_NOTE if scores else [_NO_SCORES_NOTE]), *_STATISTICS_NOTE]
    return markdown_grid(caption, [header, *body], notes)


def _spread(seeds: pd.DataFrame, name: str) -> dict[Hashable, float]:
    return {f"{name}_mean": seeds[name].mean(), f"{name}_std": seeds[name].std(ddof=1)}


def _known(lines: pd.DataFrame, column: str) -> "pd.Series[bool]":
    return lines[column].notna() if column in lines else pd.Series(False, index=lines.index)


def _percent(line: Line, figure: str) -> str:
    mean, std = line[f"{figure}_mean"], line[f"{figure}_std"]
    if np.isnan(mean):
        return "–"
    return _shown(mean) if np.isnan(std) else f"{_shown(mean)} ± {_shown(std)}"


def _shown(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}"  # + 0.0: no minus before a zero


def _score(line: Line, score: str) -> str:
    own = _percent(line, score)
    if own == "–":
        return own
    if line[f"{score}_above"] == line["n"]:
        own = f"**{own}**"
    controls = (line[f"{score}_{control}_mean"] for control in CONTROLS)
    return f"{own} ({', '.join(map(_shown, controls))})"


def _areas(line: Line) -> str:
    slots = range(1, int(line["slots"]) + 1)
    pairs = ((line[f"area_{k}_mean"], line[f"area_{k}_spread_mean"]) for k in slots)
    return ", ".join(f"{100 * mean:.0f}±{100 * spread:.0f}" for mean, spread in pairs)


def _empty(line: Line) -> str:
    mean, std, slots = (line[key] for key in ("empty_mean", "empty_std", "slots"))
    if np.isnan(mean):
        return "–"
    spread = "" if np.isnan(std) else f" ± {slots * std:.1f}"
    return f"{slots * mean:.1f}{spread} of {slots}"
