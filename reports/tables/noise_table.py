"""Where the noise of a score comes from: pretraining, the probe, and the choice of test images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from benchmark.result_file import PerImage, main_metric
from reports.results.evaluations import KEY, Evaluation, evaluations
from reports.results.images import Arrays, images_of
from reports.results.outcomes import outcomes
from reports.tables.markup import Column, Row, Table, number_cell

RESAMPLES = 1_000  # of the test images; fewer where there are more images than this allows
_DRAWS = 20_000_000


def resamples(images: int) -> Float[np.ndarray, "b images"]:
    """How often each test image is drawn in each bootstrap resample; the same on every call."""
    generator = np.random.default_rng(0)
    count = max(100, min(RESAMPLES, _DRAWS // images))
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


def noise_table(frame: pd.DataFrame) -> Table | None:
    """Standard deviations by source, each pooled over methods; None if there is nothing to tell.

    Args:
        frame: as `reports.results.images.images_checked` leaves it.

    Raises:
        ValueError: naming a file of images that is broken.
    """
    methods = frame[frame["control"].isna() & frame["main"]]
    cells = outcomes(methods)
    by_images = dict(_image_noise(methods))
    rows: list[Row] = []
    lines: list[dict[str, object]] = []
    for column, heading in evaluations(methods).items():
        own = [cell for (_, other), cell in cells.items() if other == column]
        found = {
            "seeds": pooled(cell.std for cell in own),
            "pretraining": pooled(cell.noise.pretraining for cell in own),
            "probe": pooled(cell.noise.probe for cell in own),
            "images": pooled(by_images.get(column, [])),
        }
        if not all(map(math.isnan, found.values())):
            rows.append(Row(f"{heading} on {column.data}", [*map(number_cell, found.values())]))
            lines.append({"task": column.task, "eval_data": column.data, **found})
    if not rows:
        return None
    resampled = (
        [
            f"Test images: bootstrap, at most {RESAMPLES:,} resamples of the images, the same for "
            "all runs; this noise is shared by methods that are scored on the same images, and "
            "mostly cancels in their difference."
        ]
        if by_images
        else []
    )
    return Table(
        name="noise",
        title="Sources of noise",
        caption="Standard deviation of a score in points, root mean square over the methods for "
        "which it can be told: over seeds (the ± of Tables 1 and 2), of these what pretraining and "
        "what the probe alone add, and of the mean over seeds over resamples of the test images.",
        columns=[Column(n) for n in ("Over seeds", "Pretraining", "Probe", "Test images")],
        rows=rows,
        notes=[
            "Pretraining and probe are told apart where there are several evaluation seeds.",
            *resampled,
        ],
        head="Evaluation",
        data=pd.DataFrame(lines),
    )


def _image_noise(methods: pd.DataFrame) -> Iterator[tuple[Evaluation, list[float]]]:
    """For each evaluation that keeps its images, the deviation of each method over resamples."""
    done = methods[(methods["status"] == "ok") & methods["per_image"].notna()]
    files: dict[Evaluation, dict[str, list[tuple[str, PerImage, float]]]] = {}
    columns = [*KEY, "label", "path", "per_image", "value"]
    for *key, label, path, noted, value in done[columns].itertuples(index=False):
        of_column = files.setdefault(Evaluation(*key), {})
        of_column.setdefault(label, []).append((path, noted, value))
    weights: dict[int, Float[np.ndarray, "b images"]] = {}
    for column, by_label in files.items():
        deviations = []
        for found in by_label.values():
            runs = [images_of(*result) for result in found]
            count = len(next(iter(runs[0].values())))
            if count not in weights:
                weights[count] = resamples(count)
            deviations.append(float(np.std(over_images(runs, weights[count]), ddof=1)))
        yield column, deviations


def pooled(deviations: Iterable[float]) -> float:
    """The root of the mean variance; NaN without any."""
    known = [deviation**2 for deviation in deviations if not math.isnan(deviation)]
    return math.sqrt(sum(known) / len(known)) if known else math.nan
