"""What each test image contributed to a result: read with mistrust, and resampled."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmark.files import sha256_of
from benchmark.result_file import Result, main_metric, per_image_fault, read_per_image

N = 30
Arrays = dict[str, np.ndarray]


def pairs() -> Arrays:
    draws = np.random.default_rng(0)
    return {name: draws.integers(0, 3, N).astype(np.int32) for name in ("predicted", "truth")}


def score() -> Arrays:
    return {"score": np.random.default_rng(1).uniform(-0.5, 1, N)}


def overlap() -> Arrays:
    """Of four classes, one of which is in no image and one in few."""
    draws = np.random.default_rng(2)
    union = draws.integers(1, 50, (N, 4)).astype(np.uint32)
    union[:, 2] = 0
    union[3:, 3] = 0
    return {"intersection": union // np.uint32(3), "union": union}


FORMS = (pairs, score, overlap)


def slow_metric(arrays: Arrays) -> float:
    """By the definition of each form."""
    if "truth" in arrays:
        hits = [p == t for p, t in zip(arrays["predicted"], arrays["truth"], strict=True)]
        return 100 * sum(hits) / len(hits)
    if "score" in arrays:
        return 100 * math.fsum(arrays["score"]) / len(arrays["score"])
    sums = zip(*(arrays[name].sum(0).tolist() for name in ("intersection", "union")), strict=True)
    ious = [both / either for both, either in sums if either > 0]
    return 100 * sum(ious) / len(ious)


@pytest.mark.parametrize("form", FORMS)
def test_main_metric__equals_a_slow_loop(form: Callable[[], Arrays]) -> None:
    found = main_metric(form())
    assert isinstance(found, float)
    assert found == pytest.approx(slow_metric(form()), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_main_metric__weights_repeat_images(form: Callable[[], Arrays]) -> None:
    arrays, draws = form(), np.random.default_rng(3)
    chosen = draws.integers(0, N, (5, N))
    weights = np.stack([np.bincount(row, minlength=N) for row in chosen])
    found = main_metric(arrays, weights)
    assert found.shape == (5,)
    expected = [slow_metric({k: v[row] for k, v in arrays.items()}) for row in chosen]
    assert found == pytest.approx(expected, rel=1e-12)
    for row, value in zip(weights, found, strict=True):
        assert main_metric(arrays, row) == pytest.approx(value, rel=1e-12)
    assert main_metric(arrays, np.ones(N, np.int64)) == main_metric(arrays)


def test_main_metric__a_class_that_no_chosen_image_has_does_not_count() -> None:
    weights = np.arange(N) >= 3  # without the fourth class, as without the third
    rest = {name: array[3:, :2] for name, array in overlap().items()}
    assert main_metric(overlap(), weights.astype(int)) == pytest.approx(slow_metric(rest))


def test_main_metric__nothing_counts() -> None:
    for form in FORMS:
        assert np.isnan(main_metric(form(), np.zeros(N)))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({}, "its arrays are not predicted and truth or score or intersection and union"),
        (score() | pairs(), "its arrays are not"),
        ({"union": overlap()["union"]}, "its arrays are not"),
        ({"score": np.zeros(N, np.float32)}, "score is float32 (30,) where float64 of 1 dim"),
        ({"score": np.zeros((N, 1))}, "score is float64 (30, 1) where"),
        ({"score": np.zeros(0)}, "score is float64 (0,) where"),
        (pairs() | {"truth": np.zeros(N)}, "truth is float64 (30,) where int32 of 1 dimensions"),
        (pairs() | {"truth": pairs()["truth"][1:]}, "predicted and truth differ in shape"),
        (overlap() | {"union": np.zeros(N, np.int64)}, "where int64 or uint32 of 2 dimensions"),
        (
            {k: np.full((N, 1), v, np.int64) for k, v in (("intersection", 3), ("union", 2))},
            "an intersection is below 0 or above its union",
        ),
        (
            {k: np.full((N, 1), -1, np.int64) for k in ("intersection", "union")},
            "an intersection is below 0",
        ),
        ({"score": np.full(N, np.nan)}, "it gives nan where the main metric is 50"),
        ({"score": np.full(N, 0.50001)}, "it gives 50.001 where the main metric is 50"),
    ],
)  # fmt: skip
def test_per_image_fault__names_what_is_wrong(arrays: Arrays, says: str) -> None:
    fault = per_image_fault(arrays, 50.0)
    assert fault is not None
    assert says in fault


def read(path: Path, result: Result) -> Arrays:
    return read_per_image(path, result["per_image"], next(iter(result["metrics"].values())))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "knn-scenes-01234567" / "seed3.json"


def noted(path: Path, arrays: Arrays, **changes: Any) -> Result:
    """A result whose arrays lie beside it."""
    path.parent.mkdir(exist_ok=True)
    file = path.with_name("seed3.npz")
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    per_image = {"file": file.name, "sha256": sha256_of(file)} | changes
    metric = main_metric(arrays) if per_image_fault(arrays, math.nan) is None else 50.0
    return cast("Result", {"metrics": {"main": metric, "other": -1.0}, "per_image": per_image})


def whole(path: Path, form: Callable[[], Arrays]) -> Result:
    result = noted(path, form())
    result["metrics"]["main"] = slow_metric(form())
    return result


@pytest.mark.parametrize("form", FORMS)
def test_read_per_image__what_was_written(form: Callable[[], Arrays], path: Path) -> None:
    arrays = read(path, whole(path, form))
    assert arrays.keys() == form().keys()
    for name, array in form().items():
        assert array.dtype == arrays[name].dtype
        assert (array == arrays[name]).all()


def refused(path: Path, result: Result) -> str:
    """What is said of arrays, after the name of their file."""
    with pytest.raises(ValueError, match=rf"^{path.parent}/.*; delete {path} to have the task"):
        read(path, result)
    try:
        read(path, result)
    except ValueError as error:
        return str(error)
    raise AssertionError


def test_read_per_image__missing_broken_and_another_file(path: Path) -> None:
    result = whole(path, pairs)
    file = path.with_name("seed3.npz")
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert refused(path, result).startswith(f"{file} is not the file that seed3.json was written")
    file.unlink()
    assert refused(path, result).startswith(f"{file} cannot be read (No such file")
    file.mkdir()
    assert refused(path, result).startswith(f"{file} cannot be read (Is a directory")


@pytest.mark.parametrize("name", ["seed0.npz", "../seed3.npz", "/etc/passwd", "", "SEED3.npz"])
def test_read_per_image__leaves_the_folder_and_other_files_alone(name: str, path: Path) -> None:
    result = whole(path, pairs)
    result["per_image"]["file"] = name
    assert refused(path, result).startswith(f"{path} names another file of its images than seed3")


def test_read_per_image__files_that_fit_their_checksum_and_nothing_else(path: Path) -> None:
    file = path.with_name("seed3.npz")
    result = whole(path, pairs)
    for content in (b"", b"PK", file.read_bytes()[:-30]):
        file.write_bytes(content)
        result["per_image"]["sha256"] = sha256_of(file)
        assert refused(path, result).startswith(f"{file} holds no arrays")
    for arrays in ({}, {"truth": np.array([print])}, {"truth": np.zeros(3, np.int32)}):
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        result["per_image"]["sha256"] = sha256_of(file)
        assert refused(path, result).startswith(f"{file} ")


def test_read_per_image__arrays_of_another_result(path: Path) -> None:
    result = whole(path, pairs)
    result["metrics"]["main"] += 1e-3
    assert "seed3.npz does not fit seed3.json (it gives" in refused(path, result)
