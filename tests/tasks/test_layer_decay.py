from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
from timm.optim import param_groups_layer_decay
from torch import nn

from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.timm_encoder import TimmEncoder
from tasks.layer_decay import decayed_groups


def rates(encoder: nn.Module, decay: float) -> dict[str, float]:
    names = {id(p): name for name, p in encoder.named_parameters()}
    groups = decayed_groups(encoder, 2.0, decay)
    found = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return found


def test_decayed_groups__of_a_resnet_fall_by_stage(small_resnet: Callable[..., ResNet]) -> None:
    encoder = small_resnet()
    found = rates(encoder, 0.5)
    assert set(found) == {name for name, _ in encoder.named_parameters()}
    expected = {"conv1": 5, "bn1": 5, "layer1": 4, "layer2": 3, "layer3": 2, "layer4": 1}
    for name, rate in found.items():
        assert rate == 2.0 * 0.5 ** expected[name.partition(".")[0]], name


def test_decayed_groups__without_decay_are_one_of_any_net(flat: Callable[..., nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(2, 2), flat(), nn.Linear(2, 2))
    net[2].requires_grad_(False)
    (group,) = decayed_groups(net, 0.3, 1.0)
    assert group["lr"] == 0.3
    assert group["params"] == list(net[0].parameters())


# A norm before the classifier is part of timm's last layer in convnext, and of the one before it in
# a ViT; mobilenet has a convolution there.
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"])
def test_decayed_groups__of_timm_are_those_of_timm_with_a_classifier(name: str) -> None:
    args = {"img_size": 32} if name.startswith("vit") else {}
    whole = timm.create_model(name, num_classes=10, **args)
    names = {id(p): key for key, p in whole.named_parameters()}
    expected = {
        f"net.{names[id(p)]}": 2.0 * group["lr_scale"]
        for group in param_groups_layer_decay(whole, layer_decay=0.7)
        for p in group["params"]
    }
    found = rates(TimmEncoder(name, 32, args), 0.7)
    assert {"head.weight", "head.fc.weight", "classifier.weight"} & {
        key.removeprefix("net.") for key in set(expected) - set(found)
    }
    assert found == pytest.approx({key: expected[key] for key in found})


def test_decayed_groups__a_net_of_unknown_layers_is_an_error(
    flat: Callable[..., nn.Module],
) -> None:
    ungrouped = TimmEncoder("poolformer_s12", 32, {})
    for encoder, name in ((flat(), "Flat"), (ungrouped, "poolformer_s12")):
        with pytest.raises(UserError, match=f"layer_decay needs .* {name} is neither a ResNet nor"):
            decayed_groups(encoder, 0.1, 0.5)
