"""Our nets, losses and steps against figures read off the published ADIOS code, in float64."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.contracts import Batch
from benchmark.encoders import ResNet
from benchmark.hiding import hide
from benchmark.objectives import SimCLR, byol_loss, nt_xent, simsiam_loss
from benchmark.optim import build_optimiser
from benchmark.schedule import ema_decay, warmup_cosine
from benchmark.streams import Streams
from benchmark.trainer import Trainer
from methods.adios import Adios, area_negentropy

FIGURES = Path(
    os.environ.get("MASKBENCH_FIGURES", Path(__file__).parents[1] / "data/adios_figures.json")
)
CONFIGURATIONS = json.loads(FIGURES.read_text())
NORMS = {"in": "instance", "gn": "group", "no": "none"}


def close(value: Any, figure: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().numpy()
    np.testing.assert_allclose(value, figure, rtol=1e-9)


def fill(modules: Iterable[nn.Module], rs: np.random.RandomState) -> None:
    """Draw every parameter by the rule that the figures were made with."""
    for module in modules:
        for name, parameter in module.named_parameters():
            value = rs.standard_normal(parameter.numel()).reshape(parameter.shape)
            if parameter.ndim > 1:
                value *= np.sqrt(2 / np.prod(parameter.shape[1:]))
            else:
                value = 0.1 * value + name.endswith("weight")
            parameter.data = torch.from_numpy(value)


class Setup:
    """Weights and inputs of one configuration."""

    def __init__(self, figures: dict[str, Any]) -> None:
        self.figures = figures
        c = figures["config"]
        self.config = c
        rs = np.random.RandomState(c["seed"])
        self.encoder = ResNet().double()
        self.objective = SimCLR(
            self.encoder,
            feature_dim=512,
            hidden_dim=c["proj_hidden"],
            output_dim=c["proj_out"],
            temperature=c["temperature"],
        ).double()
        self.method = Adios(
            image_size=c["image_size"],
            num_masks=c["N"],
            width=c["mask_fbase"],
            norm=NORMS[c["unet_norm"]],
            sparsity=c["alpha_sparsity"],
            entropy=c["alpha_entropy"],
        ).double()
        fill((self.encoder, self.objective.projector, self.method.unet, self.method.head), rs)
        shape = (c["batch"], 3, c["image_size"], c["image_size"])
        views = [rs.standard_normal(int(np.prod(shape))).reshape(shape) for _ in range(2)]
        self.z1, self.z2 = (
            torch.from_numpy(rs.standard_normal(96).reshape(8, 12)) for _ in range(2)
        )
        index = torch.arange(c["batch"])
        stacked = torch.from_numpy(np.stack(views))
        self.batch = Batch(
            views=stacked,
            pixels=stacked,
            index=index,
            labels=None,
            segments=None,
            progress=0.0,
            streams=Streams(0, 0, index),
        )

    def trainer(self) -> Trainer:
        settings = {"name": "lars", "momentum": 0.9, "weight_decay": 1e-4}
        return Trainer(
            encoder=self.encoder,
            objective=self.objective,
            method=self.method,
            probe=None,
            encoder_optimiser=build_optimiser(
                (self.encoder, self.objective), lr=0.1112770223, **settings
            ),
            mask_optimiser=build_optimiser((self.method,), lr=0.0145150242, **settings),
            batchnorm="adios",
            precision="fp32",
        )


@pytest.fixture(params=CONFIGURATIONS, ids=lambda c: f"{c['config']['image_size']}px")
def setup(request: pytest.FixtureRequest) -> Iterator[Setup]:
    return Setup(request.param)


def norm_of(tensors: Iterable[Tensor]) -> float:
    return float(torch.cat([t.detach().flatten() for t in tensors]).norm())


def gradient_norm(loss: Tensor, module: nn.Module) -> float:
    return norm_of(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True))


def test_mask_net__parameters(setup: Setup) -> None:
    parameters = list(setup.method.unet.parameters())
    assert sum(p.numel() for p in parameters) == setup.figures["unet_parameters"]
    assert [list(p.shape) for p in parameters] == setup.figures["unet_parameter_shapes"]


def test_masks__values(setup: Setup) -> None:
    masks = setup.method(setup.batch).masks
    close(masks.mean((0, 2, 3)), setup.figures["mask_mean_per_slot"])
    close(masks.transpose(0, 1).flatten(1).std(1), setup.figures["mask_std_per_slot"])
    close(masks[0, 0, 0, :8], setup.figures["mask_values_image0_slot0_row0_first8"])


def test_encoder_phase__losses_and_gradients(setup: Setup) -> None:
    masks = setup.method(setup.batch).masks.detach()
    losses = setup.objective(setup.encoder, setup.batch, hide(setup.batch.views[1], masks))
    figures = setup.figures["encoder_phase"]
    close(losses.per_mask, figures["loss_per_mask"])
    close(losses.per_mask.sum(), figures["loss_sum"])
    close(gradient_norm(losses.per_mask.sum(), setup.encoder), figures["grad_norm_encoder"])
    close(
        gradient_norm(losses.per_mask.sum(), setup.objective.projector),
        figures["grad_norm_projector"],
    )


def test_mask_phase__objective_and_gradients(setup: Setup) -> None:
    proposal = setup.method(setup.batch)
    hidden = hide(setup.batch.views[1], proposal.masks)
    losses = setup.objective(setup.encoder, setup.batch, hidden, adversary=True)
    penalties = setup.method.penalties(proposal)
    objective = losses.per_mask.sum() - sum(penalties.values())
    figures = setup.figures["mask_phase"]
    close(objective, figures["objective_to_maximise"])
    close(area_negentropy(proposal.masks.mean((2, 3))).sum(), figures["entropy_term"])
    close(gradient_norm(objective, setup.method.unet), figures["grad_norm_unet"])
    close(gradient_norm(objective, setup.method.head), figures["grad_norm_head"])


def test_losses__on_given_features(setup: Setup) -> None:
    figures = setup.figures["losses"]
    close(nt_xent(setup.z1, setup.z2, setup.config["temperature"]), figures["simclr"])
    close(byol_loss(setup.z1, setup.z2), figures["byol"])
    close(simsiam_loss(setup.z1, setup.z2), figures["simsiam"])


def test_trainer__two_steps_with_lars(setup: Setup) -> None:
    trainer = setup.trainer()
    norms = [m for m in setup.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    for figures in setup.figures["two_steps_with_lars"]:
        terms = trainer.step(setup.batch)
        close(terms["loss"], figures["encoder_loss_sum"])
        close(-terms["mask_loss"], figures["mask_objective"])
        close(norm_of(setup.encoder.parameters()), figures["encoder_norm"])
        close(norm_of(setup.objective.parameters()), figures["projector_norm"])
        close(norm_of(setup.method.unet.parameters()), figures["unet_norm"])
        close(norm_of(setup.method.head.parameters()), figures["head_norm"])
        close(norm_of(m.running_mean for m in norms), figures["bn_running_mean_norm"])
        close(norm_of(m.running_var for m in norms), figures["bn_running_var_norm"])
        assert setup.encoder.bn1.num_batches_tracked == figures["bn1_batches_tracked"]


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [
        (0, 0.003),
        (1, 0.0150307803),
        (5, 0.0631539013),
        (9, 0.1112770223),
        (10, 0.1112770223),
        (250, 0.0574218132),
        (499, 1.14354e-06),
    ],
)
def test_warmup_cosine__published_values(epoch: int, lr: float) -> None:
    got = warmup_cosine(epoch, base=0.1112770223, start=0.003, warmup=10, total=500)
    assert got == pytest.approx(lr, rel=1e-6)


@pytest.mark.parametrize(
    ("step", "decay"), [(0, 0.99), (250, 0.9914644661), (500, 0.995), (1000, 1.0)]
)
def test_ema_decay__published_values(step: int, decay: float) -> None:
    assert ema_decay(step / 1000, 0.99) == pytest.approx(decay, rel=1e-9)
