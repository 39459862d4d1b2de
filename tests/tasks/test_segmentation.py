from __future__ import annotations

import io
import lzma
import math
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics
from torch import Tensor, nn

from benchmark.dataset import Dataset, Split
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.result_file import main_metric
from benchmark.streams import seeded
from tasks import segmentation
from tasks.fcn import FCN
from tasks.iou import confusion_matrices
from tasks.segmentation import Segmentation

CPU = torch.device("cpu")
SIZE = 16
SETTINGS: dict[str, Any] = {"epochs": 6, "lr": 0.05, "batch_size": 16}
STREETS = Path(__file__).parents[2].parent / "shared/data/camvid-voc.tar.xz"


def dataset(train: Split, test: Split, **changes: Any) -> Dataset:
    half = (0.5, 0.5, 0.5)
    return Dataset("toy", train, test, (), half, (0.25, 0.25, 0.25), "toy", "toy", **changes)


def halves(count: int, seed: int) -> Split:
    """Left and right half are each dark (class 0) or light (class 1); the middle is ignored."""
    draws = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 2, (count, 1, 2), generator=draws).repeat_interleave(SIZE // 2, 2)
    truth = truth.repeat(1, SIZE, 1).to(torch.uint8)
    images = torch.randint(0, 60, (count, 3, SIZE, SIZE), generator=draws, dtype=torch.uint8)
    images += 150 * truth[:, None]
    truth[:, :, SIZE // 2 - 2 : SIZE // 2 + 2] = 255
    return Split(images, pixel_labels=truth)


def toy(**changes: Any) -> Dataset:
    return dataset(halves(96, 0), halves(40, 1), **changes)


def small_resnet() -> ResNet:
    with seeded(0, "test/encoder"):
        return ResNet(18, width=8, stem="small")


def pixel_labels(split: Split | None) -> Tensor:
    assert split is not None
    assert split.pixel_labels is not None
    return split.pixel_labels


class Seen:
    """Runs the task and keeps the truth and prediction that it scores, and the nets it trains."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.nets: list[nn.Module] = []
        self.trained_on: list[list[int]] = []
        self.scored_on: list[list[int]] = []
        net_of, fit, confusion_of = Segmentation._net, Segmentation._fit, Segmentation._confusion

        def keep_parts(truth: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
            self.parts.append((truth, predicted))
            return confusion_matrices(truth, predicted, num_classes)

        def keep_net(*args: Any) -> FCN:
            self.nets.append(net_of(*args))
            return self.nets[-1]  # type: ignore[return-value]

        def keep_trained(task: Segmentation, *args: Any) -> None:
            self.trained_on.append(args[5].tolist())
            fit(task, *args)

        def keep_scored(task: Segmentation, *args: Any) -> Tensor:
            self.scored_on.append(args[4].tolist())
            return confusion_of(task, *args)

        monkeypatch.setattr(Segmentation, "_fit", keep_trained)
        monkeypatch.setattr(Segmentation, "_confusion", keep_scored)
        monkeypatch.setattr(segmentation, "confusion_matrices", keep_parts)
        monkeypatch.setattr(Segmentation, "_net", keep_net)

    def __call__(self, data: Dataset, eval_seed: int = 0, **settings: Any) -> Any:
        for kept in (self.parts, self.nets, self.trained_on, self.scored_on):
            kept.clear()
        task = Segmentation(**SETTINGS | settings)
        return task.run(small_resnet(), data, eval_seed=eval_seed, device=CPU)

    @property
    def states(self) -> list[Tensor]:
        return [value for net in self.nets for value in net.state_dict().values()]

    @property
    def scored(self) -> tuple[np.ndarray, np.ndarray]:
        """Classes and predictions of all pixels that count."""
        truth, predicted = (torch.cat(parts).flatten() for parts in zip(*self.parts, strict=True))
        return truth[truth != 255].numpy(), predicted[truth != 255].numpy()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"freeze": True, "lr": 0.5},
        {"flip_prob": 1.0},
        {"precision": "bf16"},
        {"head": "fcn16", "schedule": "cosine", "epochs": 4},
        {"head": "fcn32", "epochs": 9},
        {"crop_size": 12, "min_scale": 0.75, "max_scale": 1.5},
    ],
)
def test_run__visible_classes_are_learnt(settings: dict[str, Any]) -> None:
    # With flip_prob=1 this proves that truth and image are flipped together: all training
    # images are mirrored and no test image is.
    task = Segmentation(**SETTINGS | settings)
    result = task.run(small_resnet(), toy(), eval_seed=0, device=CPU)
    assert list(result.metrics) == ["miou", "pixel_accuracy"]
    assert result.metrics["miou"] > (85 if "head" in settings else 90)
    assert result.metrics["pixel_accuracy"] > 93
    assert result.metrics["miou"] == pytest.approx(sum(result.details["iou"].values()) / 2)


def test_run__score_is_that_of_the_whole_test_split(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy()
    whole = seen(data, epochs=1)
    assert len(seen.parts) == 1
    # Few scores at a time, as where images are large.
    monkeypatch.setattr(segmentation, "_EVAL_SCORES", 2 * SIZE**2 * 16)
    result = seen(data, epochs=1)
    assert 20 < result.metrics["miou"] < 90  # far from trivial
    assert result.metrics == pytest.approx(whole.metrics, abs=0.1)
    assert [len(truth) for truth, _ in seen.parts] == [16, 16, 8]
    assert torch.equal(torch.cat([truth for truth, _ in seen.parts]), pixel_labels(data.test))
    truth, predicted = seen.scored
    scores = 100 * metrics.jaccard_score(truth, predicted, average=None)
    assert list(result.details["iou"].values()) == pytest.approx(scores)
    assert result.metrics["miou"] == pytest.approx(scores.mean())
    accuracy = 100 * metrics.accuracy_score(truth, predicted)
    assert result.metrics["pixel_accuracy"] == pytest.approx(accuracy)
    assert main_metric(result.per_image) == pytest.approx(result.metrics["miou"], rel=1e-12)
    chosen = np.array([3, 3, 17, 39])  # of all batches, one twice
    true, guessed = (torch.cat(p)[chosen].flatten() for p in zip(*seen.parts, strict=True))
    score = metrics.jaccard_score(true[true != 255], guessed[true != 255], average="macro")
    weights = np.bincount(chosen, minlength=40)
    assert main_metric(result.per_image, weights) == pytest.approx(100 * score)


def test_run__classes_have_their_names_and_the_head_knows_all_of_them(seen: Seen) -> None:
    names = ("dark", "light", "never seen")
    result = seen(toy(pixel_class_names=names))
    assert list(result.details["iou"]) == list(names)
    assert result.details["iou"]["never seen"] is None
    assert result.metrics["miou"] > 90  # the class without pixels does not count
    assert result.per_image["union"].shape == (40, 3)
    assert main_metric(result.per_image) == pytest.approx(result.metrics["miou"], rel=1e-12)
    assert seen.states[-1].shape == (3,)  # biases
    assert list(seen(toy(), epochs=1).details["iou"]) == ["0", "1"]


def test_run__class_of_the_test_split_alone_counts_as_missed() -> None:
    data = toy()
    truth = pixel_labels(data.test).clone()
    truth[:, :4] = 3
    data = dataset(data.train, Split(halves(40, 1).images, pixel_labels=truth))
    result = Segmentation(**SETTINGS).run(small_resnet(), data, eval_seed=0, device=CPU)
    iou = list(result.details["iou"].values())
    assert iou[2:] == [None, 0.0]
    assert result.metrics["miou"] == pytest.approx(sum(iou[:2]) / 3)
    assert main_metric(result.per_image) == pytest.approx(result.metrics["miou"], rel=1e-12)


def test_run__images_are_seen_at_their_stored_size(seen: Seen) -> None:
    plain = seen(toy(), epochs=1)
    viewed = seen(toy(view_size=8, view="centre"), epochs=1)
    assert plain.metrics == viewed.metrics
    assert seen.parts[0][0].shape[1:] == (SIZE, SIZE)


@pytest.mark.parametrize("freeze", [True, False])
def test_run__encoder_of_the_caller_is_untouched(freeze: bool) -> None:
    encoder = small_resnet()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    task = Segmentation(**SETTINGS | {"epochs": 1, "freeze": freeze})
    task.run(encoder, toy(), eval_seed=0, device=CPU)
    after = encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training for module in encoder.modules())


@pytest.mark.parametrize("settings", [{"freeze": True}, {"crop_size": 12, "max_scale": 2.0}])
def test_run__eval_seed_decides_and_test_truth_does_not(
    settings: dict[str, Any], seen: Seen
) -> None:
    data, settings = toy(), settings | {"epochs": 2}
    result, states = seen(data, **settings), seen.states
    again = seen(data, **settings)
    assert result == again
    assert same(states, seen.states)
    seen(data, eval_seed=1, **settings)
    assert not same(states, seen.states)
    assert data.test is not None
    shuffled = Split(data.test.images, pixel_labels=pixel_labels(data.test).flip(0))
    other = seen(dataset(data.train, shuffled), **settings)
    assert same(states, seen.states)
    assert other != result


def test_run__frozen_and_trained_copies(seen: Seen) -> None:
    for freeze in (True, False):
        seen(toy(), epochs=1, freeze=freeze)
        moved = seen.nets[-1].body.state_dict()  # type: ignore[union-attr, operator]
        for name, value in small_resnet().state_dict().items():
            assert torch.equal(moved[name], value) == freeze, name


def test_run__learning_rate_is_chosen_on_training_images_held_out(seen: Seen) -> None:
    data = toy()
    alone, states = seen(data, lr=0.05, epochs=2), seen.states
    # Test truth turned over: the rate that is best on test is the one that learns nothing.
    test = data.test
    assert test is not None
    inverted = torch.where(pixel_labels(test) == 255, 255, 1 - pixel_labels(test).clamp(max=1))
    for target in (test, Split(test.images, pixel_labels=inverted)):
        chosen = seen(
            dataset(data.train, target), lr=[0.0, 0.05, 1e-6], epochs=2, holdout=0.25, refit=True
        )
        assert chosen.details["chosen"] == {"lr": 0.05, "weight_decay": 0.0}
        assert len(seen.nets) == 4
        tried = {one["lr"]: one["miou"] for one in chosen.details["held_out"]}
        assert list(tried) == [0.0, 0.05, 1e-6]
        assert tried[0.05] > max(tried[0.0], tried[1e-6]) + 20
        # The last net has learnt from all images as if there had been no choice.
        assert same(states, list(seen.nets[-1].state_dict().values()))
        *choosing, last = seen.trained_on
        *held, tested = seen.scored_on
        assert last == list(range(96))
        assert tested == list(range(40))
        for index, other in zip(choosing, held, strict=True):
            assert (len(index), len(other)) == (72, 24)
            assert sorted(index + other) == list(range(96))
            assert other != list(range(72, 96))
    assert alone.metrics["miou"] > 80 > chosen.metrics["miou"]


def test_run__a_rate_that_diverges_loses() -> None:
    data, settings = toy(), SETTINGS | {"epochs": 1, "freeze": True}
    result = Segmentation(**settings | {"lr": [1e38, 0.05, 3e38]}).run(
        small_resnet(), data, eval_seed=0, device=CPU
    )
    assert [one["miou"] is None for one in result.details["held_out"]] == [True, False, True]
    assert result.details["chosen"]["lr"] == 0.05
    assert result.details["warning"].startswith("lr=0.05 is the lowest tried")
    # In the last step, too: a single one makes up the epoch.
    for hopeless in (1e38, [1e38, 3e38]):
        with pytest.raises(FloatingPointError, match="lower the lr"):
            Segmentation(**settings | {"lr": hopeless, "batch_size": 96}).run(
                small_resnet(), data, eval_seed=0, device=CPU
            )


def test_run__warns_of_the_edge_of_the_list() -> None:
    task = Segmentation(**SETTINGS | {"lr": [1e-6, 0.05], "weight_decay": [0.0, 1e-4], "epochs": 2})
    details = task.run(small_resnet(), toy(), eval_seed=0, device=CPU).details
    assert len(details["held_out"]) == 4
    assert details["chosen"]["lr"] == 0.05
    assert details["warning"].startswith("lr=0.05 is the highest tried, and a higher one may be")


def test_run__held_out_images_without_pixels_that_count_choose_nothing() -> None:
    train = halves(32, 0)
    blank = Split(train.images, pixel_labels=torch.full_like(pixel_labels(train), 255))
    task = Segmentation(**SETTINGS | {"lr": [0.1, 0.01], "epochs": 1})
    with pytest.raises(FloatingPointError, match="segmentation: no training stays finite"):
        task.run(small_resnet(), dataset(blank, halves(8, 1)), eval_seed=0, device=CPU)


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


def test_run__street_scenes(seen: Seen) -> None:
    if not STREETS.exists():
        pytest.skip(f"{STREETS} is missing")
    splits = []
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(STREETS.read_bytes()))) as archive:
        files = {member.name: member for member in archive.getmembers()}

        def read(name: str) -> bytes:
            file = archive.extractfile(files[f"VOCdevkit/VOC2012/{name}"])
            assert file is not None
            return file.read()

        for split in ("train", "val"):
            ids = read(f"ImageSets/Segmentation/{split}.txt").decode().split()[::24]
            pictures = [
                [
                    np.asarray(Image.open(io.BytesIO(read(f"{folder}/{i}.{kind}"))))
                    for i in sorted(ids)
                ]
                for folder, kind in (("JPEGImages", "jpg"), ("SegmentationClass", "png"))
            ]
            images, truth = (torch.from_numpy(np.stack(part)) for part in pictures)
            splits.append(Split(images.permute(0, 3, 1, 2).contiguous(), pixel_labels=truth))
    data = dataset(splits[0], splits[1])
    with seeded(0, "test/encoder"):
        encoder = ResNet(18, width=8, stem="imagenet")
    task = Segmentation(
        epochs=4, lr=0.05, batch_size=4, crop_size=128, min_scale=0.5, max_scale=1.5
    )
    result = task.run(encoder, data, eval_seed=0, device=CPU)
    truth, predicted = seen.scored
    assert len(seen.parts[0][0]) == 14
    assert seen.parts[0][0].shape[1:] == (180, 240)
    occurring = np.union1d(truth, predicted)
    scores = 100 * metrics.jaccard_score(truth, predicted, labels=occurring, average=None)
    found = np.array([np.nan if v is None else v for v in result.details["iou"].values()])
    assert found[occurring] == pytest.approx(scores)
    # Better than always saying the commonest class.
    assert result.metrics["pixel_accuracy"] > 100 * (truth == np.bincount(truth).argmax()).mean()


def test_check__encoder_without_stages_is_an_error() -> None:
    task = Segmentation(**SETTINGS)
    assert task.unsuited(small_resnet()) is None
    assert task.unsuited(nn.Flatten()) == "encoder Flatten has no three stages of feature maps"
    with pytest.raises(UserError, match="encoder Flatten has no three stages of feature maps"):
        task.check(nn.Flatten(), toy())


def test_check__images_too_small_for_the_stages() -> None:
    with seeded(0, "test/encoder"):
        encoder = ResNet(18, width=8, stem="imagenet")
    task = Segmentation(**SETTINGS | {"batch_size": 1})
    with pytest.raises(UserError, match=r"batches of 1 images of 16x16 pixels, the .*1, 1"):
        task.check(encoder, toy())  # one value per channel, which BatchNorm cannot train on
    task.check(encoder, replace(toy(), train=Split(torch.zeros(5, 3, 64, 64, dtype=torch.uint8))))
    Segmentation(**SETTINGS | {"batch_size": 1, "freeze": True}).check(encoder, toy())


def test_check__crop_larger_than_the_images() -> None:
    task = Segmentation(**SETTINGS | {"crop_size": 17})
    with pytest.raises(UserError, match=r"crop_size=17 exceeds the 16x16 pixels .* at most 16"):
        task.check(small_resnet(), toy(view_size=32))


def test_check__nothing_to_hold_out() -> None:
    task = Segmentation(**SETTINGS | {"lr": [0.1, 0.2], "holdout": 0.005})
    with pytest.raises(UserError, match=r"holdout=0\.005 of the train split of 'toy' is not one"):
        task.check(small_resnet(), toy())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": True, "head_lr": 0.1}, r"head_lr=0\.1 needs freeze=false"),
        ({"freeze": True, "freeze_batchnorm": True}, "freeze_batchnorm=true is for an encoder"),
        ({"precision": "fp8"}, "precision=fp8 is not one of fp32, bf16"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"flip_prob": 2.0}, r"flip_prob=2\.0 must lie between 0 and 1"),
        ({"head": "fcn4"}, "head=fcn4 is not one of fcn32, fcn16, fcn8"),
        ({"schedule": "linear"}, "schedule=linear is not one of constant, cosine, poly"),
        ({"lr": []}, r"lr=\[\] must be a number or a list of different numbers"),
        ({"lr": [0.1, 0.1]}, r"lr=\[0.1, 0.1\] must be a number or a list of different"),
        ({"lr": [math.nan]}, r"lr=\[nan\] must be a number"),
        ({"weight_decay": [0.0, -0.1]}, "weight_decay=-0.1 must not be negative"),
        ({"lr": [0.1, -1.0]}, r"lr=-1\.0 must not be negative"),
        ({"holdout": 1.0}, "holdout=1.0 must lie between 0 and 1"),
    ],
)
def test_segmentation__refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Segmentation(**SETTINGS | settings)


def test_protocol__states_every_number() -> None:
    settings = {"head": "fcn16", "lr": [0.01, 0.1], "head_lr": 0.2, "crop_size": 320}
    protocol = Segmentation(**SETTINGS | settings | {"min_scale": 0.5, "max_scale": 2.0}).protocol
    for part in (
        "Encoder and FCN-16s head",
        "at their stored size, flipped with probability 0.5, scaled by a factor from 0.5 to 2, "
        "cropped to 320 pixels",
        "SGD for 6 epochs in batches of 16 with learning rate the best of 0.01, 0.1 (poly)",
        "(0.2 for the head)",
        ", chosen by mean intersection over union on 10% of the train split held out, not trained",
        "pixels of class 255 left out",
    ):
        assert part in protocol, part
