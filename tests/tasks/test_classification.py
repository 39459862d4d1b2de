from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.contracts import Dataset, Split, Task, UserError
from benchmark.encoders import ResNet
from benchmark.streams import seeded
from tasks import classification
from tasks.classification import Classification
from tasks.features import SCHEDULES, Inputs, Training, extract, unchanged, working_copy
from tasks.knn import KNN

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
STEPS: dict[str, Any] = LINEAR | {"schedule": "step", "optimiser": "lars"}
ADIOS: dict[str, Any] = FINETUNE | {
    "lr": 0.5,
    "optimiser": "lars",
    "schedule": "warmup_cosine",
    "warmup_epochs": 1.0,
    "freeze_batchnorm": True,
    "reset_stem": True,
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


def small_resnet(seed: int = 0) -> ResNet:
    # Below 8 channels a 1x1 convolution with stride 2 corrupts memory in torch 2.15 on CPUs
    # without AVX-512.
    with seeded(seed, "test/encoder"):
        return ResNet(18, width=12, stem="stride2")


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
        (LINEAR | {"schedule": "linear"}, "schedule=linear is not one of constant, cosine, poly"),
        (LINEAR | {"optimiser": "adam"}, "optimiser=adam is not one of sgd, lars"),
        (LINEAR | {"freeze_batchnorm": True}, "freeze_batchnorm=true is for an encoder that is"),
        (LINEAR | {"reset_stem": True}, "reset_stem=true is for an encoder that is trained"),
        (LINEAR | {"warmup_epochs": 2.0}, "warmup_epochs=2 needs schedule=warmup_cosine"),
        (LINEAR | {"schedule": "warmup_cosine"}, "warmup_epochs=0 must lie above 0 and below"),
        (
            LINEAR | {"schedule": "warmup_cosine", "warmup_epochs": 30.0},
            "warmup_epochs=30 must lie above 0 and below epochs=30",
        ),
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


def test_protocol__of_the_defaults_is_what_it_was() -> None:
    assert Classification(**FINETUNE).protocol == (
        "Encoder and linear classifier of random resized crops (of 0.5 of the area or more) and "
        "flips (probability 0.5): SGD for 4 epochs in batches of 32 with learning rate 0.05 "
        "(cosine), momentum 0.9 and weight decay 0, encoder in fp32; top-1 accuracy on "
        "un-augmented test images after the last epoch."
    )


def test_protocol__states_how_adios_fine_tunes() -> None:
    protocol = Classification(**ADIOS | {"weight_decay": 5e-4}).protocol
    for part in (
        "BatchNorm on its pretrained running statistics",
        "first convolution new, 3x3 with stride 1 and padding 2, no pooling",
        "SGD with LARS (trust coefficient 0.001, weight matrices only) for 4 epochs",
        "0.5 (warmup_cosine, 1 epochs linearly from 0)",
        "weight decay 0.0005 of weight matrices",
    ):
        assert part in protocol
    assert "a tenth after 60% and again after 80%" in Classification(**STEPS).protocol


def convolved(body: nn.Module) -> nn.Conv2d:
    assert isinstance(body.conv1, nn.Conv2d)
    return body.conv1


def test_run__frozen_batchnorm_keeps_its_statistics_while_all_weights_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder, recorded = small_resnet(), Recorded(monkeypatch)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    recorded(Classification(**FINETUNE | {"freeze_batchnorm": True}), encoder, coloured())
    weights = dict(encoder.named_parameters())
    for name, value in recorded.body.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in weights), name


def test_run__frozen_batchnorm_trains_in_evaluation_mode() -> None:
    seen = []
    encoder = small_resnet()
    encoder.bn1.register_forward_hook(lambda norm, *_: seen.append(norm.training))
    Classification(**FINETUNE | {"freeze_batchnorm": True, "epochs": 1}).run(
        encoder, coloured(), eval_seed=0, device=CPU
    )
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("freeze_batchnorm", [False, True])
def test_run__reset_stem_depends_on_the_eval_seed_alone(
    freeze_batchnorm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a learning rate of 0 the stem after training is the one before.
    task = Classification(
        **FINETUNE
        | {"reset_stem": True, "freeze_batchnorm": freeze_batchnorm, "lr": 0.0, "epochs": 1}
    )
    recorded = Recorded(monkeypatch)
    stems = []
    for encoder_seed, eval_seed in ((0, 3), (1, 3), (0, 4)):
        encoder = small_resnet(encoder_seed)
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        recorded(task, encoder, coloured(), eval_seed=eval_seed)
        assert all(torch.equal(encoder.state_dict()[k], v) for k, v in before.items())
        assert convolved(encoder).stride == (2, 2)
        stems.append(convolved(recorded.body))
        # All the rest is the pretrained encoder's, the first BatchNorm included, as in ADIOS.
        for name, weight in recorded.body.named_parameters():
            assert torch.equal(weight, before[name]) == (name != "conv1.weight"), name
    assert (stems[0].kernel_size, stems[0].stride, stems[0].padding) == ((3, 3), (1, 1), (2, 2))
    assert isinstance(recorded.body.maxpool, nn.Identity)
    assert torch.equal(stems[0].weight, stems[1].weight)
    assert not torch.equal(stems[0].weight, stems[2].weight)


def test_run__a_reset_stem_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, weights = Recorded(monkeypatch), []
    for lr in (0.0, 0.05):
        task = Classification(**FINETUNE | {"reset_stem": True, "lr": lr, "epochs": 1})
        recorded(task, small_resnet(), coloured())
        weights.append(convolved(recorded.body).weight)
    assert not torch.equal(*weights)


def test_check__a_stem_that_cannot_be_reset_is_an_error() -> None:
    task = Classification(**FINETUNE | {"reset_stem": True})
    with pytest.raises(UserError, match="needs an encoder with a conv1, and Flat has none"):
        task.check(Flat(), coloured())


class ForSize(Flat):
    """An encoder that takes one size only."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.image_size:
            raise RuntimeError("another size")
        return super().forward(x)


@pytest.mark.parametrize("task", [Classification(**LINEAR), KNN()])
def test_check__images_of_another_size_than_the_encoder_takes(task: Task) -> None:
    task.check(ForSize(SIZE), coloured())
    with pytest.raises(UserError, match="images of 16 pixels, which the encoder built for 8 does"):
        task.check(ForSize(8), coloured())


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

    training = Training(
        "test",
        epochs,
        4,
        0.5,
        schedule,
        momentum=0.0,
        weight_decay=0.0,
        warmup_epochs=1.0 if schedule == "warmup_cosine" else 0.0,
    )
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
    _, (body, head) = fitted(epochs=5, schedule=schedule, head_lr=2.0)
    # Five epochs of three steps, of which the warm-up takes one epoch.
    factors = {
        "constant": [1.0] * 15,
        "cosine": [(1 + math.cos(math.pi * step / 15)) / 2 for step in range(15)],
        "poly": [(1 - step / 15) ** 0.9 for step in range(15)],
        "step": [1.0] * 9 + [0.1] * 3 + [0.01] * 3,
        "warmup_cosine": [
            *(0, 0.5, 1),
            *((1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)),
        ],
    }[schedule]
    assert body == pytest.approx(0.5 * sum(factors), rel=1e-5)
    assert head == pytest.approx(2.0 * sum(factors), rel=1e-5)


def test_fit__stops_at_a_loss_that_is_not_finite() -> None:
    with pytest.raises(FloatingPointError, match="epoch 0; lower the lr"):
        fitted(blow_up=math.inf)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_fit__lars_equals_a_loop(weight_decay: float) -> None:
    """LARS of the ADIOS code's evaluations (arXiv 1708.03888, eq. 6), then SGD with momentum."""
    with seeded(0, "test/lars"):
        body, head = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
        inputs, target = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    slow_body, slow_head = copy.deepcopy(body), copy.deepcopy(head)

    def error(first: nn.Module, second: nn.Module) -> Tensor:
        value: Tensor = (second(first(inputs).relu()) - target).square().mean()
        return value

    training = Training("test", 3, 8, 0.5, "constant", 0.9, weight_decay, "lars")
    training.fit(lambda *_: error(body, head), body, head, head_lr=0.2, count=8, eval_seed=0)

    rates = [(p, 0.5) for p in slow_body.parameters()] + [(p, 0.2) for p in slow_head.parameters()]
    velocity = [torch.zeros_like(p) for p, _ in rates]
    for _ in range(3):
        gradients = torch.autograd.grad(error(slow_body, slow_head), [p for p, _ in rates])
        for i, ((p, rate), g) in enumerate(zip(rates, gradients, strict=True)):
            with torch.no_grad():
                if p.ndim > 1:
                    length, slope = math.sqrt((p**2).sum()), math.sqrt((g**2).sum())
                    adapted = (g + weight_decay * p) * 1e-3 * length
                    g = adapted / (slope + weight_decay * length)
                velocity[i] = 0.9 * velocity[i] + g
                p -= rate * velocity[i]
    moved = (*body.parameters(), *head.parameters())
    for p, (slow, _) in zip(moved, rates, strict=True):
        torch.testing.assert_close(p, slow, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("settings", [ADIOS, STEPS | {"epochs": 10}])
def test_run__options_of_adios_are_reproducible(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    runs = [recorded(Classification(**settings), small_resnet(), coloured()) for _ in range(2)]
    assert same(runs[0][1], runs[1][1])
