"""The adversarial step: who moves, who does not, and what the running statistics become."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from benchmark.contracts import Batch, MaskingMethod, Objective, Proposal
from benchmark.encoders import ResNet
from benchmark.hiding import Fill, hide
from benchmark.metrics import NonFiniteLossError, StepBuffer
from benchmark.objectives import BYOL, SimCLR, SimSiam, Supervised, nt_xent
from benchmark.optim import build_optimiser
from benchmark.probe import OnlineProbe
from benchmark.streams import Streams, seeded
from benchmark.trainer import Trainer
from benchmark.turns import Turns
from methods.adios import Adios
from methods.none import NoMask
from methods.sequential import Sequential

SIZE = 32


def make_batch(count: int = 8) -> Batch:
    with seeded(0, "test/batch"):
        views = torch.randn(2, count, 3, SIZE, SIZE)
    index = torch.arange(count)
    return Batch(
        views=views,
        pixels=views.sigmoid(),
        index=index,
        labels=index % 3,
        segments=None,
        progress=0.5,
        streams=Streams(0, 0, index),
    )


def sequential() -> Sequential:
    return Sequential(image_size=SIZE, num_masks=3, width=8, norm="instance", budget=0.25)


def adios() -> Adios:
    return Adios(SIZE, num_masks=2, width=8, norm="group", sparsity=0.9, entropy=0.7)


def simclr(encoder: ResNet) -> Objective:
    return SimCLR(encoder, feature_dim=64, hidden_dim=32, output_dim=16)


def byol(encoder: ResNet) -> Objective:
    return BYOL(encoder, feature_dim=64, hidden_dim=32, output_dim=16, predictor_dim=32)


def simsiam(encoder: ResNet) -> Objective:
    return SimSiam(encoder, feature_dim=64, hidden_dim=32, predictor_dim=16)


def supervised(encoder: ResNet) -> Objective:
    return Supervised(encoder, feature_dim=64, num_classes=3)


OBJECTIVES = (simclr, byol, simsiam, supervised)


def make_trainer(method: MaskingMethod, make_objective=simclr, **rules: object) -> Trainer:
    with seeded(0, "test/nets"):
        encoder = ResNet(width=8, stem="stride2")
        objective = make_objective(encoder)
    sgd = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
    return Trainer(
        encoder=encoder,
        objective=objective,
        method=method,
        probe=OnlineProbe(64, 3, lr=0.1),
        encoder_optimiser=build_optimiser((encoder, objective), **sgd),
        mask_optimiser=build_optimiser((method,), **sgd) if method.adversarial else None,
        batchnorm="once",
        precision="fp32",
        **rules,
    )


def state(*modules: nn.Module) -> list[Tensor]:
    return [v.clone() for m in modules for v in copy.deepcopy(m.state_dict()).values()]


def same(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("make_objective", OBJECTIVES)
@pytest.mark.parametrize("make_method", [sequential, adios])
def test_step__each_player_moves_alone(make_objective, make_method) -> None:
    trainer = make_trainer(make_method(), make_objective)
    batch = make_batch()
    sides = [(batch, trainer.propose(batch))]
    method_before = state(trainer.method)
    encoder_before = state(trainer.encoder)
    trainer._encoder_step(sides)
    assert same(method_before, state(trainer.method))
    assert all(p.grad is None for p in trainer.method.parameters())
    assert not same(encoder_before, state(trainer.encoder))

    encoder_before = state(trainer.encoder, trainer.objective)
    gradients = [p.grad.clone() for p in trainer.encoder.parameters()]
    trainer._mask_step(sides)
    # Under the rule "once" not even a buffer of the encoder moves.
    assert same(encoder_before, state(trainer.encoder, trainer.objective))
    assert same(gradients, [p.grad for p in trainer.encoder.parameters()])
    assert not same(method_before, state(trainer.method))


def test_step__adversary_raises_the_loss_when_nothing_else_weighs() -> None:
    method = sequential()
    method.budget_weight = method.overlap_weight = method.consistency_weight = 0.0
    trainer = make_trainer(method)
    batch = make_batch()

    def mask_loss() -> float:
        terms = trainer._mask_step([(batch, trainer.propose(batch))])
        return float(terms["mask_loss"].detach())

    losses = [mask_loss() for _ in range(12)]
    assert losses[-1] < losses[0]


def test_step__encoder_sees_clean_view_once_and_each_mask_once_per_phase() -> None:
    trainer = make_trainer(sequential())
    seen = []
    trainer.encoder.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    calls = []
    trainer.method.heads.unet.register_forward_hook(lambda *_: calls.append(1))
    batch = make_batch()
    trainer.step(batch)
    assert len(seen) == 2 * (1 + 3)
    assert len(calls) == 1
    assert torch.equal(seen[0], batch.views[0])
    assert torch.equal(seen[4], batch.views[0])


def test_step__plain_method_has_one_phase() -> None:
    trainer = make_trainer(NoMask())
    terms = trainer.step(make_batch())
    assert "mask_loss" not in terms
    assert terms["slot_area"].tolist() == [0.0]


def test_step__probe_leaves_no_trace() -> None:
    batch = make_batch()
    with_probe, without = make_trainer(sequential()), make_trainer(sequential())
    without.method.load_state_dict(with_probe.method.state_dict())
    without.probe = None
    for trainer in (with_probe, without):
        for _ in range(2):
            trainer.step(batch)
    assert same(state(with_probe.encoder), state(without.encoder))
    assert same(state(with_probe.method), state(without.method))


class Fixed(MaskingMethod):
    """Hides the upper half in slot 0 and the left half in slot 1."""

    version = 1
    num_masks = 2
    needs = ("loss_gradient",)

    def forward(self, batch: Batch) -> Proposal:
        self.gradient = batch.loss_gradient()
        masks = torch.zeros(batch.views.shape[1], 2, SIZE, SIZE)
        masks[:, 0, : SIZE // 2] = 1
        masks[:, 1, :, : SIZE // 2] = 1
        return Proposal(masks)


@pytest.mark.parametrize("make_objective", OBJECTIVES)
def test_propose__gradient_of_the_unmasked_loss_and_no_trace(make_objective) -> None:
    trainer = make_trainer(Fixed(), make_objective)
    batch = make_batch()
    before = state(trainer.encoder, trainer.objective)
    with torch.no_grad():  # as for a picture
        trainer.propose(batch)
    assert same(before, state(trainer.encoder, trainer.objective))
    assert all(p.grad is None for p in trainer.encoder.parameters())
    view = batch.views[1].clone().requires_grad_()
    trainer.objective(trainer.encoder, batch, view[None]).per_mask.sum().backward()
    torch.testing.assert_close(trainer.method.gradient, view.grad)


@pytest.mark.parametrize("make_objective", OBJECTIVES)
def test_step__limits_are_the_loss_of_no_mask_and_of_all_hidden_and_change_nothing(
    make_objective,
) -> None:
    batch = make_batch()
    plain, diagnosed = (make_trainer(NoMask(), make_objective) for _ in range(2))
    terms = plain.step(batch)
    told = diagnosed.step(batch, diagnose=True)
    nets = [state(trainer.encoder, trainer.objective) for trainer in (plain, diagnosed)]
    assert same(*nets)
    assert set(told) - set(terms) == {"unmasked_loss", "blank_loss"}
    torch.testing.assert_close(told["unmasked_loss"], terms["slot_loss"][0])
    blank = torch.zeros_like(batch.views[1])[None]
    fresh = make_trainer(NoMask(), make_objective)
    expected = fresh.objective(fresh.encoder, batch, blank).per_mask[0]
    torch.testing.assert_close(told["blank_loss"], expected.detach())


def test_step__unmasked_pair_is_one_more_slot() -> None:
    batch = make_batch()
    terms = make_trainer(Fixed(), unmasked_pair=True).step(batch, diagnose=True)
    alone = make_trainer(Fixed()).step(batch)
    assert terms["slot_loss"].shape == (3,)
    torch.testing.assert_close(terms["slot_loss"][:2], alone["slot_loss"])
    torch.testing.assert_close(terms["slot_loss"][2], terms["unmasked_loss"])
    torch.testing.assert_close(terms["loss"], terms["slot_loss"].mean())
    assert terms["slot_area"].shape == (2,)


def test_step__mask_both_views_is_the_mean_over_both_orders() -> None:
    batch = make_batch()
    both = make_trainer(Fixed(), mask_both_views=True).step(batch)
    one, other = (make_trainer(Fixed()).step(side) for side in (batch, batch.swapped()))
    torch.testing.assert_close(both["loss"], (one["loss"] + other["loss"]) / 2)
    # SimCLR's loss is not symmetric in the two views once one of them is masked.
    assert not torch.allclose(one["loss"], other["loss"])


def test_mask_step__of_both_views_is_the_mean_over_both_orders_and_one_step() -> None:
    batch = make_batch()
    trainer = make_trainer(sequential(), mask_both_views=True)
    sides = [(side, trainer.propose(side)) for side in (batch, batch.swapped())]
    before = state(trainer.method)
    expected = []
    for side in sides:
        alone = copy.deepcopy(trainer)  # each order for itself, on a copy
        proposal = alone.propose(side[0])
        expected.append(alone._mask_step([(side[0], proposal)])["mask_loss"].detach())
    calls = []
    trainer.method.after_step = lambda proposal: calls.append(proposal.masks.requires_grad)
    both = trainer._mask_step(sides)["mask_loss"].detach()
    torch.testing.assert_close(both, torch.stack(expected).mean())
    assert not same(before, state(trainer.method))
    assert calls == [False]


def test_swapped__views_change_places_and_draws_are_others() -> None:
    batch = make_batch()
    other = batch.swapped()
    assert torch.equal(other.views, batch.views[[1, 0]])
    assert torch.equal(other.pixels, batch.pixels[[1, 0]])
    assert not torch.equal(other.streams.uniform("x", 9), batch.streams.uniform("x", 9))


@pytest.mark.parametrize(
    ("turns", "step", "players"),
    [
        (Turns(), 5, ["encoder", "mask"]),
        (Turns(mask_steps=2), 0, ["encoder", "mask", "mask"]),
        (Turns(first="mask", mask_steps=2), 0, ["mask", "mask", "encoder"]),
        (Turns(encoder_steps=3), 1, ["encoder"]),
        (Turns(encoder_steps=3), 2, ["encoder", "mask"]),
    ],
)
def test_turns__players(turns: Turns, step: int, players: list[str]) -> None:
    assert turns.players(step) == players


def test_step__each_turn_meets_the_other_player_as_it_now_is() -> None:
    trainer = make_trainer(sequential(), turns=Turns(first="mask", mask_steps=2))
    unet_calls, encoder_calls = [], []
    trainer.method.heads.unet.register_forward_hook(lambda *_: unet_calls.append(1))
    trainer.encoder.register_forward_hook(lambda *_: encoder_calls.append(1))
    terms = trainer.step(make_batch())
    assert len(unet_calls) == 3  # once for each step of the adversary, once for the encoder
    assert len(encoder_calls) == 3 * (1 + 3)
    assert {"loss", "mask_loss"} <= set(terms)


def test_mask_step__in_evaluation_mode_uses_running_statistics() -> None:
    batch = make_batch()
    trainer = make_trainer(sequential(), turns=Turns(encoder_mode="eval"))
    proposal = trainer.propose(batch)
    loss = trainer._mask_step([(batch, proposal)])["mask_loss"]
    loss -= sum(trainer.method.penalties(proposal).values())
    assert trainer.encoder.training
    assert all(m.training for m in trainer.encoder.modules())
    trainer.encoder.eval()
    trainer.objective.eval()
    hidden = hide(batch.views[1], proposal.masks)
    expected = -trainer.objective(trainer.encoder, batch, hidden).per_mask.mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("kind", ["zero", "mean", "blur", "noise"])
def test_fill__shown_pixels_stay_and_hidden_ones_are_replaced(kind: str) -> None:
    batch = make_batch(3)
    images = batch.views[1]
    masks = torch.zeros(3, 1, SIZE, SIZE)
    masks[..., :10] = 1
    filling = Fill(kind)(images, batch.streams)
    hidden = hide(images, masks, filling)[0]
    assert torch.equal(hidden[..., 10:], images[..., 10:])
    patch = hidden[..., :10]
    if kind == "zero":
        assert not patch.any()
    elif kind == "mean":
        torch.testing.assert_close(patch.amax((2, 3)), images.mean((2, 3)))
        torch.testing.assert_close(patch.amin((2, 3)), images.mean((2, 3)))
    elif kind == "noise":
        assert torch.equal(filling, Fill(kind)(images, batch.streams))  # for both players
        assert not torch.equal(filling[0], filling[1])
        assert abs(float(filling.mean())) < 0.05
        assert float(filling.std()) == pytest.approx(1, abs=0.05)
    else:
        torch.testing.assert_close(patch, _blurred(images, 4.0)[..., :10], atol=1e-4, rtol=1e-4)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur as one weighted sum for each axis, reflected at the border."""
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-(o**2) / (2 * sigma**2)) for o in range(-reach, reach + 1)]
    for axis in (2, 3):
        places = [
            [SIZE - 1 - abs(SIZE - 1 - abs(i + o)) for i in range(SIZE)]
            for o in range(-reach, reach + 1)
        ]
        shifted = (
            w * images.index_select(axis, torch.tensor(p))
            for w, p in zip(weights, places, strict=True)
        )
        images = sum(shifted) / sum(weights)
    return images


def test_hide__soft_masks_mix_and_pass_gradient() -> None:
    images, masks = torch.full((1, 3, 2, 2), 2.0), torch.full((1, 1, 2, 2), 0.25)
    masks.requires_grad_()
    hidden = hide(images, masks, torch.full_like(images, -4.0))
    assert (hidden == 0.75 * 2 - 0.25 * 4).all()
    hidden.sum().backward()
    assert (masks.grad == 3 * -6).all()


def test_hide__one_hides() -> None:
    images = torch.full((2, 3, 4, 4), 5.0)
    masks = torch.zeros(2, 2, 4, 4)
    masks[0, 1, 0, 0] = 1
    hidden = hide(images, masks)
    assert hidden.shape == (2, 2, 3, 4, 4)
    assert (hidden == 0).sum() == 3
    assert (hidden[1, 0, :, 0, 0] == 0).all()


def test_byol__teacher_moves_only_by_average() -> None:
    trainer = make_trainer(sequential(), byol)
    objective = trainer.objective
    before = [p.clone() for p in objective.teacher.parameters()]
    batch = make_batch()
    trainer.step(batch)
    moved = [
        (slow - old).abs().max() > 0
        for slow, old in zip(objective.teacher.parameters(), before, strict=True)
    ]
    assert any(moved)
    decay = 1 - (1 - 0.99) * (1 + 0) / 2  # cosine at half of training
    for slow, old, fast in zip(
        objective.teacher[0].parameters(), before, trainer.encoder.parameters(), strict=False
    ):
        torch.testing.assert_close(slow, decay * old + (1 - decay) * fast)


def test_drain__names_step_and_term() -> None:
    buffer = StepBuffer()
    buffer.add(6, {"loss": torch.tensor(1.0), "slot_loss": torch.ones(2)})
    buffer.add(7, {"loss": torch.tensor(1.0), "slot_loss": torch.tensor([1.0, torch.nan])})
    with pytest.raises(NonFiniteLossError, match="step 7: slot_loss"):
        buffer.drain()


def test_nt_xent__in_bf16_autocast_as_without() -> None:
    with seeded(0, "test/features"):
        z0, z1 = torch.randn(2, 32, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(z0, z1, 0.2)
    assert torch.equal(inside, nt_xent(z0, z1, 0.2))


def test_nt_xent__loop() -> None:
    """Algorithm 1 of arXiv 2002.05709, pair by pair."""
    with seeded(0, "test/features"):
        z0, z1 = torch.randn(2, 4, 6, dtype=torch.float64)
    rows = torch.cat([z0, z1])
    total = 0.0
    for i in range(8):
        similarity = [
            float(rows[i] @ rows[j] / (rows[i].norm() * rows[j].norm())) / 0.2 for j in range(8)
        ]
        denominator = sum(math.exp(s) for j, s in enumerate(similarity) if j != i)
        total -= math.log(math.exp(similarity[(i + 4) % 8]) / denominator)
    assert float(nt_xent(z0, z1, 0.2)) == pytest.approx(total / 8, rel=1e-12)
