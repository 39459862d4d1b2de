"""Encoders: torchvision's ResNets at any width, with a stem that suits the image size."""

from __future__ import annotations

from typing import ClassVar

import torchvision.models.resnet as tv
from jaxtyping import Float
from torch import Tensor, nn

from benchmark.contracts import Encoder, Images
from benchmark.errors import UserError, at_least

_DEPTHS = {
    18: (tv.BasicBlock, (2, 2, 2, 2)),
    34: (tv.BasicBlock, (3, 4, 6, 3)),
    50: (tv.Bottleneck, (3, 4, 6, 3)),
}


class ResNet(tv.ResNet, Encoder):  # type: ignore[misc]
    """torchvision's ResNet with the stage widths scaled by ``width / 64`` and no classifier.

    Parameter names are torchvision's, so at width 64 with the imagenet stem the weights load
    into ``torchvision.models.resnet18`` and its siblings, which lack only ``fc`` then.

    Args:
        depth: 18, 34 or 50.
        width: channels of the first stage, at least 8; 64 is the published net.
        stem: "imagenet" is 7x7 with stride 2 and max-pooling; "stride2" is 3x3 with stride 2 and
            "small" is 3x3 with stride 1, both without pooling, for images below 64 pixels.
        stem_padding: of "small" alone; the ADIOS code has 2 for CIFAR, where a map grows by 2.

    Raises:
        UserError: for a depth, width, stem or padding that does not exist.
    """

    version: ClassVar[int] = 1
    stems: ClassVar[tuple[str, ...]] = ("imagenet", "stride2", "small")
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self, depth: int = 18, width: int = 64, stem: str = "imagenet", stem_padding: int = 1
    ) -> None:
        if depth not in _DEPTHS:
            raise UserError(f"encoder.depth={depth} is not one of {sorted(_DEPTHS)}")
        if stem not in self.stems:
            raise UserError(f"encoder.stem={stem} is not one of {', '.join(self.stems)}")
        # torch 2.15 corrupts memory in the backward of a 1x1 convolution with stride 2 and fewer
        # than eight channels in channels_last format, on processors without AVX-512.
        at_least(8, "encoder.", width=width)
        if not 0 <= stem_padding <= 2:
            raise UserError(
                f"encoder.stem_padding={stem_padding} must not be negative or above 2, as a kernel "
                "of 3 sees no more"
            )
        if stem_padding != 1 and stem != "small":
            raise UserError(
                f"encoder.stem_padding={stem_padding} needs encoder.stem=small; leave it at 1 for "
                f"stem={stem}"
            )
        self.width = width  # read by _make_layer, which the base class calls while building
        block, layers = _DEPTHS[depth]
        super().__init__(block, list(layers))
        self.conv1 = (
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            if stem == "imagenet"
            else nn.Conv2d(
                3, width, 3, stride=2 if stem == "stride2" else 1, padding=stem_padding, bias=False
            )
        )
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        if stem != "imagenet":
            self.maxpool = nn.Identity()
        self.fc = nn.Identity()
        self.stage_dims = tuple(width * 2**k * block.expansion for k in range(4))
        self.feature_dim = self.stage_dims[-1]

    def _make_layer(
        self, block: type, planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == 64:
            self.inplanes = self.width
        layer: nn.Sequential = super()._make_layer(
            block, planes * self.width // 64, blocks, stride, dilate
        )
        return layer

    def forward(self, x: Images) -> Float[Tensor, "b d"]:
        """Global features."""
        features: Tensor = super().forward(x)
        return features

    def stages(self, x: Images) -> list[Tensor]:
        """The four stages' feature maps, finest first: what dense heads build on."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps: list[Tensor] = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps
