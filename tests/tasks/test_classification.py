from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.contracts import Dataset, Split, UserError
from benchmark.encoders import ResNet
from benchmark.streams import seeded
from tasks import classification
from tasks.classification import Classification
from tasks.features import SCHEDULES, Inputs, Training, extract, unchanged, working_copy

CPU = torch.device("cpu")
SIZE = 16
LINEAR: dict[str, Any] = {"freeze": True, "epochs": 30, "lr": 0.1, "schedule": "constant"}
FINETUNE: dict[str, Any] = {
    "freeze": False,
    "epochs": 4,
    "lr": 0.05,
    "schedule": "cosine",
    "batch_size": 32,
    "augment": True,
    "min_scale": 0.5,
}


class Flat(nn.Module):
    """The pixels themselves, scaled: an encoder whose features are known."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.feature_dim = 3 * SIZE**2
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1)


def dataset(train: Split, test: Split | None) -> Dataset:
    half = (0.5, 0.5, 0.5)
    return Dataset("toy", train, test, ("a", "b", "c"), half, (0.25, 0.25, 0.25), "toy", "toy")


def noise(count: int, seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 120, (count, 3, SIZE, SIZE), generator=draws, dtype=torch.uint8)


def coloured(train: int = 120, test: int = 60) -> Dataset:
    """Class k is brightest in colour channel k."""
    splits = []
    for seed, count in enumerate((train, test)):
        labels = torch.arange(count) % 3
        images = noise(count, seed)
        images[torch.arange(count), labels] += 100
        splits.append(Split(images, labels))
    return dataset(*splits)


def small_resnet() -> ResNet:
    with seeded(0, "test/encoder"):
        return ResNet(18, width=4, stem="stride2")


def relabelled(data: Dataset) -> Dataset:
    """The same, with the labels of the test split turned over."""
    assert data.test is not None
    assert data.test.labels is not None
    return dataset(data.train, Split(data.test.images, data.test.labels.flip(0)))


class Recorded:
    """Runs a task and keeps the copy of the encoder and the head that it trained."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.body, self.head = nn.Module(), nn.Module()
        head = Classification._head

        def keep_copy(*args: Any, **kwargs: Any) -> nn.Module:
            self.body = working_copy(*args, **kwargs)
            return self.body

        def keep_head(*args: Any) -> nn.Module:
            self.head = head(*args)
            return self.head

        monkeypatch.setattr(classification, "working_copy", keep_copy)
        monkeypatch.setattr(Classification, "_head", keep_head)

    def __call__(
        self, task: Classification, encoder: nn.Module, data: Dataset, eval_seed: int = 0
    ) -> tuple[dict[str, float], list[Tensor]]:
        result = task.run(encoder, data, eval_seed=eval_seed, device=CPU)
        states = (*self.body.state_dict().values(), *self.head.state_dict().values())
        return result.metrics, [value.clone() for value in states]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("settings", [LINEAR, LINEAR | {"standardise": True}, FINETUNE])
def test_run__separable_classes_are_learnt(settings: dict[str, Any]) -> None:
    result = Classification(**settings).run(small_resnet(), coloured(), eval_seed=0, device=CPU)
    assert list(result.metrics) == ["accuracy", "train_accuracy"]
    assert min(result.metrics.values()) > 97


@pytest.mark.parametrize("settings", [LINEAR | {"standardise": True}, FINETUNE])
def test_run__random_labels_stay_at_chance(settings: dict[str, Any]) -> None:
    splits = []
    for seed, count in ((0, 90), (1, 300)):
        labels = torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(seed))
        splits.append(Split(noise(count, seed), labels))
    result = Classification(**settings).run(
        small_resnet(), dataset(*splits), eval_seed=0, device=CPU
    )
    deviation = 100 * math.sqrt(1 / 3 * 2 / 3 / 300)
    assert abs(result.metrics["accuracy"] - 100 / 3) < 4 * deviation


@pytest.mark.parametrize("settings", [LINEAR, LINEAR | {"augment": True}, FINETUNE])
@pytest.mark.parametrize("training", [True, False])
def test_run__encoder_of_the_caller_is_untouched(settings: dict[str, Any], training: bool) -> None:
    encoder = small_resnet().train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    task = Classification(**settings | {"epochs": 2})
    task.run(encoder, coloured(), eval_seed=0, device=CPU)
    after = encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training == training for module in encoder.modules())
    assert all(p.grad is None and p.requires_grad for p in encoder.parameters())


def test_run__only_fine_tuning_trains_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, recorded = small_resnet(), Recorded(monkeypatch)
    recorded(Classification(**LINEAR), encoder, coloured())
    assert same(list(recorded.body.state_dict().values()), list(encoder.state_dict().values()))
    recorded(Classification(**FINETUNE), encoder, coloured())
    moved = recorded.body.state_dict()
    for name, value in encoder.state_dict().items():
        assert not torch.equal(moved[name], value), f"{name} stayed"


def test_unchanged__notices_a_moved_buffer() -> None:
    norm = nn.BatchNorm1d(2)
    with pytest.raises(AssertionError, match="has changed"):
        with unchanged(norm):
            norm(torch.rand(4, 2))


@pytest.mark.parametrize("settings", [LINEAR, FINETUNE])
def test_run__eval_seed_decides_everything(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, data, recorded = small_resnet(), coloured(), Recorded(monkeypatch)
    task = Classification(**settings)
    metrics, states = recorded(task, encoder, data, eval_seed=3)
    torch.rand(7)  # the state of torch's own generator must not matter
    again, states_again = recorded(task, encoder, data, eval_seed=3)
    assert metrics == again
    assert same(states, states_again)
    _, others = recorded(task, encoder, data, eval_seed=4)
    assert not same(states, others)


@pytest.mark.parametrize("settings", [LINEAR, FINETUNE])
def test_run__test_labels_do_not_influence_training(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, data, recorded = small_resnet(), coloured(), Recorded(monkeypatch)
    metrics, states = recorded(Classification(**settings), encoder, data)
    other, other_states = recorded(Classification(**settings), encoder, relabelled(data))
    assert same(states, other_states)
    assert metrics["train_accuracy"] == other["train_accuracy"]
    assert metrics["accuracy"] != other["accuracy"]


def test_run__dropout_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = nn.Sequential(Flat(), nn.Dropout(0.5), nn.Linear(3 * SIZE**2, 8))
    encoder.feature_dim = 8  # type: ignore[assignment]
    recorded = Recorded(monkeypatch)
    runs = [recorded(Classification(**FINETUNE), encoder, coloured()) for _ in range(2)]
    assert same(runs[0][1], runs[1][1])


def test_run__standardised_features_have_no_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    data, recorded = coloured(), Recorded(monkeypatch)
    recorded(Classification(**LINEAR | {"standardise": True}), Flat(100.0), data)
    scale: nn.Module = recorded.head[0]  # type: ignore[index, assignment]
    known = 100 * (data.train.images.flatten(1) / 255 - 0.5) / 0.25
    scaled = scale(known)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3 * SIZE**2), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.var(0, correction=0), torch.ones(3 * SIZE**2))


def test_extract__is_in_evaluation_mode() -> None:
    encoder, images = small_resnet(), coloured().train.images
    body = working_copy(encoder, CPU, freeze=False)
    with unchanged(body):
        features = extract(body, images, Inputs((0.5,) * 3, (0.25,) * 3, CPU), "fp32")
    with torch.no_grad():
        expected = encoder.eval()((images / 255 - 0.5) / 0.25)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


def test_run__augmentation_reaches_a_frozen_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    _, plain = recorded(Classification(**LINEAR), Flat(), coloured())
    _, augmented = recorded(Classification(**LINEAR | {"augment": True}), Flat(), coloured())
    assert not same(plain, augmented)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_run__precision(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    task = Classification(**FINETUNE | {"precision": precision})
    metrics, states = recorded(task, small_resnet(), coloured())
    assert metrics["accuracy"] > 97
    assert all(value.dtype in (torch.float32, torch.int64) for value in states)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (FINETUNE | {"standardise": True}, "standardise=true"),
        (LINEAR | {"head_lr": 0.1}, "head_lr=0.1"),
        (LINEAR | {"schedule": "step"}, "schedule=step is not one of constant, cosine, poly"),
        (LINEAR | {"epochs": 0}, "epochs=0 must be at least 1"),
        (LINEAR | {"lr": -1.0}, "lr=-1.0 must not be negative"),
        (LINEAR | {"precision": "fp8"}, "precision=fp8 is not one of fp32, bf16"),
        (FINETUNE | {"min_scale": 0.0}, "min_scale=0.0"),
    ],
)
def test_classification__refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classification(**settings)


def test_run__data_without_labels_is_an_error() -> None:
    train = coloured().train
    for data in (dataset(train, None), dataset(Split(train.images), train)):
        with pytest.raises(UserError, match=r"has no labels in its (train|test) split"):
            Classification(**LINEAR).run(Flat(), data, eval_seed=0, device=CPU)


def test_protocol__states_what_was_asked_for() -> None:
    protocol = Classification(**LINEAR | {"standardise": True, "weight_decay": 1e-4}).protocol
    for part in ("frozen", "standardised", "30 epochs", "0.1 (constant)", "weight decay 0.0001"):
        assert part in protocol


def fitted(epochs: int = 2, schedule: str = "constant", **fit: Any) -> tuple[list[list[int]], Any]:
    """Fit two numbers whose loss falls by 1 per unit; returns the batches and how far they went."""
    body, head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(body.weight)
    nn.init.zeros_(head.weight)
    batches = []

    def loss(epoch: int, index: Tensor) -> Tensor:
        batches.append(index.tolist())
        fall: Tensor = (body.weight + head.weight).sum() * fit.get("blow_up", 1.0)
        return -fall

    training = Training("test", epochs, 4, 0.5, schedule, momentum=0.0, weight_decay=0.0)
    training.fit(
        loss, body, head, head_lr=fit.get("head_lr"), count=9, eval_seed=fit.get("eval_seed", 0)
    )
    return batches, (body.weight.item(), head.weight.item())


def test_fit__orders_are_permutations_that_differ_by_epoch_and_seed() -> None:
    batches, _ = fitted()
    first, second = (list(itertools.chain(*batches[k : k + 3])) for k in (0, 3))
    assert [len(batch) for batch in batches[:3]] == [3, 3, 3]
    assert sorted(first) == sorted(second) == list(range(9))
    assert first != second
    assert fitted()[0] == batches
    assert fitted(eval_seed=1)[0] != batches


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_fit__learning_rate_follows_the_schedule(schedule: str) -> None:
    _, (body, head) = fitted(schedule=schedule, head_lr=2.0)
    factors = {
        "constant": [1.0] * 6,
        "cosine": [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)],
        "poly": [(1 - step / 6) ** 0.9 for step in range(6)],
    }[schedule]
    assert body == pytest.approx(0.5 * sum(factors), rel=1e-5)
    assert head == pytest.approx(2.0 * sum(factors), rel=1e-5)


def test_fit__stops_at_a_loss_that_is_not_finite() -> None:
    with pytest.raises(FloatingPointError, match="epoch 0; lower the lr"):
        fitted(blow_up=math.inf)
