"""Sequential masks: truly sequential, each choice as documented, budgets by rule."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmark.contracts import Batch, Proposal
from benchmark.errors import UserError
from benchmark.streams import Streams, seeded
from methods.mask_heads import SequentialHeads, _hard_concrete
from methods.sequential import Sequential
from methods.superpixel_budget import SuperpixelBudget
from methods.superpixels import ColourClusters

SIZE = 32
HISTORY = ("head", "head_sum", "unet", "unet_image")
ACTIVATIONS = ("sigmoid", "stick_breaking", "hard_concrete")
SUPERPIXELS = {
    "image_size": SIZE,
    "num_segments": 64,
    "compactness": 0.1,
    "slic_iterations": 5,
    "colour": "rgb",
    "num_clusters": None,
    "kmeans_iterations": 10,
    "order": "descending",
    "min_budget": 0.05,
    "max_budget": 0.5,
}


def sequential(num_masks: int = 4, **changes) -> Sequential:
    settings = {"image_size": SIZE, "width": 8, "norm": "instance", "budget": 0.25} | changes
    settings.setdefault("initial_area", 0.2)
    with seeded(0, "test/method"):
        return Sequential(num_masks=num_masks, **settings)


def make_batch(index: Tensor | None = None, progress: float = 0.5) -> Batch:
    index = torch.arange(4) if index is None else index
    coarse = Streams(1, 0, index).uniform("test/pixels", 3, SIZE // 4, SIZE // 4)
    pixels = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(2, -1, -1, -1, -1)
    return Batch(
        views=(pixels - 0.5) * 4,
        pixels=pixels,
        index=index,
        labels=None,
        segments=None,
        progress=progress,
        streams=Streams(0, 0, index),
    )


def changed_slots(method: Sequential, slot: int) -> list[bool]:
    """Which masks change when slot ``slot`` hides more."""
    batch = make_batch()
    before = method(batch).masks
    with torch.no_grad():
        method.heads.heads[slot].bias += 1.0
    after = method(batch).masks
    return [not torch.equal(before[:, k], after[:, k]) for k in range(method.num_masks)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("history_input", HISTORY)
def test_masks__a_change_reaches_later_ones_and_only_them(
    history_input: str, activation: str
) -> None:
    choices = {"history_input": history_input, "activation": activation}
    for slot in range(3):
        expected = [k >= slot for k in range(3)]
        assert changed_slots(sequential(3, **choices), slot) == expected


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("history_input", HISTORY)
def test_masks__gradient_of_a_late_one_reaches_early_heads_unless_detached(
    history_input: str, activation: str
) -> None:
    choices = {"history_input": history_input, "activation": activation}
    for detach in ("none", "overlap", "input", "both"):
        method = sequential(3, detach_history=detach, **choices)
        method(make_batch()).masks[:, 2].sum().backward()
        gradients = [head.weight.grad for head in method.heads.heads]
        reached = [g is not None and bool(g.any()) for g in gradients]
        kept = detach in ("none", "overlap")
        assert reached == [kept, kept, True], detach


@pytest.mark.parametrize("share_head", [False, True])
@pytest.mark.parametrize("history_input", HISTORY)
def test_masks__slots_are_not_exchangeable(history_input: str, share_head: bool) -> None:
    """No slot is a copy of another one, even where all share one head."""
    masks = sequential(3, history_input=history_input, share_head=share_head)(make_batch()).masks
    for j, k in itertools.combinations(range(3), 2):
        assert not torch.allclose(masks[:, j], masks[:, k], atol=1e-4)


@pytest.mark.parametrize("history_input", ["head", "head_sum"])
def test_masks__swapping_the_order_of_heads_changes_more_than_the_order(
    history_input: str,
) -> None:
    method = sequential(2, history_input=history_input)
    first, second = method.heads.heads
    with torch.no_grad():  # both heads read the features alike; only the second sees history
        second.weight[:, : first.in_channels] = first.weight
        second.bias.copy_(first.bias)
    masks = method(make_batch()).masks
    assert not torch.allclose(masks[:, 0], masks[:, 1])


@pytest.mark.parametrize("history_input", HISTORY)
def test_masks__one_of_them_is_a_single_budgeted_adversary(history_input: str) -> None:
    """With N=1 history, overlap and their keys play no part: sigmoid of a 1x1 head, R_b, C."""
    method = sequential(1, history_input=history_input, overlap_weight=5.0)
    batch = make_batch()
    view = batch.views[1]
    if history_input == "unet":  # whose fourth channel is the empty history
        view = torch.cat([view, torch.zeros_like(view[:, :1])], dim=1)
    heads = method.heads
    features = heads.unet(view)
    if history_input == "head_sum":
        features = torch.cat([features, torch.zeros_like(features[:, :1])], dim=1)
    expected = heads.heads[0](features).sigmoid()
    proposal = method(batch)
    torch.testing.assert_close(proposal.masks, expected)
    terms = method.penalties(proposal)
    excess = (expected.mean((1, 2, 3)) - 0.25).clamp_min(0)
    torch.testing.assert_close(terms["budget"], 100 * excess.square().mean())
    assert float(terms["overlap"].detach()) == 0.0
    smooth = torch.nn.functional.avg_pool2d(expected, 3, 1, 1, count_include_pad=False)
    per_pixel = (expected - smooth).square().mean()
    torch.testing.assert_close(terms["consistency"], 1e-4 * 96**2 * per_pixel)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("area", [0.1, 0.2])
def test_masks__start_near_the_initial_area(activation: str, area: float) -> None:
    masks = sequential(activation=activation, initial_area=area)(make_batch()).masks
    assert (masks.mean((0, 2, 3)) - area).abs().max() < 0.1
    assert (masks.mean((0, 2, 3)) / area).log().abs().max() < 1


@pytest.mark.parametrize("area", [0.1, 0.25, 0.6])
def test_initial_bias__of_hard_concrete_has_the_mean_area(area: float) -> None:
    heads = sequential(1, activation="hard_concrete", initial_area=area).heads
    noise = Streams(0, 0, torch.arange(1)).uniform("test", 20000)
    mean = _hard_concrete(heads.heads[0].bias.detach().expand(1, 20000), noise).mean()
    assert float(mean) == pytest.approx(area, abs=0.01)


def test_hard_concrete__is_mostly_binary_and_seeded() -> None:
    method = sequential(2, activation="hard_concrete")
    masks = method(make_batch()).masks
    assert float(((masks == 0) | (masks == 1)).float().mean()) > 0.3
    assert torch.equal(masks, method(make_batch()).masks)
    alone = method(make_batch(torch.tensor([2]))).masks
    torch.testing.assert_close(masks[2:3], alone)


def test_stick_breaking__never_hides_a_pixel_twice() -> None:
    masks = sequential(4, activation="stick_breaking")(make_batch()).masks
    assert (masks >= 0).all()
    assert (masks.sum(1) <= 1 + 1e-6).all()


@settings(deadline=None, max_examples=12)
@given(
    size=st.sampled_from([32, 48, 64]),
    num_masks=st.integers(1, 4),
    history_input=st.sampled_from(HISTORY),
    share_head=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
    seed=st.integers(0, 9),
)
def test_heads__range_and_independence_of_the_rest_of_the_batch(
    size: int, num_masks: int, history_input: str, share_head: bool, activation: str, seed: int
) -> None:
    share_head = share_head and activation != "stick_breaking"  # which refuses it
    with seeded(seed, "test/heads"):
        heads = SequentialHeads(
            size, num_masks, 8, "instance", history_input, share_head, False, activation, 0.2
        )
    index = torch.arange(3)
    images = Streams(seed, 0, index).normal("test", 3, size, size)
    masks = heads(images, Streams(0, 0, index))
    assert masks.shape == (3, num_masks, size, size)
    assert ((masks >= 0) & (masks <= 1)).all()
    alone = heads(images[1:2], Streams(0, 0, index[1:2]))
    torch.testing.assert_close(masks[1:2], alone, atol=1e-5, rtol=1e-4)


# Budgets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.25, 0.7])
def test_hard__hides_exactly_the_budget_and_gradient_reaches_the_net(share: float) -> None:
    method = sequential(3, budget_side="hard", budget=share)
    proposal = method(make_batch())
    assert (proposal.masks.detach().sum((2, 3)) == round(share * SIZE**2)).all()
    assert ((proposal.masks == 0) | (proposal.masks == 1)).all()
    assert "budget" not in method.penalties(proposal)
    (proposal.masks * torch.linspace(0, 1, SIZE)).sum().backward()
    assert all(p.grad is not None for p in method.parameters())
    assert any(p.grad.any() for p in method.heads.unet.parameters())


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.1), (0.5, 0.2), (1.0, 0.3)])
def test_budget__follows_a_ramp(progress: float, share: float) -> None:
    method = sequential(2, budget={"start": 0.1, "end": 0.3}, budget_side="hard")
    proposal = method(make_batch(progress=progress))
    torch.testing.assert_close(proposal.budgets, torch.full((4, 2), share))
    assert (proposal.masks.sum((2, 3)) == round(share * SIZE**2)).all()


def test_penalties__weights_are_those_of_a_96_px_image() -> None:
    masks = Streams(2, 0, torch.arange(2)).uniform("test/masks", 2, 96, 96)
    method = sequential(2, image_size=96)
    terms = method.penalties(Proposal(masks, budgets=torch.full((2, 2), 0.25)))
    literal = (masks[:, 1] * masks[:, 0]).sum((1, 2)).mean() / 2  # mean over two masks
    torch.testing.assert_close(terms["overlap"], 1e-4 * literal)


def test_penalties__sum_is_n_times_the_mean() -> None:
    proposal = sequential(3)(make_batch())
    mean, total = (sequential(3, reduction=r).penalties(proposal) for r in ("mean", "sum"))
    for name in mean:
        torch.testing.assert_close(total[name], 3 * mean[name])


@pytest.mark.parametrize("side", ["upper", "two"])
def test_auto__multipliers_climb_until_the_budget_is_kept(side: str) -> None:
    """An adversary that gains the same from every pixel, against the weight that holds it."""
    method = sequential(2, budget_side=side, budget_weight="auto", budget_rate=1.0)
    area = torch.tensor([0.6, 0.1], requires_grad=True)
    pull = torch.tensor([3.0, -1.0 if side == "two" else 0.0])  # slot 1 would rather shrink
    optimiser = torch.optim.SGD([area], lr=0.02)
    for _ in range(600):
        masks = area.view(1, 2, 1, 1).expand(4, 2, 4, 4)
        proposal = Proposal(masks, budgets=torch.full((4, 2), 0.25))
        loss = 2 * method.penalties(proposal)["budget"] - (pull * area).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        method.after_step(Proposal(masks.detach(), budgets=proposal.budgets))
    held = method.multipliers.tolist()
    area = area.detach()
    assert float(area[0]) == pytest.approx(0.25, abs=0.01)
    assert held[0] == pytest.approx(3.0, abs=0.1)  # as strong as the pull
    if side == "two":
        assert float(area[1]) == pytest.approx(0.25, abs=0.01)
        assert held[1] == pytest.approx(-1.0, abs=0.1)
    else:
        assert float(area[1]) < 0.25  # an upper bound leaves it alone
        assert held[1] == 0.0
    assert "multipliers" in method.state_dict()  # a resumed run goes on with them


def superpixel_budgets(masks: Tensor | None = None, num_masks: int = 4, **changes) -> Tensor:
    return SuperpixelBudget(**{**SUPERPIXELS, **changes})(make_batch(), num_masks, masks)


def test_superpixel_budget__order_clip_and_number() -> None:
    sizes = ColourClusters().shares(make_batch().pixels[1], 4)
    clipped = sizes.clamp(0.05, 0.5)
    assert torch.equal(superpixel_budgets(), clipped)
    assert torch.equal(superpixel_budgets(order="ascending"), clipped.flip(1))
    drawn = superpixel_budgets(order="random")
    assert torch.equal(drawn.sort(1, descending=True).values, clipped)
    assert not torch.equal(drawn, clipped)
    tight = superpixel_budgets(min_budget=0.2, max_budget=0.3)
    assert torch.equal(tight, sizes.clamp(0.2, 0.3))
    more = ColourClusters().shares(make_batch().pixels[1], 7)[:, :4]
    assert torch.equal(superpixel_budgets(num_clusters=7), more.clamp(0.05, 0.5))
    fewer = superpixel_budgets(num_clusters=2)
    assert (fewer[:, 2:] == 0.05).all()
    assert not torch.equal(fewer[0], fewer[1])


def test_superpixel_budget__matched_is_the_optimal_assignment() -> None:
    masks = Streams(3, 0, torch.arange(4)).uniform("test/areas", 4, 1, 1).expand(-1, -1, 8, 8)
    areas = masks.mean((2, 3))
    got = superpixel_budgets(masks, order="matched")
    budgets = superpixel_budgets()
    for image in range(4):
        cost = (areas[image][:, None] - budgets[image]).square().numpy()
        _, columns = linear_sum_assignment(cost)
        assert got[image].tolist() == budgets[image][torch.from_numpy(columns)].tolist()


def test_superpixel_budget__controls() -> None:
    own = superpixel_budgets()
    assert torch.equal(superpixel_budgets(control="shuffled"), own.roll(1, 0))
    assert (superpixel_budgets(control="equal") == 0.25).all()
    assert not torch.equal(own[0], own[1])


def test_superpixel_budget__drives_the_penalty_and_the_hard_masks() -> None:
    rule = SuperpixelBudget(**SUPERPIXELS)
    hard = sequential(4, budget=rule, budget_side="hard")(make_batch())
    wanted = (superpixel_budgets() * SIZE**2).round()
    assert torch.equal(hard.masks.detach().sum((2, 3)), wanted)
    soft = sequential(4, budget=rule, budget_side="two")
    proposal = soft(make_batch())
    excess = proposal.masks.mean((2, 3)) - superpixel_budgets()
    torch.testing.assert_close(soft.penalties(proposal)["budget"], 100 * excess.square().mean())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_masks": 0}, "num_masks=0"),
        ({"budget": 0.0}, "budget=0.0 must lie between"),
        ({"budget": 1.0}, "budget=1.0 must lie between"),
        ({"budget": {"start": 0.1}}, "method.budget: lacks 'end'"),
        ({"initial_area": 1.5}, "initial_area=1.5"),
        ({"budget_weight": -1.0}, "budget_weight=-1.0"),
        ({"norm": "layer"}, "norm=layer is not one of"),
        ({"width": 0}, "width=0"),
        ({"consistency_kernel": 4}, "consistency_kernel=4 must be odd"),
        ({"activation": "stick_breaking", "initial_area": 0.5}, "set it below 0.5"),
        ({"activation": "stick_breaking", "share_head": True}, "use share_head=false"),
        ({"activation": "hard_concrete", "budget_side": "hard"}, "use activation=sigmoid"),
        ({"budget_weight": "auto", "budget_unit": "pixels"}, "budget_unit=pixels must be share"),
    ],
)
def test_sequential__refuses(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sequential(**{"num_masks": 2, **changes})


def test_sequential__refuses_hard_budgets_that_need_the_masks() -> None:
    rule = SuperpixelBudget(**{**SUPERPIXELS, "order": "matched"})
    with pytest.raises(UserError, match="choose another order than matched"):
        sequential(budget=rule, budget_side="hard")
