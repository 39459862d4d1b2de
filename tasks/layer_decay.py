"""Learning rates that fall from the head of a net to its first layer."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

from torch import nn

from benchmark.errors import UserError
from tasks.training import Group

_RESNET_STAGES = ({"conv1", "bn1"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"})


def decayed_groups(encoder: nn.Module, lr: float, decay: float) -> list[Group]:
    """The trainable parameters of an encoder by depth, each depth with its learning rate.

    That is the discriminative fine-tuning of ULMFiT (arXiv 1801.06146, sec. 3.2), as BEiT's
    layer-wise decay (arXiv 2106.08254): ``lr * decay**depth``, where the classifier, which is not
    part of the encoder, has depth 0.

    Raises:
        UserError: if it is not known which layers the encoder has.
    """
    depths = layer_depths(encoder) if decay != 1 else {}
    by_depth: defaultdict[int, Group] = defaultdict(lambda: {"params": []})
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            depth = depths.get(name, 0)
            by_depth[depth]["params"].append(parameter)
            by_depth[depth]["lr"] = lr * decay**depth
    return list(by_depth.values())


def layer_depths(encoder: nn.Module) -> dict[str, int]:
    """How far each parameter lies from the classifier: in stages of a ResNet, in timm's layers.

    The stages are layer4 (1) to layer1 (4) and the stem (5). timm's layers are those by which it
    decays rates itself; what belongs to the classifier there, such as a norm before it, has 0.

    Raises:
        UserError: for an encoder that is neither.
    """
    net = getattr(encoder, "net", None)
    if isinstance(net, nn.Module) and hasattr(net, "group_matcher"):
        return _timm_depths(net)
    names = [name for name, _ in encoder.named_parameters()]
    parts = {name.partition(".")[0] for name in names}
    if parts != set().union(*_RESNET_STAGES):
        raise UserError(
            f"finetune: layer_decay needs an encoder whose layers are known, and "
            f"{getattr(encoder, 'name', type(encoder).__name__)} is neither a ResNet nor of a kind "
            "that timm groups; set it to 1"
        )
    stage = {part: k for k, parts in enumerate(_RESNET_STAGES) for part in parts}
    return {name: len(_RESNET_STAGES) - stage[name.partition(".")[0]] for name in names}


def _timm_depths(net: nn.Module) -> dict[str, int]:
    from timm.models import group_parameters  # here, as timm takes long to import

    # The encoder has no classifier, but which of timm's layers the classifier is in counts.
    classifier = net.pretrained_cfg["classifier"]  # type: ignore[index]
    classifier = classifier if isinstance(classifier, str) else classifier[0]
    names = [name for name, _ in net.named_parameters()]
    named = [(name, None) for name in (*names, classifier)]
    layers = group_parameters(
        SimpleNamespace(named_parameters=lambda: named),  # type: ignore[arg-type]
        net.group_matcher(coarse=False),  # type: ignore[operator]
        reverse=True,
    )
    return {f"net.{name}": layers[classifier] - layers[name] for name in names}
