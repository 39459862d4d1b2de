from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.contracts import Dataset, Split, UserError
from benchmark.encoders import ResNet
from benchmark.streams import seeded
from tasks import segmentation
from tasks.features import working_copy
from tasks.segmentation import FCN8s, Segmentation, confusion_matrix, intersection_over_union

CPU = torch.device("cpu")
SIZE = 16
SETTINGS: dict[str, Any] = {"epochs": 6, "lr": 0.05, "batch_size": 16}


def dataset(train: Split, test: Split) -> Dataset:
    half = (0.5, 0.5, 0.5)
    return Dataset("toy", train, test, (), half, (0.25, 0.25, 0.25), "toy", "toy")


def halves(count: int, seed: int) -> Split:
    """Left and right half are each dark (class 0) or light (class 1); the middle is ignored."""
    draws = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 2, (count, 1, 2), generator=draws).repeat_interleave(SIZE // 2, 2)
    truth = truth.repeat(1, SIZE, 1).to(torch.uint8)
    images = torch.randint(0, 60, (count, 3, SIZE, SIZE), generator=draws, dtype=torch.uint8)
    images += 150 * truth[:, None]
    truth[:, :, SIZE // 2 - 2 : SIZE // 2 + 2] = 255
    return Split(images, pixel_labels=truth)


def toy() -> Dataset:
    return dataset(halves(96, 0), halves(40, 1))


def small_resnet() -> ResNet:
    with seeded(0, "test/encoder"):
        return ResNet(18, width=8, stem="small")


def pixel_labels(split: Split | None) -> Tensor:
    assert split is not None
    assert split.pixel_labels is not None
    return split.pixel_labels


def slow_confusion(truth: Tensor, predicted: Tensor, num_classes: int) -> list[list[int]]:
    table = [[0] * num_classes for _ in range(num_classes)]
    for t, p in zip(truth.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        if t != 255:
            table[t][p] += 1
    return table


def random_maps(num_classes: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(num_classes)
    truth = torch.randint(0, num_classes, (5, 6, 7), generator=draws).to(torch.uint8)
    predicted = torch.randint(0, num_classes, (5, 6, 7), generator=draws)
    truth[torch.rand(truth.shape, generator=draws) < 0.3] = 255
    return truth, predicted


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_iou__equals_a_slow_loop(num_classes: int) -> None:
    truth, predicted = random_maps(num_classes)
    confusion = confusion_matrix(truth, predicted, num_classes)
    assert confusion.tolist() == slow_confusion(truth, predicted, num_classes)
    for k, iou in enumerate(intersection_over_union(confusion).tolist()):
        both = either = 0
        for t, p in zip(truth.flatten().tolist(), predicted.flatten().tolist(), strict=True):
            both += t != 255 and t == k and p == k
            either += t != 255 and (t == k or p == k)
        assert iou == pytest.approx(both / either)


def test_iou__absent_classes_are_nan_and_predicted_ones_zero() -> None:
    truth = torch.tensor([[[0, 0, 255]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 1, 2]]])
    iou = intersection_over_union(confusion_matrix(truth, predicted, 3)).tolist()
    assert iou[:2] == [0.5, 0.0]
    assert math.isnan(iou[2])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_fcn8s__every_stage_counts(layer: int) -> None:
    encoder = small_resnet().eval()
    head = FCN8s(encoder.stage_dims, 3)
    with torch.no_grad():
        maps = encoder.stages(torch.rand(2, 3, SIZE, SIZE))
        before = head(maps, SIZE)
        nn.init.zeros_(head.scores[layer].weight)  # type: ignore[arg-type]
        nn.init.zeros_(head.scores[layer].bias)  # type: ignore[arg-type]
        after = head(maps, SIZE)
    assert before.shape == (2, 3, SIZE, SIZE)
    assert not torch.allclose(before, after)


def test_fcn8s__constant_maps_add_up() -> None:
    head = FCN8s((4, 5, 6, 7), 2)
    sides = (12, 7, 4, 2)  # odd sides too: a stage need not be half of the one before
    maps = [torch.ones(1, d, s, s) for d, s in zip((4, 5, 6, 7), sides, strict=True)]
    expected = sum(
        (score.weight.sum((1, 2, 3)) + score.bias for score in head.scores),  # type: ignore[operator, union-attr]
        start=torch.zeros(2),
    )
    scores = head(maps, 23)
    torch.testing.assert_close(scores, expected.view(1, 2, 1, 1).expand(1, 2, 23, 23))


@pytest.mark.parametrize(
    "settings", [{}, {"freeze": True, "lr": 0.5}, {"flip_prob": 1.0}, {"precision": "bf16"}]
)
def test_run__visible_classes_are_learnt(settings: dict[str, Any]) -> None:
    # With flip_prob=1 this proves that truth and image are flipped together: all training
    # images are mirrored and no test image is.
    task = Segmentation(**SETTINGS | settings)
    result = task.run(small_resnet(), toy(), eval_seed=0, device=CPU)
    assert list(result.metrics) == ["miou", "pixel_accuracy"]
    assert result.metrics["miou"] > 90
    assert result.metrics["pixel_accuracy"] > 95
    assert result.metrics["miou"] == pytest.approx(sum(result.details["iou"]) / 2)


def test_run__score_is_that_of_the_whole_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = toy(), []

    def keep(truth: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
        seen.append((truth, predicted))
        return confusion_matrix(truth, predicted, num_classes)

    monkeypatch.setattr(segmentation, "confusion_matrix", keep)
    task = Segmentation(**SETTINGS | {"epochs": 1})
    whole = task.run(small_resnet(), data, eval_seed=0, device=CPU)
    seen.clear()
    monkeypatch.setattr(segmentation, "EVAL_BATCH", 16)
    monkeypatch.setattr("tasks.features.EVAL_BATCH", 16)
    result = task.run(small_resnet(), data, eval_seed=0, device=CPU)
    assert 20 < result.metrics["miou"] < 90  # far from trivial
    assert result.metrics == pytest.approx(whole.metrics, abs=0.1)
    assert [len(truth) for truth, _ in seen] == [16, 16, 8]
    truth, predicted = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert torch.equal(truth, pixel_labels(data.test))
    table = slow_confusion(truth, predicted, 2)
    correct = table[0][0] + table[1][1]
    assert result.metrics["pixel_accuracy"] == pytest.approx(100 * correct / sum(map(sum, table)))
    ious = [table[k][k] / (table[k][0] + table[k][1] + table[1 - k][k]) for k in (0, 1)]
    assert result.metrics["miou"] == pytest.approx(50 * sum(ious))


def test_run__class_of_the_test_split_alone_counts_as_missed() -> None:
    data = toy()
    truth = pixel_labels(data.test).clone()
    truth[:, :4] = 3
    data = dataset(data.train, Split(halves(40, 1).images, pixel_labels=truth))
    result = Segmentation(**SETTINGS).run(small_resnet(), data, eval_seed=0, device=CPU)
    iou = result.details["iou"]
    assert iou[2:] == [None, 0.0]
    assert result.metrics["miou"] == pytest.approx(sum(iou[:2]) / 3)


@pytest.mark.parametrize("freeze", [True, False])
def test_run__encoder_of_the_caller_is_untouched(freeze: bool) -> None:
    encoder = small_resnet()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    task = Segmentation(**SETTINGS | {"epochs": 1, "freeze": freeze})
    task.run(encoder, toy(), eval_seed=0, device=CPU)
    after = encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training for module in encoder.modules())


@pytest.mark.parametrize("freeze", [True, False])
def test_run__eval_seed_decides_and_test_truth_does_not(
    freeze: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[nn.Module] = []

    def keep_copy(*args: Any, **kwargs: Any) -> nn.Module:
        kept.append(working_copy(*args, **kwargs))
        return kept[-1]

    class Kept(FCN8s):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            kept.append(self)

    monkeypatch.setattr(segmentation, "working_copy", keep_copy)
    monkeypatch.setattr(segmentation, "FCN8s", Kept)

    def run(data: Dataset, eval_seed: int) -> tuple[Any, list[Tensor]]:
        kept.clear()
        task = Segmentation(**SETTINGS | {"epochs": 2, "freeze": freeze})
        result = task.run(small_resnet(), data, eval_seed=eval_seed, device=CPU)
        return result, [value for net in kept for value in net.state_dict().values()]

    def same(a: list[Tensor], b: list[Tensor]) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    data = toy()
    assert data.test is not None
    result, states = run(data, 0)
    again, states_again = run(data, 0)
    assert result == again
    assert same(states, states_again)
    assert not same(states, run(data, 1)[1])
    shuffled = Split(data.test.images, pixel_labels=pixel_labels(data.test).flip(0))
    other, other_states = run(dataset(data.train, shuffled), 0)
    assert same(states, other_states)
    assert other != result


def test_run__frozen_and_trained_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[nn.Module] = []

    def keep_copy(*args: Any, **kwargs: Any) -> nn.Module:
        kept.append(working_copy(*args, **kwargs))
        return kept[-1]

    monkeypatch.setattr(segmentation, "working_copy", keep_copy)
    encoder = small_resnet()
    for freeze in (True, False):
        task = Segmentation(**SETTINGS | {"epochs": 1, "freeze": freeze})
        task.run(encoder, toy(), eval_seed=0, device=CPU)
        moved = kept[-1].state_dict()
        for name, value in encoder.state_dict().items():
            assert torch.equal(moved[name], value) == freeze, name


def test_run__ignored_batches_do_no_harm() -> None:
    train = halves(32, 0)
    truth = pixel_labels(train).clone()
    truth[4:] = 255
    task = Segmentation(**SETTINGS | {"batch_size": 2, "epochs": 1})
    result = task.run(
        small_resnet(),
        dataset(Split(train.images, pixel_labels=truth), halves(8, 1)),
        eval_seed=0,
        device=CPU,
    )
    assert all(math.isfinite(value) for value in result.metrics.values())


def test_run__encoder_without_stages_is_an_error() -> None:
    with pytest.raises(UserError, match="encoder Flatten has no three stages of feature maps"):
        Segmentation(**SETTINGS).run(nn.Flatten(), toy(), eval_seed=0, device=CPU)


def test_segmentation__refuses_contradictions() -> None:
    with pytest.raises(UserError, match=r"head_lr=0\.1 needs freeze=false"):
        Segmentation(**SETTINGS | {"freeze": True, "head_lr": 0.1})
    with pytest.raises(UserError, match="precision=fp8 is not one of fp32, bf16"):
        Segmentation(**SETTINGS | {"precision": "fp8"})
    with pytest.raises(UserError, match="batch_size=0 must be at least 1"):
        Segmentation(**SETTINGS | {"batch_size": 0})
    with pytest.raises(UserError, match=r"flip_prob=2\.0 must lie between 0 and 1"):
        Segmentation(**SETTINGS | {"flip_prob": 2.0})
