from __future__ import annotations

import pandas as pd
import pytest

from reports.results.collect import collect
from reports.results.evaluations import Evaluation, evaluations, is_away

METRIC = {"segmentation": "miou", "clustering": "nmi", "mask_quality": "ari"}


def headings(*runs) -> list[str]:
    found = evaluations(collect(runs))
    return [f"{column.data}: {heading}" for column, heading in found.items()]


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("linear", "linear"),
        ("cifar10_linear", "linear"),
        ("transfer_finetune", "transfer_finetune"),
        ("cifar10_transfer_finetune", "transfer_finetune"),
        ("nonlinear", "nonlinear"),
        ("linear_extra", "linear_extra"),
    ],
)
def test_kind__by_the_end_of_the_name(task: str, kind: str) -> None:
    assert Evaluation(task, "scenes", "", "").kind == kind


def test_evaluations__in_the_order_of_the_paper_with_metrics(make_run) -> None:
    tasks = ("mask_quality", "own", "segmentation", "knn", "clustering", "finetune", "linear")
    run = make_run("none", 0, {(task, "scenes"): 1.0 for task in tasks}, metric=METRIC)
    assert headings(run) == [
        "scenes: Linear",
        "scenes: Fine Tune",
        "scenes: kNN",
        "scenes: Clustering (NMI)",
        "scenes: Segmentation (mIoU)",
        "scenes: Masks (ARI)",
        "scenes: Own",
    ]


def test_evaluations__two_protocols_of_one_task_are_two_columns(make_run) -> None:
    tasks = ("linear", "finetune", "segmentation")
    scores = {(task, "scenes", protocol): 1.0 for task in tasks for protocol in ("p0", "p1")}
    assert headings(make_run("none", 0, scores, metric=METRIC)) == [
        "scenes: Linear, p0",
        "scenes: Linear, p1",
        "scenes: Fine Tune, p0",
        "scenes: Fine Tune, p1",
        "scenes: Segmentation (mIoU), p0",
        "scenes: Segmentation (mIoU), p1",
    ]


def test_evaluations__tasks_that_share_a_heading(make_run) -> None:
    scores = {("transfer", "cifar10"): 1.0, ("cifar10_linear", "cifar10"): 1.0}
    scores |= {("inat2021_linear", "inat2021_mini"): 1.0}
    assert headings(make_run("none", 0, scores)) == [
        "cifar10: Linear, cifar10_linear",
        "cifar10: Linear, transfer",
        "inat2021_mini: Linear",
    ]


def test_evaluations__one_name_of_two_data_sets(make_run) -> None:
    frame = collect([make_run("none", 0, {("linear", "scenes"): 1.0})])
    found = evaluations(pd.concat([frame, frame.assign(fingerprint="0123456789")]))
    assert list(found.values()) == ["Linear, data f0", "Linear, data 01234567"]


def test_evaluations__the_metric_of_what_is_not_there_is_not_known(make_run) -> None:
    assert headings(make_run("none", 0, {("segmentation", "scenes"): None})) == [
        "scenes: Segmentation"
    ]


def test_is_away__transfer_segmentation_and_other_data(make_run) -> None:
    scores = {
        ("linear", "scenes"): False,
        ("linear", "digits"): True,
        ("transfer", "scenes"): True,
        ("streets_segmentation", "scenes"): True,
        ("mask_quality", "scenes"): False,
    }
    main = collect([make_run("none", 0, dict.fromkeys(scores, 1.0))]).query("main")
    assert list(is_away(main)) == list(scores.values())
