from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from tasks.grid import Grid, HeldOut, numbers, whole_numbers
from tasks.selection import GridSearch, class_ranks, class_shares

MIXED = torch.tensor([0] * 40 + [1] * 25 + [2] * 4 + [4])[torch.arange(70) * 33 % 70]


def search(**changes) -> GridSearch:
    settings = {"lr": [0.1, 1.0, 10.0], "weight_decay": [0.0, 0.5]} | changes
    return GridSearch.of("task", 0.1, False, **settings)


def test_class_ranks__number_the_samples_of_each_class_in_a_random_order() -> None:
    ranks = class_ranks(MIXED, 0, "test")
    for label in MIXED.unique():
        own = ranks[label == MIXED]
        assert sorted(own.tolist()) == list(range(len(own)))
    assert not torch.equal(ranks[MIXED == 0], ranks[MIXED == 0].sort().values)
    assert torch.equal(ranks, class_ranks(MIXED, 0, "test"))
    for other in (class_ranks(MIXED, 1, "test"), class_ranks(MIXED, 0, "else")):
        assert not torch.equal(ranks, other)


@pytest.mark.parametrize(
    ("share", "counts"), [(0.1, [4, 2, 1, 1]), (0.9, [36, 22, 4, 1]), (1.0, [40, 25, 4, 1])]
)
def test_class_shares__are_whole_and_at_least_one(share: float, counts: list[int]) -> None:
    found = class_shares(MIXED, share)
    for label, count in zip((0, 1, 2, 4), counts, strict=True):
        assert (found[label == MIXED] == count).all()


def test_split__holds_out_a_share_of_each_class() -> None:
    for seed in range(5):
        kept, held = search().split(MIXED, eval_seed=seed)
        assert sorted([*kept.tolist(), *held.tolist()]) == list(range(70))
        assert MIXED[held].bincount(minlength=5).tolist() == [4, 3, 0, 0, 0]
    held = search().split(MIXED, eval_seed=3)[1]
    assert torch.equal(held, search().split(MIXED, eval_seed=3)[1])
    assert not torch.equal(held, search().split(MIXED, eval_seed=4)[1])


def test_split__holds_nothing_out_without_a_choice() -> None:
    kept, held = search(lr=0.1, weight_decay=[0.0]).split(MIXED, eval_seed=0)
    assert kept.tolist() == list(range(70))
    assert not len(held)


def test_check__refuses_classes_too_small_to_hold_out_of() -> None:
    labels = torch.arange(40) % 10
    with pytest.raises(UserError, match=r"holdout=0.1 of each class of .* 'toy' is not one image"):
        search().check(labels, "toy")
    search(lr=0.1, weight_decay=0.0).check(labels, "toy")
    GridSearch.of("task", 0.25, False, lr=[1.0, 2.0]).check(labels, "toy")
    whole = GridSearch.of("task", 0.1, False, "miou", lr=[1.0, 2.0])
    with pytest.raises(UserError, match=r"holdout=0.1 of the train split of 'toy' is not one"):
        whole.check(torch.zeros(4, dtype=torch.long), "toy")


@pytest.mark.parametrize(("refit", "expected"), [(False, {63}), (True, {63, 70})])
def test_counts__of_all_trainings(refit: bool, expected: set[int]) -> None:
    several = GridSearch.of("task", 0.1, refit, lr=[1.0, 2.0])
    assert several.counts(MIXED) == expected
    assert {len(several.split(MIXED, seed)[0]) for seed in range(5)} == {63}
    assert GridSearch.of("task", 0.1, refit, lr=1.0).counts(MIXED) == {70}
    assert several.trainings == 2 + refit
    assert GridSearch.of("task", 0.1, refit, lr=1.0).trainings == 1


class Net:
    """What a training gives; counts how many there are at a time."""

    alive = 0

    def __init__(self, lr: float, index: Tensor) -> None:
        Net.alive += 1
        self.lr = lr
        self.index = index

    def __del__(self) -> None:
        Net.alive -= 1


@pytest.mark.parametrize("refit", [False, True])
def test_best__keeps_the_best_net_alone(refit: bool) -> None:
    several = GridSearch.of("task", 0.1, refit, lr=[1.0, 4.0, 2.0, 9.0, 3.0])
    index, held = several.split(MIXED, eval_seed=7)
    most = []

    def train(point: dict[str, float], index: Tensor) -> Net:
        net = Net(point["lr"], index)
        most.append(Net.alive)
        if net.lr == 9:
            raise FloatingPointError("diverged")
        return net

    def score(net: Net, index: Tensor) -> HeldOut | None:
        assert torch.equal(index, held)
        if net.lr == 3:
            raise FloatingPointError("scores are not finite")
        return None if net.lr == 1 else HeldOut(10 * net.lr)

    net, trained_on, details = several.best(train, score, MIXED, eval_seed=7)
    assert net.lr == 4
    assert torch.equal(net.index, trained_on)
    assert torch.equal(trained_on, torch.arange(70) if refit else index)
    assert [c["accuracy"] for c in details["held_out"]] == [None, 40, 20, None, None]
    assert max(most) == 2


def test_best__one_combination_is_trained_on_everything() -> None:
    found, index, details = GridSearch.of("task", 0.1, True, lr=4.0).best(
        lambda point, index: (point, len(index)), lambda *_: HeldOut(1.0), MIXED, 0
    )
    assert found == ({"lr": 4.0}, 70)
    assert torch.equal(index, torch.arange(70))
    assert details == {}


def test_best__all_diverge() -> None:
    with pytest.raises(FloatingPointError, match="task: no training stays finite; lower the lr"):
        search().best(lambda *_: 0, lambda *_: None, MIXED, 0)


def scored(*accuracies: float | None) -> list[HeldOut | None]:
    return [None if a is None else HeldOut(a, 1.0) for a in accuracies]


def test_choose__the_highest_accuracy_and_of_equals_the_lowest_loss() -> None:
    # Points: lr .1 .1 1 1 10 10, weight decay 0 .5 0 .5 0 .5.
    best, details = search().choose(scored(10.0, 20.0, 60.0, 50.0, 60.0, None))
    assert best == 2
    assert details["chosen"] == {"lr": 1.0, "weight_decay": 0.0}
    assert details["held_out"][1] == {"lr": 0.1, "weight_decay": 0.5, "accuracy": 20}
    assert details["held_out"][5]["accuracy"] is None
    assert "warning" not in details
    scores = scored(10.0, 20.0, 60.0, 50.0, None, None)
    scores[4] = HeldOut(60.0, 0.5)
    assert search().choose(scores)[0] == 4
    with pytest.raises(FloatingPointError, match="task: no training stays finite; lower the lr"):
        search().choose(scored(*[None] * 6))


@pytest.mark.parametrize(
    ("best", "warning"),
    [
        (0, "lr=0.1 is the lowest tried, and a lower one may be better"),
        (2, None),
        (3, "weight_decay=0.5 is the highest tried, and a higher one may be better"),
        (5, "lr=10 is the highest tried, and a higher one may be better; weight_decay=0.5 is"),
    ],
)
def test_choose__warns_of_the_edge_of_the_grid(best: int, warning: str | None) -> None:
    accuracies = [10.0] * 6
    accuracies[best] = 20.0
    found = search().choose(scored(*accuracies))[1].get("warning")
    assert found is None if warning is None else found.startswith(warning)


def test_choose__one_value_has_no_edge() -> None:
    one = search(weight_decay=0.5)
    assert "warning" not in one.choose(scored(1.0, 2.0, 1.0))[1]


def test_choose__a_setting_without_influence_has_no_edge() -> None:
    """As the temperature of a vote of one neighbour; and there is no fewer than one."""
    grid = Grid(purpose="task", values={"k": (1, 5), "t": (0.1, 1.0)})
    best, details = grid.choose(scored(60.0, 60.0, 50.0, 40.0), "leave_one_out")
    assert best == 0
    assert "warning" not in details
    assert details["leave_one_out"][2] == {"k": 5, "t": 0.1, "accuracy": 50}
    warning = grid.choose(scored(10.0, 10.0, 50.0, 60.0))[1]["warning"]
    assert warning == (
        "k=5 is the highest tried, and a higher one may be better; "
        "t=1 is the highest tried, and a higher one may be better"
    )


def test_held_out__of_a_head() -> None:
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    found = HeldOut.of(nn.Identity(), scores, torch.tensor([0, 1, 1]))
    assert found is not None
    assert found.score == pytest.approx(200 / 3)
    losses = (math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(3)))
    assert found.loss == pytest.approx(sum(losses) / 3)
    assert HeldOut.of(nn.Identity(), scores * math.inf, torch.tensor([0, 1, 1])) is None


def test_str__tells_how_the_choice_is_made() -> None:
    assert str(search(lr=0.1, weight_decay=0.0)) == ""
    told = ", chosen by top-1 accuracy on 10% of each class of the train split held out, "
    assert str(search()) == told + "not trained again on all"
    again = GridSearch.of("task", 0.1, True, lr=[1.0, 2.0])
    assert str(again) == told + "then trained again on all of it"
    miou = str(GridSearch.of("task", 0.25, False, "miou", lr=[1.0, 2.0]))
    assert miou.startswith(
        ", chosen by mean intersection over union on 25% of the train split held"
    )
    assert search().words("lr") == "the best of 0.1, 1, 10"
    assert search(lr=0.1).words("lr") == "0.1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": []}, r"task: lr=\[\] must be a number or a list of different numbers"),
        ({"lr": [0.1, 0.1]}, r"lr=\[0.1, 0.1\] must be"),
        ({"lr": [0.1, "b"]}, r"lr=\[0.1, 'b'\] must be"),
        ({"lr": "abc"}, "lr=abc must be"),
        ({"lr": True}, "lr=True must be"),
        ({"lr": [math.nan]}, r"lr=\[nan\] must be"),
    ],
)
def test_grid_search__refuses(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        search(**settings)


@pytest.mark.parametrize("holdout", [0.0, 1.0, -0.5])
def test_grid_search__refuses_a_share_that_is_none(holdout: float) -> None:
    with pytest.raises(UserError, match=f"task: holdout={holdout} must lie between 0 and 1"):
        GridSearch.of("task", holdout, False, lr=0.1)


@pytest.mark.parametrize("given", [2.5, True, [5.0], [1, 1], [], "5", [3, None], math.nan])
def test_whole_numbers__refuses(given: object) -> None:
    with pytest.raises(
        UserError, match=r"task: k=.* must be a whole number or a list of different"
    ):
        whole_numbers("task", "k", given)


def test_numbers__one_or_several() -> None:
    assert whole_numbers("task", "k", 3) == (3,)
    assert whole_numbers("task", "k", [5, 3]) == (5, 3)
    assert numbers("task", "lr", [1, 0.5]) == (1.0, 0.5)
    assert numbers("task", "lr", (0.5,)) == (0.5,)
