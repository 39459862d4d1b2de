"""What masks are worth, a row per configuration: quality.md to read, quality.csv to go on with."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.files import write_text
from benchmark.mask_metrics import (
    CONTROLS,
    EMPTY,
    SCORES,
    with_controls,
)
from reports.results.mask_runs import Configuration, origin
from reports.results.masked_run import MaskedRun
from reports.tables.markup import Cell, Column, Row, Table

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


def measure(
    configurations: Iterable[Configuration], known: Mapping[Path, Mapping[str, float]] | None = None
) -> pd.DataFrame:
    """One row per run with its scores, controls and statistics; no object scores without objects.

    Args:
        configurations: runs with masks.
        known: scores and controls by run folder, as shares, where a task has found them already.

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
                    **_figures(masked, (known or {}).get(run.folder)),
                }
            )
    return pd.DataFrame(rows)


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Reduce the seeds of each configuration to one line: the CSV.

    Every figure becomes ``<figure>_mean`` and the sample standard deviation ``<figure>_std``;
    ``<score>_above`` counts the seeds in which a score exceeds both of its controls.
    """
    seeds = frame.groupby("hash8", sort=False)
    areas = [f"area_{k}" for k in range(1, int(frame["slots"].max()) + 1)]
    figures = ["area", *areas, *(f"{area}_spread" for area in areas), "overlap", "binary", "empty"]
    scores = {s: [f"{s}_{control}" for control in CONTROLS] for s in SCORES if s in frame}
    names = [*figures, *(name for score, own in scores.items() for name in (score, *own))]
    means, deviations = seeds[names].mean(), seeds[names].std(ddof=1)
    about = ["label", "data", "method", "objective", "encoder", "preset", "hash8"]
    firsts = seeds[[*about, "images", "slots"]].head(1).set_index("hash8", drop=False)
    columns = {
        "n": seeds.size(),
        "seeds": seeds["seed"].agg(lambda own: " ".join(map(str, own))),
        "commits": seeds["commit"].agg(lambda own: " ".join(own.unique())),
    }
    for name in figures:
        columns |= {f"{name}_mean": means[name], f"{name}_std": deviations[name]}
    for score, controls in scores.items():
        for name in (score, *controls):
            columns |= {f"{name}_mean": means[name], f"{name}_std": deviations[name]}
        above = frame[score] > frame[controls].max(axis=1)
        columns[f"{score}_above"] = above.groupby(frame["hash8"], sort=False).sum()
    return pd.concat([firsts, pd.DataFrame(columns)], axis=1).reset_index(drop=True)


def write_quality(configurations: Sequence[Configuration], out: Path) -> list[Path]:
    """Write both files; returns their paths.

    Raises:
        ValueError: naming a file that is broken.
    """
    summary = summarise(measure(configurations))
    tables = quality_tables(summary, configurations)
    texts = {
        out / "quality.md": "\n".join(table.markdown() for table in tables),
        out / "quality.csv": summary.to_csv(index=False, lineterminator="\n"),
    }
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def quality_tables(summary: pd.DataFrame, configurations: Sequence[Configuration]) -> list[Table]:
    """A table for each data set.

    Args:
        summary: as `summarise` makes it.
        configurations: that it is of.
    """
    tables = []
    for data, lines in summary.groupby("data", sort=False):
        own = [configuration for configuration in configurations if configuration.data == data]
        tables.append(_table(str(data), lines, own))
    return tables


def _figures(masked: MaskedRun, known: Mapping[str, float] | None) -> dict[str, float]:
    if known is not None:
        return {**masked.statistics, **known}
    file = masked.mask_file()
    scores = {} if file.segments is None else with_controls(file.masks, file.segments)
    return {**masked.statistics, **scores}


def _table(data: str, lines: pd.DataFrame, configurations: Sequence[Configuration]) -> Table:
    scores = {s: heading for s, heading in HEADINGS.items() if _known(lines, f"{s}_mean").any()}
    names = ["n", *scores.values(), "Area", "Overlap", "Binary", "Empty slots"]
    runs = {c.label: tuple(str(m.run.folder) for m in c.runs) for c in configurations}
    rows = [
        Row(
            str(line["label"]),
            [
                Cell(str(line["n"]), value=line["n"], runs=runs.get(str(line["label"]), ())),
                *(_score(line, score) for score in scores),
                Cell(_areas(line)),
                _percent(line, "overlap"),
                _percent(line, "binary"),
                Cell(_empty(line), value=line["empty_mean"]),
            ],
        )
        for line in lines.to_dict("records")
    ]
    images = sorted({int(count) for count in lines["images"]})
    return Table(
        name=f"masks_{data}",
        title=f"Masks on {data}",
        caption=f"What trained methods hide of {' or '.join(map(str, images))} test images: mean "
        f"± sample standard deviation over n seeds ({origin(configurations)}).",
        columns=[Column(name) for name in names],
        rows=rows,
        notes=[*(_SCORES_NOTE if scores else [_NO_SCORES_NOTE]), *_STATISTICS_NOTE],
        data=lines,
    )


def _known(lines: pd.DataFrame, column: str) -> "pd.Series[bool]":
    return lines[column].notna() if column in lines else pd.Series(False, index=lines.index)


def _percent(line: Line, figure: str) -> Cell:
    mean, std = line[f"{figure}_mean"], line[f"{figure}_std"]
    if np.isnan(mean):
        return Cell()
    text = _shown(mean) if np.isnan(std) else f"{_shown(mean)} ± {_shown(std)}"
    return Cell(text, value=100 * mean)


def _shown(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}"  # + 0.0: no minus before a zero


def _score(line: Line, score: str) -> Cell:
    own = _percent(line, score)
    if not own.text:
        return own
    controls = (line[f"{score}_{control}_mean"] for control in CONTROLS)
    above = line[f"{score}_above"] == line["n"]
    remark = f"({', '.join(map(_shown, controls))})"
    return replace(own, remark=remark, mark="decided" if above else "")


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
