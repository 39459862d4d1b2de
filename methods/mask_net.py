"""The U-Net that all learned methods share (Genesis' form, as in the ADIOS code)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from benchmark.errors import UserError

NORMS = ("instance", "group", "batch", "none")
_BOTTLENECK_DIM = 128
_MIN_BLOCKS = 4  # three of them have the double width


def num_blocks(image_size: int) -> int:
    """Down-sampling blocks for an image size: 32 px has 4, 64 and 96 px have 5, 224 px has 6."""
    return int(math.log2(image_size) - 1)


def check_image_size(image_size: int) -> None:
    """Refuse a size that cannot be halved often enough.

    Raises:
        UserError: with the nearest sizes that can.
    """

    def fits(size: int) -> bool:
        blocks = num_blocks(size)
        return blocks >= _MIN_BLOCKS and size % 2 ** (blocks - 1) == 0

    if image_size < 1 or not fits(image_size):
        below = next((s for s in range(image_size, 31, -1) if fits(s)), None)
        above = next(s for s in range(max(image_size, 32), 10**6) if fits(s))
        nearest = " or ".join(str(s) for s in (below, above) if s)
        raise UserError(
            f"the mask net cannot halve images of {image_size} pixels often enough; "
            f"set data.image_size to {nearest}"
        )


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if kind == "group":
        return nn.GroupNorm(8, channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.Identity()


def _block(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=norm == "none"),
        _norm(norm, out_channels),
        nn.ReLU(),
    )


class MaskNet(nn.Module):
    """U-Net from images to a feature map of ``width`` channels at full resolution.

    Skips are taken before down-sampling; down-sampling keeps every second pixel; the bottleneck
    is fully connected, which fixes the image size. The last three down blocks have double width.

    Args:
        image_size: side of the images in pixels.
        width: channels of the first block and of the output.
        norm: "instance", "group" (8 groups), "batch" or "none".
        in_channels: of the input; more than 3 for a net that sees masks beside the image.

    Raises:
        UserError: for a size that cannot be halved, an unknown norm or a width it cannot group.
    """

    def __init__(self, image_size: int, width: int, norm: str, in_channels: int = 3) -> None:
        super().__init__()
        check_image_size(image_size)
        if norm not in NORMS:
            raise UserError(f"method.norm={norm} is not one of {', '.join(NORMS)}")
        if width < 1 or (norm == "group" and width % 8):
            raise UserError(
                f"method.width={width} must be positive, and a multiple of 8 for group norm"
            )
        blocks = num_blocks(image_size)
        inner = image_size // 2 ** (blocks - 1)
        outputs = [width] * (blocks - 3) + [2 * width] * 3
        inputs = [in_channels, *outputs[:-1]]
        self.down = nn.ModuleList(_block(i, o, norm) for i, o in zip(inputs, outputs, strict=True))
        # Level by level upwards: what comes from below has the level's own width, as has the skip.
        ups = [2 * width, 2 * width, *[width] * (blocks - 2)]
        below = [2 * width, *ups[:-1]]
        self.up = nn.ModuleList(
            _block(b + skip, o, norm)
            for b, skip, o in zip(below, reversed(outputs), ups, strict=True)
        )
        flat = 2 * width * inner**2
        self.bottleneck = nn.Sequential(
            nn.Linear(flat, _BOTTLENECK_DIM),
            nn.ReLU(),
            nn.Linear(_BOTTLENECK_DIM, _BOTTLENECK_DIM),
            nn.ReLU(),
            nn.Linear(_BOTTLENECK_DIM, flat),
            nn.ReLU(),
        )

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h w"]:
        """Features of every pixel."""
        skips: list[Tensor] = []
        for i, block in enumerate(self.down):
            if i:
                x = x[..., ::2, ::2]
            x = block(x)
            skips.append(x)
        x = self.bottleneck(x.flatten(1)).view_as(x)
        for i, block in enumerate(self.up):
            if i:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, skips.pop()], dim=1))
        return x
