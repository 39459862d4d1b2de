"""Result files: what they hold, and how one is read by whoever does not trust it. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, overload

import numpy as np
from jaxtyping import Float, Num

from benchmark.array_file import read_arrays
from benchmark.files import read_json, sha256_of
from benchmark.runs import PlannedTask, Run
from benchmark.type_check import misfit


class Inputs(TypedDict):
    """What was scored, and on what."""

    encoder_sha256: str
    data_fingerprint: str


class PerImage(TypedDict):
    """The file beside a result with what each test image contributed, and its checksum."""

    file: str
    sha256: str


class _Scored(TypedDict):
    """What every result holds."""

    task: str
    data: str
    protocol: str
    protocol_id: str
    version: int
    hash8: str
    pretrain_seed: int
    eval_seed: int
    metrics: dict[str, float]
    details: dict[str, Any]
    cost: dict[str, float]
    inputs: Inputs
    commit: str | None
    dirty: bool
    encoder_commit: str | None
    encoder_dirty: bool


class Result(_Scored, total=False):
    """One evaluation of one run, with all that it came from.

    The first of the metrics is the main one. ``commit`` and ``dirty`` are of the code that scored,
    ``encoder_commit`` and ``encoder_dirty`` of the code that pretrained. ``settings`` are those of
    the task, without its data. Results of earlier versions lack the keys below, and those of tasks
    whose main metric is of no form that has one lack ``per_image``.
    """

    settings: dict[str, Any]
    per_image: PerImage


class _Trained(TypedDict):
    """What every record of a pretraining holds."""

    encoder_sha256: str
    commit: str | None
    dirty: bool


class Pretraining(_Trained, total=False):
    """What is read here of the record of a pretraining; the commit is of the code that trained."""

    cost: dict[str, float]


def read_result(task: PlannedTask, run: Run, encoder_sha256: str) -> Result:
    """Read the result of a planned task.

    Args:
        task: of the run.
        run: whose encoder it scores.
        encoder_sha256: checksum of that encoder.

    Raises:
        ValueError: naming the file and the remedy, if it holds anything else, is of another task,
            protocol, configuration, seed, encoder or data, or has values that are no results.
    """
    found = _read(task.result)
    fault = misfit(found, Result, "it")
    if fault is None and not found["metrics"]:
        fault = "it has no metrics"
    if fault is not None:
        raise ValueError(
            f"{task.result} is no result ({fault}); delete it to have the task run again"
        )
    result: Result = found
    planned = {
        "task": task.name,
        "data": task.data,
        "protocol_id": task.protocol_id,
        "hash8": run.hash8,
        "pretrain_seed": run.seed,
        "eval_seed": task.eval_seed,
        "encoder_sha256": encoder_sha256,
        "data_fingerprint": task.fingerprint,
    }
    said: Mapping[str, object] = {**result, **result["inputs"]}
    if other := [key for key, value in planned.items() if said[key] != value]:
        differ = ", ".join(f"{key} {said[key]} in place of {planned[key]}" for key in other)
        raise ValueError(
            f"{task.result} was made from something else ({' '.join(differ.split())}); delete it "
            "to have the task run again"
        )
    return result


def per_image_file(path: Path) -> Path:
    """The file with what each test image contributed to the result in a file."""
    return path.with_suffix(".npz")


def read_per_image(path: Path, noted: PerImage, main: float) -> dict[str, np.ndarray]:
    """What each test image contributed to a result, see `benchmark.task.TaskResult`.

    Args:
        path: of the result.
        noted: what it says of the file.
        main: its main metric.

    Returns:
        Arrays by name.

    Raises:
        ValueError: naming the file and the remedy, if it is missing, broken or another one than
            the result says, or does not give the result's main metric.
    """
    file = per_image_file(path)
    again = f"delete {path} to have the task run again"
    if noted["file"] != file.name:  # else a result could have any file of the disk read
        raise ValueError(f"{path} names another file of its images than {file.name}; {again}")
    try:
        checksum = sha256_of(file)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); {again}") from error
    if checksum != noted["sha256"]:
        raise ValueError(f"{file} is not the file that {path.name} was written with; {again}")
    try:
        arrays = read_arrays(file)
    except ValueError as error:
        raise ValueError(f"{file} holds no arrays; {again}") from error
    if fault := per_image_fault(arrays, main):
        raise ValueError(f"{file} does not fit {path.name} ({fault}); {again}")
    return arrays


# The names of each form, the types that they may have, and their number of dimensions.
_FORMS = (
    ({"predicted", "truth"}, ("int32",), 1),
    ({"score"}, ("float64",), 1),
    ({"intersection", "union"}, ("int64", "uint32"), 2),
)


def per_image_fault(arrays: Mapping[str, np.ndarray], main: float) -> str | None:
    """How arrays are none of the forms of `benchmark.task.TaskResult`, in words; None if they are.

    Args:
        arrays: by name.
        main: the metric that has to follow from them.
    """
    form = next((form for form in _FORMS if form[0] == arrays.keys()), None)
    if form is None:
        known = " or ".join(" and ".join(sorted(names)) for names, _, _ in _FORMS)
        return f"its arrays are not {known}"
    _, types, dims = form
    for name, array in arrays.items():
        if array.dtype not in map(np.dtype, types) or array.ndim != dims or not array.size:
            expected = f"{' or '.join(types)} of {dims} dimensions"
            return f"{name} is {array.dtype} {array.shape} where {expected} is expected"
    if len({array.shape for array in arrays.values()}) > 1:
        return f"{' and '.join(sorted(arrays))} differ in shape"
    if "union" in arrays:
        intersection, union = arrays["intersection"], arrays["union"]
        if (intersection < 0).any() or (intersection > union).any():
            return "an intersection is below 0 or above its union"
    found = main_metric(arrays)
    if not math.isclose(found, main, rel_tol=1e-6, abs_tol=1e-9):
        return f"it gives {found:.6g} where the main metric is {main:.6g}"
    return None


@overload
def main_metric(arrays: Mapping[str, np.ndarray]) -> float: ...
@overload
def main_metric(
    arrays: Mapping[str, np.ndarray], weights: Num[np.ndarray, "*b n"]
) -> Float[np.ndarray, "*b"]: ...
def main_metric(
    arrays: Mapping[str, np.ndarray], weights: Num[np.ndarray, "*b n"] | None = None
) -> float | Float[np.ndarray, "*b"]:
    """The main metric of a result, in percent, as it follows from what each image contributed.

    Args:
        arrays: of one of the forms of `benchmark.task.TaskResult`.
        weights: how often each image counts, as in a resample; several resamples at once give a
            value each.

    Returns:
        NaN where nothing counts.
    """
    share, whole = _ratio(arrays)
    counted = np.ones(len(share)) if weights is None else weights.astype(np.float64, copy=False)
    share, whole = counted @ share, counted @ whole
    occurs = whole > 0
    ratios = np.divide(share, whole, out=np.zeros_like(share), where=occurs)
    with np.errstate(invalid="ignore"):
        found = 100 * (ratios.sum(-1) / occurs.sum(-1))
    return float(found) if weights is None else np.asarray(found)


def _ratio(
    arrays: Mapping[str, np.ndarray],
) -> tuple[Float[np.ndarray, "n c"], Float[np.ndarray, "n c"]]:
    """Every form as one: the ratio of two sums over images, averaged over c classes.

    As floats, which hold whole numbers up to 2**53 exactly and whose matrix products are fast.
    """
    if "union" in arrays:
        return arrays["intersection"].astype(np.float64), arrays["union"].astype(np.float64)
    right = arrays["score"] if "score" in arrays else arrays["predicted"] == arrays["truth"]
    share = right.astype(np.float64)[:, None]
    return share, np.ones_like(share)


def read_pretraining(run: Run) -> Pretraining:
    """Read what a run noted of its finished pretraining.

    Raises:
        ValueError: naming the file, if it is broken.
    """
    found = _read(run.pretraining_file)
    if fault := misfit(found, Pretraining, "it"):
        raise ValueError(
            f"{run.pretraining_file} is no record of a pretraining ({fault}); delete it to have "
            "the run trained again"
        )
    record: Pretraining = found
    return record


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); make it readable") from error
