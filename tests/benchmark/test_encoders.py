from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import Tensor, nn

from benchmark.checkpoint import load_encoder, save_encoder
from benchmark.contracts import Encoder
from benchmark.dataset import Dataset, Split
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.instantiate import instantiate
from benchmark.objectives import BYOL, SimCLR
from benchmark.streams import seeded
from benchmark.timm_encoder import TimmEncoder
from tasks.segmentation import Segmentation

CONF = Path(__file__).parents[2] / "benchmark" / "conf"
VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2}
NETS: list[tuple[str, dict[str, Any], int]] = [
    ("vit_tiny_patch16_224", VIT, 192),
    ("vit_small_patch16_224", VIT | {"global_pool": "avg"}, 384),
    ("convnext_atto", {}, 320),
    ("resnet18", {}, 512),
    ("mobilenetv3_small_050", {"drop_rate": 0.0}, 1024),
]


def built(name: str, args: dict[str, Any], image_size: int = 32, seed: int = 0) -> TimmEncoder:
    with seeded(seed, "test/encoder"):
        return TimmEncoder(name, image_size, args)


def images(size: int = 32) -> Tensor:
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))


def equal(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def option(name: str, image_size: int = 32) -> dict[str, Any]:
    text = (CONF / "encoder" / f"{name}.yaml").read_text()
    node: dict[str, Any] = yaml.safe_load(text.replace("${data.image_size}", str(image_size)))
    return node


@pytest.mark.parametrize(("name", "args", "dim"), NETS)
def test_timm__features_weights_and_export(
    name: str, args: dict[str, Any], dim: int, tmp_path: Path
) -> None:
    encoder = built(name, args)
    assert encoder.feature_dim == dim
    assert encoder(images()).shape == (4, dim)
    again = built(name, args)
    with seeded(0, "test/encoder"):
        theirs = timm.create_model(name, pretrained=False, num_classes=0, **args)
    assert equal(again, theirs)
    assert not equal(again, built(name, args, seed=1))
    nn.init.normal_(next(encoder.parameters()))
    assert not equal(encoder, again)
    file = tmp_path / "encoder.safetensors"
    save_encoder(file, encoder.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    load_encoder(file, theirs)
    load_encoder(file, again)
    assert equal(encoder, again)
    with torch.no_grad():
        expected = encoder.eval()(images())
        torch.testing.assert_close(theirs.eval()(images()), expected)


@pytest.mark.parametrize(("name", "args", "dim"), NETS)
def test_timm__stages_have_falling_resolution(name: str, args: dict[str, Any], dim: int) -> None:
    encoder = built(name, args).eval()
    if name.startswith("vit"):
        assert encoder.stage_dims == ()
        return
    with torch.no_grad():
        maps = encoder.stages(images())
    assert len(maps) >= 3
    assert tuple(features.shape[1] for features in maps) == encoder.stage_dims
    sides = [features.shape[-1] for features in maps]
    assert sides == sorted(set(sides), reverse=True)


def test_timm__building_draws_and_changes_nothing_but_initial_weights() -> None:
    with seeded(0, "test/encoder"):
        timm.create_model("resnet18", num_classes=0)
        expected = torch.rand(3)
    with seeded(0, "test/encoder"):
        encoder = TimmEncoder("resnet18", 32, {})
        assert torch.equal(torch.rand(3), expected)
    assert encoder.training
    counts = [v for k, v in encoder.state_dict().items() if k.endswith("num_batches_tracked")]
    assert counts
    assert not any(counts)


def test_timm__class_token_is_the_feature_and_the_mean_a_choice() -> None:
    token, mean = (
        built("vit_tiny_patch16_224", VIT | {"global_pool": pool}).eval()
        for pool in ("token", "avg")
    )
    with torch.no_grad():
        tokens = token.net.forward_features(images())  # type: ignore[operator]
        torch.testing.assert_close(token(images()), tokens[:, 0])
        tokens = mean.net.forward_features(images())  # type: ignore[operator]
        expected = mean.net.fc_norm(tokens[:, 1:].mean(1))  # type: ignore[operator]
        torch.testing.assert_close(mean(images()), expected)


def test_timm__copies_inside_an_objective_resume(tmp_path: Path) -> None:
    encoder = built("vit_tiny_patch16_224", VIT)
    settings = {"hidden_dim": 8, "output_dim": 8, "predictor_dim": 8}
    objective = BYOL(encoder, feature_dim=192, **settings)
    other = BYOL(built("vit_tiny_patch16_224", VIT, seed=1), feature_dim=192, **settings)
    assert "teacher.0.cls_token" in objective.state_dict()
    torch.save(objective.state_dict(), tmp_path / "objective.pt")
    other.load_state_dict(torch.load(tmp_path / "objective.pt", weights_only=True))
    assert equal(objective, other)
    clone = copy.deepcopy(encoder)
    nn.init.zeros_(clone.net.cls_token)  # type: ignore[arg-type]
    assert encoder.net.cls_token.any()  # type: ignore[operator]
    clone.load_state_dict(encoder.state_dict())
    assert equal(clone, encoder)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto"])
def test_timm__every_parameter_has_a_gradient(name: str) -> None:
    encoder = built(name, VIT if name.startswith("vit") else {})
    encoder(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize(
    ("name", "size", "args", "message"),
    [
        ("vit_tinny_patch16_224", 32, {}, r"is no net of timm .* did you mean vit_tiny_patch16_"),
        ("hf-hub:someone/net", 32, {}, "is no net of timm"),
        ("vit_tiny_patch16_224", 32, {}, r"images of 32 pixels \(.*\).* set \+\+encoder.args.img_"),
        ("vit_tiny_patch16_224", 32, VIT | {"patch_size": 5}, "patch_size=5 does not divide"),
        ("vit_tiny_patch16_224", 32, VIT | {"drop_path_rate": 0.1}, "draws random numbers"),
        ("vit_tiny_patch16_224", 32, VIT | {"drop_rate": 0.1}, r"\+\+encoder.args.drop_rate=0"),
        ("resnet18", 32, {"drop_rate": 0.1}, "draws random numbers while it trains"),
        ("resnet18", 32, {"pretrained": True}, "pretrained=True is not for choosing"),
        ("resnet18", 32, {"num_classes": 3}, "num_classes=3 is not for choosing"),
        ("resnet18", 32, {"global_pool": ""}, "does not give one vector for each image"),
        ("resnet18", 32, {"colour": 1}, r"refuses encoder.args=\{'colour': 1\}"),
        ("convnext_atto", 2, {}, "does not take images of 2 pixels"),
    ],
)
def test_timm__refuses_in_one_sentence(
    name: str, size: int, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TimmEncoder(name, size, args)
    assert "\n" not in str(caught.value)


def test_segmentation__is_unsuited_to_a_net_of_one_resolution() -> None:
    split = Split(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    half = (0.5, 0.5, 0.5)
    data = Dataset("toy", split, split, (), half, half, "toy", "toy")
    task = Segmentation(epochs=1, lr=0.1)
    vit, cnn = built("vit_tiny_patch16_224", VIT), built("convnext_atto", {})
    assert task.unsuited(vit) == "encoder vit_tiny_patch16_224 has no three stages of feature maps"
    with pytest.raises(UserError, match="leave the task out"):
        task.check(vit, data)
    assert task.unsuited(cnn) is None
    task.check(cnn, data)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "encoder").glob("*.yaml")))
def test_option__builds_for_the_embedded_images(name: str) -> None:
    node = option(name)
    if node.get("name") == "???":
        node["name"] = "convnext_atto"
    encoder = instantiate(node)
    assert isinstance(encoder, Encoder)
    assert encoder.eval()(images()).shape == (4, encoder.feature_dim)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_option__patches_of_16_suit_96_pixels(size: str) -> None:
    node = option(f"vit_{size}", image_size=96)
    node["args"] = node["args"] | {"patch_size": 16, "depth": 1}
    encoder = instantiate(node)
    assert encoder.net.patch_embed.num_patches == 36


def test_resnet__stem_padding_widens_the_map_and_keeps_the_weights() -> None:
    nets = []
    for padding in (1, 2):
        with seeded(0, "test/encoder"):
            nets.append(ResNet(18, width=8, stem="small", stem_padding=padding))
    assert equal(*nets)
    assert [net.conv1(images()).shape[-1] for net in nets] == [32, 34]


@pytest.mark.parametrize(
    ("stem", "padding", "message"),
    [
        ("imagenet", 2, "stem_padding=2 needs encoder.stem=small"),
        ("stride2", 0, "stem_padding=0 needs encoder.stem=small"),
        ("small", -1, "stem_padding=-1 must not be negative"),
    ],
)
def test_resnet__refuses_a_padding(stem: str, padding: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ResNet(18, width=8, stem=stem, stem_padding=padding)


def test_simclr__projector_layers() -> None:
    encoder = nn.Identity()
    projectors = []
    for settings in ({}, {"projector_layers": 2}, {"projector_layers": 1}):
        with seeded(0, "test/projector"):
            projectors.append(
                SimCLR(encoder, feature_dim=6, hidden_dim=5, output_dim=4, **settings).projector
            )
    default, two, one = projectors
    assert equal(default, two)
    assert list(two.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert {k: tuple(v.shape) for k, v in one.state_dict().items()} == {
        "weight": (4, 6),
        "bias": (4,),
    }
    with pytest.raises(UserError, match="projector_layers=3 is not one of 1, 2"):
        SimCLR(encoder, feature_dim=6, projector_layers=3)
