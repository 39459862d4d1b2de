from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.dataset import Dataset, Split
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.result_file import main_metric
from tasks.heads import Heads
from tasks.linear import LinearProbe

CPU = torch.device("cpu")
SIZE = 16
ONE: dict[str, Any] = {"epochs": 30, "lr": 0.1, "schedule": "constant"}
SEVERAL: dict[str, Any] = ONE | {"lr": [1e-5, 0.01, 0.1], "weight_decay": [0.0, 0.01]}
AUGMENTED: dict[str, Any] = {"augment": True, "epochs": 2}
MakeData = Callable[..., Dataset]
MakeNet = Callable[..., nn.Module]


class Recorded:
    """Runs a probe and keeps all the layers that it trained, in the order of training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heads: list[nn.Module] = []
        apart = Heads.apart

        def keep(heads: Heads) -> list[nn.Module]:
            self.heads += apart(heads)
            return apart(heads)

        monkeypatch.setattr(Heads, "apart", keep)

    def __call__(
        self, task: LinearProbe, encoder: nn.Module, data: Dataset, eval_seed: int = 0
    ) -> tuple[dict[str, float], list[Tensor]]:
        self.heads.clear()
        result = task.run(encoder, data, eval_seed=eval_seed, device=CPU)
        states = [value.clone() for head in self.heads for value in head.state_dict().values()]
        return result.metrics, states


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("settings", [ONE, ONE | {"standardise": True}, SEVERAL])
def test_run__separable_classes_are_learnt(
    settings: dict[str, Any], small_resnet: Callable[..., ResNet], coloured: MakeData
) -> None:
    result = LinearProbe(**settings).run(small_resnet(), coloured(), eval_seed=0, device=CPU)
    assert list(result.metrics) == ["accuracy", "train_accuracy"]
    assert min(result.metrics.values()) > 97


@pytest.mark.parametrize("settings", [ONE, SEVERAL])
def test_run__random_labels_stay_at_chance(
    settings: dict[str, Any], small_resnet: Callable[..., ResNet], chance: Dataset
) -> None:
    task = LinearProbe(**settings | {"standardise": True})
    result = task.run(small_resnet(), chance, eval_seed=0, device=CPU)
    deviation = 100 * math.sqrt(1 / 3 * 2 / 3 / 300)
    assert abs(result.metrics["accuracy"] - 100 / 3) < 4 * deviation
    assert main_metric(result.per_image) == pytest.approx(result.metrics["accuracy"], rel=1e-12)
    assert chance.test is not None
    assert chance.test.labels is not None
    assert result.per_image["truth"].tolist() == chance.test.labels.tolist()


@pytest.mark.parametrize("extra", [{}, AUGMENTED])
@pytest.mark.parametrize("settings", [ONE, SEVERAL])
@pytest.mark.parametrize("training", [True, False])
def test_run__encoder_of_the_caller_is_untouched(
    settings: dict[str, Any],
    extra: dict[str, Any],
    training: bool,
    small_resnet: Callable[..., ResNet],
    coloured: MakeData,
) -> None:
    encoder = small_resnet().train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    task = LinearProbe(**settings | {"epochs": 2} | extra)
    task.run(encoder, coloured(), eval_seed=0, device=CPU)
    after = encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training == training for module in encoder.modules())
    assert all(p.grad is None and p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("after", [0, 1, 2])  # forwards before the buffer moves: train, crops, test
def test_run__a_frozen_encoder_that_moves_is_noticed(
    after: int, drifting: Callable[[int], nn.Module], coloured: MakeData
) -> None:
    with pytest.raises(RuntimeError, match="the encoder has changed"):
        LinearProbe(**SEVERAL | AUGMENTED | {"epochs": 1}).run(
            drifting(after), coloured(), eval_seed=0, device=CPU
        )


def test_run__a_frozen_encoder_is_in_evaluation_mode_and_without_graph(
    small_resnet: Callable[..., ResNet], coloured: MakeData
) -> None:
    seen = []
    encoder = small_resnet().train()
    encoder.register_forward_hook(lambda net, _, out: seen.append((net.training, out.grad_fn)))
    LinearProbe(**SEVERAL | AUGMENTED).run(encoder, coloured(), eval_seed=0, device=CPU)
    assert set(seen) == {(False, None)}


@pytest.mark.parametrize("settings", [ONE, SEVERAL, SEVERAL | AUGMENTED])
def test_run__eval_seed_decides_everything(
    settings: dict[str, Any], flat: MakeNet, coloured: MakeData, recorded: Recorded
) -> None:
    task = LinearProbe(**settings)
    metrics, states = recorded(task, flat(), coloured(), eval_seed=3)
    torch.rand(7)  # the state of torch's own generator must not matter
    again, states_again = recorded(task, flat(), coloured(), eval_seed=3)
    assert metrics == again
    assert same(states, states_again)
    _, others = recorded(task, flat(), coloured(), eval_seed=4)
    assert not same(states, others)


@pytest.mark.parametrize("settings", [ONE, SEVERAL, SEVERAL | {"refit": True}])
def test_run__test_labels_influence_neither_training_nor_choice(
    settings: dict[str, Any],
    flat: MakeNet,
    coloured: MakeData,
    relabelled: Callable[[Dataset], Dataset],
    recorded: Recorded,
) -> None:
    task, data = LinearProbe(**settings), coloured(contrast=20)
    metrics, states = recorded(task, flat(), data)
    other, other_states = recorded(task, flat(), relabelled(data))
    assert same(states, other_states)
    assert metrics["train_accuracy"] == other["train_accuracy"]
    assert metrics["accuracy"] != other["accuracy"]
    details = [
        task.run(flat(), either, eval_seed=0, device=CPU).details
        for either in (data, relabelled(data))
    ]
    assert details[0] == details[1]


def test_run__standardised_features_have_no_scale(
    flat: MakeNet, coloured: MakeData, recorded: Recorded
) -> None:
    data = coloured()
    recorded(LinearProbe(**ONE | {"standardise": True}), flat(100.0), data)
    scale: nn.Module = recorded.heads[0][0]  # type: ignore[index, assignment]
    known = 100 * (data.train.images.flatten(1) / 255 - 0.5) / 0.25
    scaled = scale(known)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3 * SIZE**2), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.var(0, correction=0), torch.ones(3 * SIZE**2))


def test_run__augmentation_reaches_a_frozen_encoder(
    flat: MakeNet, coloured: MakeData, recorded: Recorded
) -> None:
    _, plain = recorded(LinearProbe(**ONE), flat(), coloured())
    _, augmented = recorded(LinearProbe(**ONE | {"augment": True}), flat(), coloured())
    assert not same(plain, augmented)


@pytest.mark.parametrize(("optimiser", "rate"), [("sgd", 0.1), ("lars", 3.0)])
@pytest.mark.parametrize("standardise", [False, True])
def test_run__held_out_accuracy_is_that_of_one_probe_on_the_rest(
    optimiser: str,
    rate: float,
    standardise: bool,
    flat: MakeNet,
    coloured: MakeData,
    dataset: MakeData,
) -> None:
    data = coloured(contrast=40)
    settings = SEVERAL | {"lr": [rate / 1e4, rate], "holdout": 0.3}
    settings |= {"optimiser": optimiser, "standardise": standardise}
    task = LinearProbe(**settings)
    result = task.run(flat(), data, eval_seed=2, device=CPU)
    labels = data.train.labels
    assert labels is not None
    rest, held = (
        Split(data.train.images[index], labels[index]) for index in task.search.split(labels, 2)
    )
    accuracies = []
    for candidate in result.details["held_out"]:
        point = {key: candidate[key] for key in ("lr", "weight_decay")}
        one = LinearProbe(**settings | point)
        alone = one.run(flat(), dataset(rest, held), eval_seed=2, device=CPU).metrics
        assert candidate["accuracy"] == alone["accuracy"]
        accuracies.append(candidate["accuracy"])
        if point == result.details["chosen"]:
            assert result.metrics["train_accuracy"] == alone["train_accuracy"]
    assert len(set(accuracies)) > 1
    chosen = [c for c in result.details["held_out"] if c["accuracy"] == max(accuracies)]
    assert result.details["chosen"] in [
        {key: c[key] for key in ("lr", "weight_decay")} for c in chosen
    ]


def test_run__a_refitted_choice_is_one_probe_on_everything(
    flat: MakeNet, coloured: MakeData, recorded: Recorded
) -> None:
    data = coloured(contrast=10)
    task = LinearProbe(**SEVERAL | {"refit": True, "standardise": True})
    result = task.run(flat(), data, eval_seed=2, device=CPU)
    chosen = result.details["chosen"]
    refitted = recorded.heads[-1]
    metrics, states = recorded(
        LinearProbe(**SEVERAL | {"standardise": True} | chosen), flat(), data, eval_seed=2
    )
    assert metrics == result.metrics
    assert same(states, list(refitted.state_dict().values()))


def test_run__a_rate_that_diverges_loses(flat: MakeNet, coloured: MakeData) -> None:
    settings = ONE | {"lr": [1e38, 0.1, 3e38]}
    result = LinearProbe(**settings).run(flat(), coloured(), eval_seed=0, device=CPU)
    tried = result.details["held_out"]
    assert [candidate["accuracy"] is None for candidate in tried] == [True, False, True]
    assert result.details["chosen"] == {"lr": 0.1, "weight_decay": 0.0}
    assert result.metrics["accuracy"] > 97
    # After one epoch of one step the weights are finite still, but not the scores.
    for epochs, hopeless in itertools.product((30, 1), ([1e38, 3e38], 1e38)):
        task = LinearProbe(**ONE | {"lr": hopeless, "epochs": epochs})
        with pytest.raises(FloatingPointError, match="lower the lr"):
            task.run(flat(), coloured(), eval_seed=0, device=CPU)


def test_run__one_combination_chooses_nothing(flat: MakeNet, coloured: MakeData) -> None:
    task = LinearProbe(**ONE | {"lr": [0.1], "weight_decay": 0.0, "refit": True})
    result = task.run(flat(), coloured(), eval_seed=0, device=CPU)
    plain = LinearProbe(**ONE).run(flat(), coloured(), eval_seed=0, device=CPU)
    assert (result.metrics, result.details) == (plain.metrics, {})


def test_run__several_rates_see_the_encoder_as_often_as_one(
    flat: MakeNet, coloured: MakeData
) -> None:
    images = []
    for settings in (ONE, SEVERAL):
        encoder, seen = flat(), []
        encoder.register_forward_hook(lambda net, args, _, seen=seen: seen.append(len(args[0])))
        LinearProbe(**settings | AUGMENTED).run(encoder, coloured(), eval_seed=0, device=CPU)
        images.append(sum(seen))
    # Two epochs of crops, of which several rates leave a tenth out, and both splits once.
    assert images == [2 * 120 + 120 + 60, 2 * 108 + 120 + 60]


def test_run__ten_classes_have_a_top_5(flat: MakeNet, dataset: MakeData) -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (200, 3, SIZE, SIZE), generator=draws, dtype=torch.uint8)
    split = Split(images, torch.arange(200) % 10)
    result = LinearProbe(**ONE).run(flat(), dataset(split, split), eval_seed=0, device=CPU)
    assert list(result.metrics) == ["accuracy", "accuracy_top5", "train_accuracy"]
    assert result.metrics["accuracy_top5"] >= result.metrics["accuracy"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ONE | {"schedule": "linear"}, "linear: schedule=linear is not one of constant"),
        (ONE | {"lr": [0.1, -1.0]}, "lr=-1.0 must not be negative"),
        (ONE | {"lr": [0.1, 0.1]}, "must be a number or a list of different numbers"),
        (ONE | {"holdout": 1.0}, "holdout=1.0 must lie between 0 and 1"),
        (ONE | {"precision": "fp8"}, "precision=fp8 is not one of fp32, bf16"),
        (ONE | {"min_scale": 0.0}, "linear: min_scale=0.0"),
        (ONE | {"flip_prob": 1.5}, "linear: flip_prob=1.5"),
    ],
)
def test_linear_probe__refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LinearProbe(**settings)


def test_check__nothing_to_hold_out(flat: MakeNet, coloured: MakeData) -> None:
    with pytest.raises(
        UserError, match=r"linear: holdout=0\.1 of each class of .* is not one image"
    ):
        LinearProbe(**SEVERAL).check(flat(), coloured(train=9))
    LinearProbe(**ONE).check(flat(), coloured(train=9))


def test_protocol__states_every_number() -> None:
    assert LinearProbe(**ONE).protocol == (
        "Linear classifier on frozen features of un-augmented images: SGD for 30 epochs in batches "
        "of 256 with learning rate 0.1 (constant), momentum 0.9 and weight decay 0, encoder in "
        "fp32; top-1 and, from 10 classes on, top-5 accuracy on un-augmented test images after the "
        "last epoch."
    )
    assert LinearProbe(**SEVERAL | AUGMENTED | {"standardise": True}).protocol == (
        "Linear classifier on frozen features, standardised by the un-augmented images trained on, "
        "of random resized crops (of 0.08 of the area or more, bilinear) and flips (probability "
        "0.5): SGD for 2 epochs in batches of 256 with learning rate the best of 1e-05, 0.01, 0.1 "
        "(constant), momentum 0.9 and weight decay the best of 0, 0.01, chosen by top-1 accuracy "
        "on 10% of each class of the train split held out, not trained again on all, encoder in "
        "fp32; top-1 and, from 10 classes on, top-5 accuracy on un-augmented test images after the "
        "last epoch."
    )
