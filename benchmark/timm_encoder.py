"""Encoders from timm, vision transformers among them, at any image size that the net admits."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from typing import Any, ClassVar

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmark.contracts import Encoder, Images
from benchmark.errors import UserError

# What every encoder here has in common: random weights, colour images, pooled features.
_FIXED = (
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path",
    "num_classes", "in_chans", "features_only",
)  # fmt: skip


class TimmEncoder(Encoder):
    """A net of timm without its classifier, randomly initialised.

    Features are what the net pools: the class token of a ViT, as in the ADIOS code, the mean over
    positions for most CNNs; ``args.global_pool`` changes it. State-dict keys are timm's own, so
    an exported encoder loads into ``timm.create_model(name, num_classes=0, **args)``.

    Args:
        name: in timm's registry.
        image_size: side of the images in pixels; the net is tried out on it.
        args: further arguments of ``timm.create_model``.

    Attributes:
        stage_dims: channels of the maps of `stages`; empty if the net gives none.

    Raises:
        UserError: for a net that timm lacks or cannot build, that does not take the image size,
            or that draws random numbers while it trains.
    """

    version: ClassVar[int] = 1

    def __init__(self, name: str, image_size: int, args: Mapping[str, Any]) -> None:
        super().__init__()
        self.name = name
        self.image_size = image_size
        self.net = _create(name, image_size, args)
        self.feature_dim, stages = _rehearse(self.net, name, image_size)
        self._stage_indices = list(stages)
        self.stage_dims = tuple(stages.values())
        self.register_state_dict_post_hook(_to_timm_names)
        self.register_load_state_dict_pre_hook(_from_timm_names)

    def forward(self, x: Images) -> Float[Tensor, "b d"]:
        """Global features."""
        features: Tensor = self.net(x)
        return features

    def stages(self, x: Images) -> list[Tensor]:
        """The last feature map of each resolution, finest first: what dense heads build on."""
        maps: list[Tensor] = self.net.forward_intermediates(  # type: ignore[operator]
            x, indices=self._stage_indices, intermediates_only=True
        )
        return maps


def _create(name: str, image_size: int, args: Mapping[str, Any]) -> nn.Module:
    # Names with a colon stand for hubs, which timm asks for their configuration.
    if ":" in name or not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() has them all"
        raise UserError(f"encoder.name={name} is no net of timm {timm.__version__}; {hint}")
    for key in _FIXED:
        if key in args:
            raise UserError(
                f"encoder.args.{key}={args[key]} is not for choosing: encoders begin with random "
                "weights, take colour images and have no classifier; leave it out"
            )
    patch_size = args.get("patch_size")
    if isinstance(patch_size, int) and (patch_size < 1 or image_size % patch_size):
        raise UserError(
            f"encoder.args.patch_size={patch_size} does not divide images of {image_size} pixels; "
            "choose a patch size that does"
        )
    try:
        net: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **args)
    except Exception as error:
        raise UserError(
            f"encoder.name={name}: timm refuses encoder.args={dict(args)} ({_reason(error)}); "
            "change or leave out what it names"
        ) from error
    return net


def _rehearse(net: nn.Module, name: str, image_size: int) -> tuple[int, dict[int, int]]:
    """Dimension of the features, and channels of the stages by their index in timm.

    A copy trains on black images, so that the net stays as it is and whatever fails fails here.
    """
    rehearsal = copy.deepcopy(net).train()
    images = torch.zeros(2, 3, image_size, image_size)
    generator = torch.get_rng_state()
    try:
        with torch.no_grad():
            features = rehearsal(images)
    except Exception as error:
        raise UserError(
            f"encoder.name={name} does not take images of {image_size} pixels "
            f"({_reason(error)}); choose another size or net, or set ++encoder.args.img_size="
            f"{image_size} if it is a transformer"
        ) from error
    if not torch.equal(generator, torch.get_rng_state()):
        raise UserError(
            f"encoder.name={name} draws random numbers while it trains, which no seed of a run "
            "decides; switch dropout off with ++encoder.args.drop_rate=0 and "
            "++encoder.args.drop_path_rate=0, or choose another net"
        )
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise UserError(
            f"encoder.name={name} does not give one vector for each image; set "
            "encoder.args.global_pool to avg, or choose another net"
        )
    return features.shape[1], _stages(rehearsal, images)


@torch.no_grad()
def _stages(net: nn.Module, images: Images) -> dict[int, int]:
    """Index and channels of the last map of each resolution; empty if there are fewer than 3."""
    try:
        maps = net.forward_intermediates(images, intermediates_only=True)  # type: ignore[operator]
    except (AttributeError, AssertionError, TypeError, RuntimeError):  # not every net has maps
        return {}
    last = {features.shape[-2:]: i for i, features in enumerate(maps)}
    return {i: maps[i].shape[1] for i in last.values()} if len(last) >= 3 else {}


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _to_timm_names(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    for key in [k for k in state if k.startswith(f"{prefix}net.")]:
        state[prefix + key.removeprefix(f"{prefix}net.")] = state.pop(key)


def _from_timm_names(
    module: nn.Module, state: dict[str, Any], prefix: str, *metadata_and_messages: Any
) -> None:
    for key in [k for k in state if k.startswith(prefix)]:
        state[f"{prefix}net.{key.removeprefix(prefix)}"] = state.pop(key)
