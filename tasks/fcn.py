"""Fully convolutional networks: a head on the stages of a convolutional encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from benchmark.contracts import Images
from benchmark.precision import full_precision

HEADS = {"fcn32": 1, "fcn16": 2, "fcn8": 3}  # the last stages that each of them reads


class FCNHead(nn.Module):
    """Scores from the last stages, summed from coarse to fine: FCN-32s, FCN-16s or FCN-8s.

    Shelhamer, Long, Darrell (arXiv 1605.06211, sec. 4.2): each stage gets a 1x1 layer of class
    scores; the coarsest are upsampled and added to those of the next finer stage, and so on. Unlike
    there, all upsampling is plain bilinear, the layers of all stages learn from the start, and
    strides are the encoder's own: 32, 16 and 8 for ResNets with the imagenet stem only.

    Args:
        stage_dims: channels of the stages that are read, finest first.
        num_classes: scores per pixel.
    """

    def __init__(self, stage_dims: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.scores = nn.ModuleList(nn.Conv2d(dim, num_classes, 1) for dim in stage_dims)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Scores of every pixel.

        Args:
            maps: feature maps of all stages, finest first; the last are read.
            size: height and width of the images in pixels.
        """
        read = maps[len(maps) - len(self.scores) :]
        # Sums and upsampling stay in full precision: bf16 has too few bits for close scores.
        *finer, total = (
            full_precision(score(features))
            for score, features in zip(self.scores, read, strict=True)
        )
        with torch.autocast(total.device.type, enabled=False):
            for scores in reversed(finer):
                total = scores + upsample(total, (scores.shape[2], scores.shape[3]))
            return upsample(total, size)


class FCN(nn.Module):
    """An encoder and a head as one net.

    Args:
        body: has ``stages``, which gives feature maps, finest first.
        head: reads the last of them.
    """

    def __init__(self, body: nn.Module, head: FCNHead) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, images: Images) -> Float[Tensor, "b c h w"]:
        """Scores of every pixel."""
        stages: Callable[[Tensor], list[Tensor]] = self.body.stages  # type: ignore[assignment]
        scores: Tensor = self.head(stages(images), (images.shape[2], images.shape[3]))
        return scores


def upsample(
    x: Float[Tensor, "b c h w"], size: tuple[int, int]
) -> Float[Tensor, "b c {size[0]} {size[1]}"]:
    """Bilinear interpolation with pixels as areas (``align_corners=False``).

    Written as matrix products, because on GPUs the gradient of the built-in one is summed in no
    fixed order.
    """
    # Interpolating the unit vectors gives the matrix of the interpolation.
    rows, columns = (
        F.interpolate(torch.eye(n, device=x.device)[None], m, mode="linear")[0]
        for n, m in zip(x.shape[2:], size, strict=True)
    )
    return rows.mT @ x @ columns
