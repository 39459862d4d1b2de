"""Where the noise of a score comes from: pretraining, the probe, and the choice of test images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from benchmark.result_file import PerImage, main_metric, read_per_image
from reports.results.evaluations import KEY, Evaluation, evaluations
from reports.results.outcomes import outcomes, shown
from reports.tables.markup import Cell, Column, Row, Table

RESAMPLES = 1_000  # of the test images; fewer where there are more images than this allows
_DRAWS = 20_000_000

Arrays = Mapping[str, np.ndarray]


def resamples(images: int) -> Float[np.ndarray, "b images"]:
    """How often each test image is drawn in each bootstrap resample; the same on every call."""
    generator = np.random.default_rng(0)
    count = min(RESAMPLES, _DRAWS // images)
    return np.stack(
        [
            np.bincount(generator.integers(images, size=images), minlength=images)
            for _ in range(count)
        ]
    ).astype(np.float64)


def over_images(
    runs: Sequence[Arrays], weights: Float[np.ndarray, "b images"]
) -> Float[np.ndarray, "b"]:
    """The mean over runs of the main metric, in each resample of the images that all were shown."""
    metrics = np.stack([main_metric(arrays, weights) for arrays in runs])
    return np.asarray(metrics.mean(0))


def noise_table(frame: pd.DataFrame) -> tuple[Table | None, list[str]]:
    """Standard deviations by source, each pooled over methods, and the broken files.

    Args:
        frame: as `reports.results.collect.collect` makes it.

    Returns:
        The table, None if there is nothing for it, and a sentence for each file that is left out.
    """
    methods = frame[frame["control"].isna() & frame["main"]]
    cells = outcomes(methods)
    done = methods[(methods["status"] == "ok") & methods["per_image"].notna()]
    files: dict[tuple[str, Evaluation], list[tuple[str, PerImage, float]]] = {}
    for label, *key, path, noted, value in done[
        ["label", *KEY, "path", "per_image", "value"]
    ].itertuples(index=False):
        files.setdefault((label, Evaluation(*key)), []).append((path, noted, value))
    weights: dict[int, Float[np.ndarray, "b images"]] = {}
    problems: list[str] = []
    rows: list[Row] = []
    lines: list[dict[str, object]] = []
    for column, heading in evaluations(frame).items():
        images = []
        for (_, other), found in files.items():
            if other == column:
                runs = list(_arrays(found, problems))
                if runs:
                    count = len(next(iter(runs[0].values())))
                    if count not in weights:
                        weights[count] = resamples(count)
                    images.append(float(np.std(over_images(runs, weights[count]), ddof=1)))
        own = [cell for (_, other), cell in cells.items() if other == column]
        line = {
            "task": column.task,
            "eval_data": column.data,
            "seeds": _pooled([cell.std for cell in own]),
            "pretraining": _pooled([cell.noise.pretraining for cell in own]),
            "probe": _pooled([cell.noise.probe for cell in own]),
            "images": _pooled(images),
        }
        if any(not math.isnan(float(str(line[k]))) for k in ("seeds", "images")):
            lines.append(line)
            shown_cells = [_deviation(float(str(line[k]))) for k in list(line)[2:]]
            rows.append(Row(f"{heading} on {column.data}", shown_cells))
    if not rows:
        return None, problems
    return (
        Table(
            name="noise",
            title="Sources of noise",
            caption="Standard deviation of a score in points, pooled over methods: over seeds (the "
            "± of Tables 1 and 2), of these what pretraining and what the probe alone add, and of "
            "the mean over seeds over resamples of the test images.",
            columns=[Column(n) for n in ("Over seeds", "Pretraining", "Probe", "Test images")],
            rows=rows,
            notes=[
                "Pretraining and probe are told apart where there are several evaluation seeds. "
                f"Test images: bootstrap, {RESAMPLES:,} resamples of the images, the same for all "
                "runs; this noise is shared by methods that are scored on the same images, and "
                "mostly cancels in their difference."
            ],
            head="Evaluation",
            data=pd.DataFrame(lines),
        ),
        problems,
    )


def _arrays(found: Sequence[tuple[str, PerImage, float]], problems: list[str]) -> Iterator[Arrays]:
    for path, noted, main in found:
        try:
            yield read_per_image(Path(path), noted, main)
        except ValueError as error:
            problems.append(str(error))


def _pooled(deviations: Sequence[float]) -> float:
    known = [deviation**2 for deviation in deviations if not math.isnan(deviation)]
    return math.sqrt(sum(known) / len(known)) if known else math.nan


def _deviation(value: float) -> Cell:
    return Cell() if math.isnan(value) else Cell(shown(value), value=value)
