"""What test images gave, checked against the scores that are said to come from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.result_file import PerImage, read_per_image
from reports.results.evaluations import KEY

Arrays = Mapping[str, np.ndarray]


def images_of(path: str, noted: PerImage, main: float) -> Arrays:
    """The arrays beside the result at ``path``; see `benchmark.result_file.read_per_image`."""
    return read_per_image(Path(path), noted, main)


def images_checked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame, with those results made invalid that their own images contradict.

    A result is contradicted if the file of its images is missing, broken or another one, does not
    give the main metric, or has another number of images than most of the same evaluation.

    Args:
        frame: as `reports.results.collect.collect` makes it.
    """
    kept = frame[frame["main"] & (frame["status"] == "ok") & frame["per_image"].notna()]
    problems: dict[str, str] = {}
    counts: dict[tuple[str, ...], dict[str, int]] = {}
    for *key, path, noted, value in kept[[*KEY, "path", "per_image", "value"]].itertuples(
        index=False
    ):
        try:
            arrays = images_of(path, noted, value)
        except ValueError as error:
            problems[path] = str(error)
        else:
            counts.setdefault(tuple(key), {})[path] = len(next(iter(arrays.values())))
    for by_path in counts.values():
        ((usual, _),) = Counter(by_path.values()).most_common(1)
        for path, count in by_path.items():
            if count != usual:
                problems[path] = (
                    f"{path} is of {count} images where others of its evaluation are of {usual}; "
                    "delete it to have the task run again"
                )
    if not problems:
        return frame
    at_fault = frame["path"].isin(list(problems))
    checked = frame[~at_fault | frame["main"]].astype({"problem": object, "metric": object})
    at_fault = checked["path"].isin(list(problems))
    checked.loc[at_fault, ["status", "value", "metric"]] = ["invalid", np.nan, None]
    checked.loc[at_fault, "problem"] = checked.loc[at_fault, "path"].map(problems)
    return checked
