from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from benchmark.dataset import Dataset, Split
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.result_file import main_metric
from tasks.low_shot import LowShot
from tasks.selection import class_ranks

CPU = torch.device("cpu")
TWO: dict[str, Any] = {"fractions": [0.05, 0.25], "c": [1e-3, 0.1, 10.0], "folds": 3}
MakeData = Callable[..., Dataset]
MakeNet = Callable[..., nn.Module]


def run(task: LowShot, encoder: nn.Module, data: Dataset, eval_seed: int = 0):
    return task.run(encoder, data, eval_seed=eval_seed, device=CPU)


def standardised(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Pixels by mean and variance over the whole train split, in double precision."""
    assert data.test is not None
    known, asked = (
        (s.images.flatten(1).double() / 255 - 0.5) / 0.25 for s in (data.train, data.test)
    )
    deviation = (known.var(0, correction=0) + 1e-5).sqrt()
    return ((known - known.mean(0)) / deviation).numpy(), (
        (asked - known.mean(0)) / deviation
    ).numpy()


def labelled(labels: Tensor, share: float, eval_seed: int) -> list[int]:
    """The first of each class in the random order, at least one."""
    ranks = class_ranks(labels, eval_seed, "low_shot/labelled").tolist()
    counts = {k: max(1, round(share * labels.tolist().count(k))) for k in labels.tolist()}
    return [i for i, k in enumerate(labels.tolist()) if ranks[i] < counts[k]]


def test_run__equals_a_loop_over_folds(
    flat: MakeNet, coloured: MakeData, dataset: MakeData
) -> None:
    data = coloured(contrast=15)
    assert data.train.labels is not None
    assert data.test is not None
    # One colour is fainter in the test split, so that it matters by what features are standardised.
    fainter = data.test.images // torch.tensor([8, 1, 1], dtype=torch.uint8)[:, None, None]
    data = dataset(data.train, Split(fainter, data.test.labels))
    assert data.test is not None
    assert data.train.labels is not None
    result = run(LowShot(**TWO), flat(), data, eval_seed=4)
    assert list(result.metrics) == ["accuracy_5pct", "accuracy_25pct"]
    known, asked = standardised(data)
    labels = data.train.labels.numpy()
    ranks = class_ranks(data.train.labels, 4, "low_shot/labelled").numpy()
    for share, name in ((0.05, "5pct"), (0.25, "25pct")):
        few = labelled(data.train.labels, share, 4)
        details = result.details[name]
        assert details["labels"] == len(few) == {"5pct": 6, "25pct": 30}[name]
        scores = []
        for c in TWO["c"]:
            folds = []
            for fold in range(min(3, len(few) // 3)):
                held = [i for i in few if ranks[i] % 3 == fold]
                rest = [i for i in few if i not in held]
                model = LogisticRegression(C=c, max_iter=1000).fit(known[rest], labels[rest])
                folds.append(100 * np.mean(model.predict(known[held]) == labels[held]))
            scores.append(np.mean(folds))
        assert [t["accuracy"] for t in details["cross_validated"]] == pytest.approx(scores)
        assert details["chosen"]["c"] == TWO["c"][int(np.argmax(scores))]
        model = LogisticRegression(C=details["chosen"]["c"], max_iter=1000).fit(
            known[few], labels[few]
        )
        predicted = model.predict(asked)
        accuracy = 100 * np.mean(predicted == data.test.labels.numpy())
        assert result.metrics[f"accuracy_{name}"] == pytest.approx(accuracy)
        # Kept of the first fraction, which is the main metric.
        assert (result.per_image["predicted"] == predicted).all() == (name == "5pct")
    main = result.metrics["accuracy_5pct"]
    assert main_metric(result.per_image) == pytest.approx(main, rel=1e-12)


def test_run__more_labels_are_better(
    small_resnet: Callable[..., ResNet], coloured: MakeData
) -> None:
    task = LowShot(**TWO | {"fractions": [0.03, 1.0]})
    few, all_of_them = run(task, small_resnet(), coloured(contrast=40)).metrics.values()
    assert all_of_them > 90
    assert few < all_of_them


def test_run__one_label_per_class_has_a_fixed_penalty(flat: MakeNet, coloured: MakeData) -> None:
    details = run(LowShot(**TWO | {"fractions": [0.001]}), flat(), coloured()).details["0.1pct"]
    assert details["labels"] == 3
    assert details["chosen"]["c"] == 1e-3
    assert "cross_validated" not in details
    other = LowShot(**TWO | {"fractions": [0.001], "c_alone": 0.2})
    assert run(other, flat(), coloured()).details["0.1pct"]["chosen"] == {"c": 0.2}


def test_run__a_class_with_one_label_is_never_held_out(flat: MakeNet, dataset: MakeData) -> None:
    """Else a fold of two classes would have one class alone to train on."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (9, 3, 16, 16), generator=draws, dtype=torch.uint8)
    split = Split(images, torch.tensor([0, *[1] * 8]))
    task = LowShot(**TWO | {"fractions": [0.3]})
    details = run(task, flat(), dataset(split, split)).details["30pct"]
    assert details["labels"] == 3
    assert len(details["cross_validated"]) == 3


def test_run__one_value_of_c_is_not_validated(flat: MakeNet, coloured: MakeData) -> None:
    details = run(LowShot(fractions=[0.25], c=0.5), flat(), coloured()).details["25pct"]
    assert (details["labels"], details["chosen"]) == (30, {"c": 0.5})
    assert "cross_validated" not in details


def test_run__warns_of_the_edge(flat: MakeNet, coloured: MakeData) -> None:
    task = LowShot(fractions=[0.25, 0.5], c=[1e-6, 1e3])
    details = run(task, flat(), coloured(contrast=4)).details
    edges = []
    for share in (25, 50):
        c = details[f"{share}pct"]["chosen"]["c"]
        end, beyond = ("lowest", "lower") if c == 1e-6 else ("highest", "higher")
        edges.append(f"{share}%: c={c:g} is the {end} tried, and a {beyond} one may be better")
    assert details["warning"] == "; ".join(edges)


def test_run__seed_decides_which_labels(
    flat: MakeNet, coloured: MakeData, relabelled: Callable[[Dataset], Dataset]
) -> None:
    data, task = coloured(contrast=15), LowShot(**TWO)
    first = run(task, flat(), data, eval_seed=1)
    assert run(task, flat(), data, eval_seed=1) == first
    assert run(task, flat(), data, eval_seed=2).metrics != first.metrics
    other = run(task, flat(), relabelled(data), eval_seed=1)
    assert other.details == first.details
    assert other.metrics != first.metrics


def test_run__a_larger_fraction_contains_the_smaller_one() -> None:
    labels = torch.arange(300) % 3
    small, large = (set(labelled(labels, share, 0)) for share in (0.01, 0.1))
    assert len(small) == 3
    assert len(large) == 30
    assert small < large


def test_run__the_frozen_encoder_is_guarded(
    drifting: Callable[[int], nn.Module], coloured: MakeData
) -> None:
    with pytest.raises(RuntimeError, match="the encoder has changed"):
        run(LowShot(**TWO), drifting(1), coloured())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fractions": [0.1, 0.1]}, "fractions=.* must be a number or a list of different"),
        ({"fractions": [0.1, 1.5]}, "fractions=.* must be above 0 and at most 1 each"),
        ({"c": [0.0, 1.0]}, "c=0 must be above 0"),
        ({"c_alone": -1.0}, "c=-1 must be above 0"),
        ({"folds": 1}, "low_shot: folds=1 must be at least 2"),
        ({"max_iterations": 0}, "low_shot: max_iterations=0 must be at least 1"),
        ({"precision": "fp8"}, "precision=fp8 is not one of"),
    ],
)
def test_low_shot__refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LowShot(**TWO | settings)


def test_check__one_class_is_an_error(flat: MakeNet, coloured: MakeData, dataset: MakeData) -> None:
    images = coloured().train.images
    split = Split(images, torch.ones(len(images), dtype=torch.long))
    with pytest.raises(UserError, match="train split of 'toy' has one class only"):
        LowShot(**TWO).check(flat(), dataset(split, split))


def test_protocol__states_every_number() -> None:
    assert LowShot(**TWO).protocol == (
        "Logistic regression on frozen features of the labelled images, 5%, 25% of each class of "
        "the train split and at least one image, standardised by the whole train split: L2 penalty "
        "with inverse strength C the best of 0.001, 0.1, 10 by top-1 accuracy in 3-fold "
        "cross-validation among the labelled images (0.001 where no class has two), at most 1000 "
        "iterations of L-BFGS, encoder in fp32; top-1 accuracy on un-augmented test images."
    )
