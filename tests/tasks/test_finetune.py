from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.dataset import Dataset, Split
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.result_file import main_metric
from tasks import finetune
from tasks.features import working_copy
from tasks.finetune import FineTuning

CPU = torch.device("cpu")
SIZE = 16
ONE: dict[str, Any] = {
    "epochs": 4,
    "lr": 0.05,
    "schedule": "cosine",
    "batch_size": 32,
    "augment": True,
    "min_scale": 0.5,
}
ADIOS: dict[str, Any] = ONE | {
    "lr": 0.5,
    "optimiser": "lars",
    "schedule": "warmup_cosine",
    "warmup_epochs": 1.0,
    "freeze_batchnorm": True,
    "reset_stem": True,
}
SEVERAL: dict[str, Any] = ONE | {"lr": [1e-4, 0.05], "epochs": 2}
MakeData = Callable[..., Dataset]
MakeResNet = Callable[..., ResNet]


class Recorded:
    """Runs a task and keeps the copies of the encoder that it trained, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bodies: list[nn.Module] = []

        def keep(encoder: nn.Module, device: torch.device, **kwargs: Any) -> nn.Module:
            body = working_copy(encoder, device, **kwargs)
            if device.type != "meta":  # where nothing is trained
                self.bodies.append(body)
            return body

        monkeypatch.setattr(finetune, "working_copy", keep)

    def __call__(
        self, task: FineTuning, encoder: nn.Module, data: Dataset, eval_seed: int = 0
    ) -> tuple[dict[str, float], list[Tensor]]:
        self.bodies.clear()
        result = task.run(encoder, data, eval_seed=eval_seed, device=CPU)
        return result.metrics, [v.clone() for b in self.bodies for v in b.state_dict().values()]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_run__separable_classes_are_learnt(
    precision: str, small_resnet: MakeResNet, coloured: MakeData, recorded: Recorded
) -> None:
    # In bf16 half of these epochs end between 80 and 100%, by how a processor rounds.
    task = FineTuning(**ONE | {"precision": precision, "epochs": 8})
    metrics, states = recorded(task, small_resnet(), coloured())
    assert list(metrics) == ["accuracy", "train_accuracy"]
    assert min(metrics.values()) > 97
    assert all(value.dtype in (torch.float32, torch.int64) for value in states)


def test_run__random_labels_stay_at_chance(small_resnet: MakeResNet, chance: Dataset) -> None:
    result = FineTuning(**ONE).run(small_resnet(), chance, eval_seed=0, device=CPU)
    deviation = 100 * math.sqrt(1 / 3 * 2 / 3 / 300)
    assert abs(result.metrics["accuracy"] - 100 / 3) < 4 * deviation
    assert main_metric(result.per_image) == pytest.approx(result.metrics["accuracy"], rel=1e-12)
    assert chance.test is not None
    assert chance.test.labels is not None
    assert result.per_image["truth"].tolist() == chance.test.labels.tolist()


@pytest.mark.parametrize("training", [True, False])
def test_run__trains_a_copy_and_leaves_the_callers_encoder(
    training: bool, small_resnet: MakeResNet, coloured: MakeData, recorded: Recorded
) -> None:
    encoder = small_resnet().train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    recorded(FineTuning(**ONE), encoder, coloured())
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in before.items())
    assert all(module.training == training for module in encoder.modules())
    assert all(p.grad is None and p.requires_grad for p in encoder.parameters())
    moved = recorded.bodies[0].state_dict()
    assert not [name for name, value in before.items() if torch.equal(moved[name], value)]


@pytest.mark.parametrize("settings", [ONE | {"epochs": 1}, ADIOS, SEVERAL | {"refit": True}])
def test_run__eval_seed_decides_everything(
    settings: dict[str, Any], small_resnet: MakeResNet, coloured: MakeData, recorded: Recorded
) -> None:
    task, encoder, data = FineTuning(**settings), small_resnet(), coloured(train=48)
    metrics, states = recorded(task, encoder, data, eval_seed=3)
    torch.rand(7)  # the state of torch's own generator must not matter
    again, states_again = recorded(task, encoder, data, eval_seed=3)
    assert metrics == again
    assert same(states, states_again)
    _, others = recorded(task, encoder, data, eval_seed=4)
    assert not same(states, others)


@pytest.mark.parametrize("settings", [ONE, SEVERAL])
def test_run__test_labels_influence_neither_training_nor_choice(
    settings: dict[str, Any],
    small_resnet: MakeResNet,
    coloured: MakeData,
    relabelled: Callable[[Dataset], Dataset],
    recorded: Recorded,
) -> None:
    task, data = FineTuning(**settings), coloured()
    metrics, states = recorded(task, small_resnet(), data)
    other, other_states = recorded(task, small_resnet(), relabelled(data))
    assert same(states, other_states)
    assert metrics["train_accuracy"] == other["train_accuracy"]
    assert metrics["accuracy"] != other["accuracy"]


def test_run__dropout_is_seeded(coloured: MakeData, recorded: Recorded) -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * SIZE**2, 8))
    encoder.feature_dim = 8  # type: ignore[assignment]
    runs = [recorded(FineTuning(**ONE), encoder, coloured()) for _ in range(2)]
    assert same(runs[0][1], runs[1][1])


def test_run__frozen_batchnorm_keeps_its_statistics_while_all_weights_move(
    small_resnet: MakeResNet, coloured: MakeData, recorded: Recorded
) -> None:
    encoder, seen = small_resnet(), []
    encoder.bn1.register_forward_hook(lambda norm, *_: seen.append(norm.training))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    recorded(FineTuning(**ONE | {"freeze_batchnorm": True}), encoder, coloured(train=48))
    weights = dict(encoder.named_parameters())
    for name, value in recorded.bodies[0].state_dict().items():
        assert torch.equal(value, before[name]) == (name not in weights), name
    assert seen
    assert not any(seen)


def convolved(body: nn.Module) -> nn.Conv2d:
    assert isinstance(body.conv1, nn.Conv2d)
    return body.conv1


@pytest.mark.parametrize("freeze_batchnorm", [False, True])
def test_run__reset_stem_depends_on_the_eval_seed_alone(
    freeze_batchnorm: bool, small_resnet: MakeResNet, coloured: MakeData, recorded: Recorded
) -> None:
    # With a learning rate of 0 the stem after training is the one before.
    frozen = {"freeze_batchnorm": freeze_batchnorm, "lr": 0.0, "epochs": 1}
    task = FineTuning(**ONE | {"reset_stem": True} | frozen)
    stems = []
    for encoder_seed, eval_seed in ((0, 3), (1, 3), (0, 4)):
        encoder = small_resnet(encoder_seed)
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        recorded(task, encoder, coloured(train=24, test=6), eval_seed=eval_seed)
        (body,) = recorded.bodies
        assert all(torch.equal(encoder.state_dict()[k], v) for k, v in before.items())
        assert convolved(encoder).stride == (2, 2)
        stems.append(convolved(body))
        # All the rest is the pretrained encoder's, the first BatchNorm included, as in ADIOS.
        for name, weight in body.named_parameters():
            assert torch.equal(weight, before[name]) == (name != "conv1.weight"), name
    assert (stems[0].kernel_size, stems[0].stride, stems[0].padding) == ((3, 3), (1, 1), (2, 2))
    assert isinstance(body.maxpool, nn.Identity)
    assert torch.equal(stems[0].weight, stems[1].weight)
    assert not torch.equal(stems[0].weight, stems[2].weight)


def test_run__a_reset_stem_trains(
    small_resnet: MakeResNet, coloured: MakeData, recorded: Recorded
) -> None:
    weights = []
    for lr in (0.0, 0.05):
        task = FineTuning(**ONE | {"reset_stem": True, "lr": lr, "epochs": 1})
        recorded(task, small_resnet(), coloured(train=24, test=6))
        weights.append(convolved(recorded.bodies[0]).weight)
    assert not torch.equal(*weights)


def test_run__rates_of_stages_and_head_are_their_own(
    small_resnet: MakeResNet, coloured: MakeData, recorded: Recorded
) -> None:
    """After one step of SGD, whose gradients do not depend on the rates."""
    settings = {"epochs": 1, "batch_size": 120, "schedule": "constant"}
    moved = []
    for extra in ({}, {"layer_decay": 0.5}, {"head_lr": 7.0}):
        encoder = small_resnet()
        recorded(FineTuning(**ONE | settings | extra), encoder, coloured())
        trained = dict(recorded.bodies[0].named_parameters())
        moved.append({k: trained[k].detach() - v.detach() for k, v in encoder.named_parameters()})
    plain, decayed, other_head = moved
    for part, depth in (("conv1", 5), ("layer1", 4), ("layer4", 1)):
        name = f"{part}.weight" if part == "conv1" else f"{part}.0.conv1.weight"
        scaled = plain[name] * 0.5**depth
        torch.testing.assert_close(decayed[name], scaled, rtol=1e-2, atol=2e-7)
    assert same(list(plain.values()), list(other_head.values()))


def test_run__labels_are_smoothed(
    small_resnet: MakeResNet, coloured: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []

    def keep(scores: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
        value: Tensor = cross_entropy(scores, target, label_smoothing=label_smoothing)
        spread = (1 - 0.2) * F.one_hot(target, 3) + 0.2 / 3
        losses.append((value.item(), -(spread * scores.log_softmax(1)).sum(1).mean().item()))
        return value

    cross_entropy = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", keep)
    task = FineTuning(**ONE | {"label_smoothing": 0.2, "epochs": 1})
    task.run(small_resnet(), coloured(), eval_seed=0, device=CPU)
    assert len(losses) == 4
    for value, expected in losses:
        assert value == pytest.approx(expected, rel=1e-5)


def test_run__held_out_accuracy_is_that_of_one_training_on_the_rest(
    small_resnet: MakeResNet, coloured: MakeData, dataset: MakeData
) -> None:
    data = coloured(contrast=40)
    settings = SEVERAL | {"augment": False, "holdout": 0.3}
    task = FineTuning(**settings)
    result = task.run(small_resnet(), data, eval_seed=2, device=CPU)
    labels = data.train.labels
    assert labels is not None
    rest, held = (
        Split(data.train.images[index], labels[index]) for index in task.search.split(labels, 2)
    )
    for candidate in result.details["held_out"]:
        alone = FineTuning(**settings | {"lr": candidate["lr"]}).run(
            small_resnet(), dataset(rest, held), eval_seed=2, device=CPU
        )
        assert alone.details == {}
        assert candidate["accuracy"] == alone.metrics["accuracy"]
    low, high = (candidate["accuracy"] for candidate in result.details["held_out"])
    assert low < high
    assert result.details["chosen"] == {"lr": 0.05, "weight_decay": 0.0}
    assert result.details["warning"].startswith("lr=0.05 is the highest tried")


@pytest.mark.parametrize("refit", [False, True])
def test_run__scores_the_chosen_training(
    refit: bool, small_resnet: MakeResNet, coloured: MakeData, recorded: Recorded
) -> None:
    settings = SEVERAL | {"lr": [0.05, 1e-4], "refit": refit}
    data = coloured()
    metrics, _ = recorded(FineTuning(**settings), small_resnet(), data)
    bodies = list(recorded.bodies)
    assert len(bodies) == 2 + refit
    if refit:
        once, states = recorded(FineTuning(**settings | {"lr": 0.05}), small_resnet(), data)
        assert metrics == once
        assert same(states, list(bodies[-1].state_dict().values()))
    else:
        assert metrics["accuracy"] > 60


def test_run__a_rate_that_diverges_loses(small_resnet: MakeResNet, coloured: MakeData) -> None:
    task = FineTuning(**SEVERAL | {"lr": [1e30, 0.05]})
    result = task.run(small_resnet(), coloured(), eval_seed=0, device=CPU)
    assert [c["accuracy"] is None for c in result.details["held_out"]] == [True, False]
    for hopeless in (1e30, [1e30, 1e33]):
        with pytest.raises(FloatingPointError, match="lower the lr"):
            FineTuning(**SEVERAL | {"lr": hopeless}).run(
                small_resnet(), coloured(train=48), eval_seed=0, device=CPU
            )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head_lr": -0.1}, "finetune: head_lr=-0.1 must not be negative"),
        ({"layer_decay": 0.0}, "layer_decay=0.0 must be above 0 and at most 1"),
        ({"layer_decay": 0.5, "reset_stem": True}, "layer_decay=0.5 would leave a new stem"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 must be at least 0 and below 1"),
        ({"min_scale": 0.0}, "finetune: min_scale=0.0"),
        ({"lr": []}, "must be a number or a list of different numbers"),
        ({"optimiser": "adam"}, "optimiser=adam is not one of sgd, lars, adamw"),
    ],
)
def test_fine_tuning__refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FineTuning(**ONE | settings)


def test_check__an_encoder_that_lacks_what_is_asked_for(
    flat: Callable[..., nn.Module], coloured: MakeData
) -> None:
    with pytest.raises(UserError, match="needs an encoder with a conv1, and Flat has none"):
        FineTuning(**ONE | {"reset_stem": True}).check(flat(), coloured())
    with pytest.raises(UserError, match="layer_decay needs an encoder whose layers are known"):
        FineTuning(**ONE | {"layer_decay": 0.5}).check(flat(), coloured())
    with pytest.raises(UserError, match="of each class of the train split of 'toy' is not one"):
        FineTuning(**SEVERAL).check(flat(), coloured(train=9))


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("freeze_batchnorm", [False, True])
@pytest.mark.parametrize("settings", [{}, {"lr": [0.01, 0.1]}, {"lr": [0.01, 0.1], "refit": True}])
def test_check__batches_of_one_image_that_batchnorm_cannot_train_on(
    stem: Any, freeze_batchnorm: bool, settings: dict[str, Any], coloured: MakeData
) -> None:
    """Refused exactly where training fails: with one value per channel in some training."""
    data = coloured(train=33, test=9)  # of which 30 are left while choosing
    settings = ONE | settings | {"epochs": 1, "batch_size": 2, "freeze_batchnorm": freeze_batchnorm}
    torch.manual_seed(0)  # some weights do not survive such a rate
    task, encoder = FineTuning(**settings), ResNet(18, width=12, stem=stem)
    everything = "refit" in settings or settings["lr"] == 0.05
    if stem == "imagenet" and not freeze_batchnorm and everything:
        with pytest.raises(UserError, match=r"batches of 1 images of 16x16 pixels.*Expected more"):
            task.check(encoder, data)
    else:
        task.run(encoder, data, eval_seed=0, device=CPU)


def test_protocol__of_the_defaults() -> None:
    assert FineTuning(**ONE).protocol == (
        "Encoder and linear classifier of random resized crops (of 0.5 of the area or more, "
        "bilinear) and flips (probability 0.5): SGD for 4 epochs in batches of 32 with learning "
        "rate 0.05 (cosine), momentum 0.9 and weight decay 0, encoder in fp32; top-1 and, "
        "from 10 classes on, top-5 accuracy on un-augmented test images after the last epoch."
    )


def test_protocol__states_every_option() -> None:
    adios = FineTuning(**ADIOS | {"weight_decay": 5e-4}).protocol
    for part in (
        "BatchNorm on its pretrained running statistics",
        "first convolution new, 3x3 with stride 1 and padding 2, no pooling",
        "SGD with LARS (trust coefficient 0.001, weight matrices only) for 4 epochs",
        "0.5 (warmup_cosine, 1 epochs linearly from 0)",
        "weight decay 0.0005 of weight matrices",
    ):
        assert part in adios
    options = {"layer_decay": 0.75, "label_smoothing": 0.1, "head_lr": 0.2}
    options |= {"exclude_bias_and_norm": True, "optimiser": "adamw"}
    several = FineTuning(**SEVERAL | options).protocol
    for part in (
        "AdamW for 2 epochs in batches of 32 with learning rate the best of 0.0001, 0.05 for the "
        "encoder and 0.2 for the classifier (cosine)",
        "weight decay 0 of weight matrices, rates times 0.75 for each layer down from the "
        "classifier, labels smoothed by 0.1",
        ", chosen by top-1 accuracy on 10% of each class of the train split held out",
    ):
        assert part in several, several
