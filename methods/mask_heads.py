"""A U-Net and heads that propose masks one after another, each in sight of the earlier ones."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmark.contracts import Images, Masks
from benchmark.errors import UserError
from benchmark.precision import full_precision
from benchmark.streams import Streams
from methods.budgets import keep_largest
from methods.mask_net import MaskNet

HistoryInput = Literal["head", "head_sum", "unet", "unet_image"]
Activation = Literal["sigmoid", "stick_breaking", "hard_concrete"]

# Temperature and stretched interval of Louizos et al., arXiv 1712.01312, section 4.
_TEMPERATURE = 2 / 3
_STRETCH = (-0.1, 1.1)


class SequentialHeads(nn.Module):
    """``m^k = M(x, m^1, ..., m^{k-1})`` (arXiv 2212.08277, section 3).

    Args:
        image_size: side of the images in pixels.
        num_masks: N.
        width: channels of the U-Net.
        norm: norm of the U-Net.
        history_input: where the earlier masks enter. "head": each is a channel beside the U-Net's
            features, which a 1x1 head sees at its own pixel only; "head_sum": their sum is one;
            "unet": their sum is a fourth channel of the image and the U-Net runs for every mask;
            "unet_image": likewise, on the image with the earlier masks hidden.
        share_head: one 1x1 head for all slots instead of one for each.
        detach: let no gradient reach an earlier mask through what later ones see.
        activation: "sigmoid", so that masks are independent; "stick_breaking" gives each mask a
            share of what the earlier ones left (a softmax over the slots and a null slot,
            factorised in their order); "hard_concrete" draws nearly binary masks.
        initial_area: mean share of pixels that each mask hides at the start.

    Raises:
        UserError: for areas that stick breaking cannot share out, or what the U-Net refuses.
    """

    def __init__(
        self,
        image_size: int,
        num_masks: int,
        width: int,
        norm: str,
        history_input: HistoryInput,
        share_head: bool,
        detach: bool,
        activation: Activation,
        initial_area: float,
    ) -> None:
        super().__init__()
        if activation == "stick_breaking" and share_head and num_masks > 1:
            raise UserError(
                "method.share_head=true gives all slots one bias, under which stick_breaking hides "
                "less and less; use share_head=false"
            )
        if activation == "stick_breaking" and initial_area * num_masks >= 1:
            raise UserError(
                f"method.initial_area={initial_area} of {num_masks} masks leaves nothing over, "
                f"which stick_breaking needs; set it below {1 / num_masks:.3g}"
            )
        self.num_masks = num_masks
        self.history_input = history_input
        self.detach = detach
        self.activation = activation
        self.unet = MaskNet(image_size, width, norm, in_channels=3 + (history_input == "unet"))
        history = {"head": num_masks - 1, "head_sum": 1}.get(history_input, 0)
        heads = []
        for k in range(1 if share_head else num_masks):
            seen = min(k, history) if history_input == "head" and not share_head else history
            heads.append(nn.Conv2d(width + seen, 1, 1))
            assert heads[-1].bias is not None
            nn.init.constant_(heads[-1].bias, self._initial_bias(initial_area, k))
        self.heads = nn.ModuleList(heads)
        self.seen_channels = [head.in_channels for head in heads]

    def _initial_bias(self, area: float, k: int) -> float:
        """Logit at which slot k hides ``area`` on average."""
        if self.activation == "stick_breaking":
            area = area / (1 - k * area)
        if self.activation != "hard_concrete":
            return math.log(area / (1 - area))
        draws = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        low, high = -20.0, 20.0
        for _ in range(60):  # bisection: the mean grows with the logit
            middle = (low + high) / 2
            mean = float(_hard_concrete(torch.full_like(draws, middle), draws).mean())
            low, high = (middle, high) if mean < area else (low, middle)
        return (low + high) / 2

    def forward(
        self, images: Images, streams: Streams, budgets: Float[Tensor, "b n"] | None = None
    ) -> Masks:
        """Masks in order; with ``budgets`` each hides exactly its share."""
        noise = None
        if self.activation == "hard_concrete":
            noise = streams.uniform("mask/hard_concrete", self.num_masks, *images.shape[2:])
        left = torch.ones_like(images[:, :1])  # what the earlier masks leave
        features: Tensor | None = None
        masks: list[Tensor] = []
        for k in range(self.num_masks):
            earlier = [m.detach() if self.detach else m for m in masks]
            if features is None or self.history_input.startswith("unet"):
                features = self.unet(self._unet_input(images, earlier))
            own = min(k, len(self.heads) - 1)
            seen = self._head_input(features, earlier, self.seen_channels[own])
            logit = full_precision(self.heads[own](seen))
            mask = logit.sigmoid() if noise is None else _hard_concrete(logit, noise[:, k, None])
            if self.activation == "stick_breaking":
                mask = mask * left
                left = left - (mask.detach() if self.detach else mask)
            if budgets is not None:
                mask = keep_largest(mask[:, 0], budgets[:, k])[:, None]
            masks.append(mask)
        return torch.cat(masks, dim=1)

    def _unet_input(self, images: Images, earlier: list[Tensor]) -> Float[Tensor, "b c h w"]:
        if self.history_input == "unet":
            return torch.cat([images, sum(earlier, torch.zeros_like(images[:, :1]))], dim=1)
        if self.history_input == "unet_image":
            for mask in earlier:
                images = images * (1 - mask)
        return images

    def _head_input(
        self, features: Tensor, earlier: list[Tensor], in_channels: int
    ) -> Float[Tensor, "b c h w"]:
        seen = [mask.to(features.dtype) for mask in earlier]
        if self.history_input == "head_sum":
            return torch.cat([features, sum(seen, torch.zeros_like(features[:, :1]))], dim=1)
        if self.history_input != "head":
            return features
        # A shared head has room for all masks; those to come are empty.
        missing = in_channels - features.shape[1] - len(seen)
        return torch.cat([features, *seen, *[torch.zeros_like(features[:, :1])] * missing], dim=1)


def _hard_concrete(logit: Tensor, noise: Tensor) -> Tensor:
    """Stretched and rectified binary concrete variable (arXiv 1712.01312, eqs. 10 and 11)."""
    noise = noise.clamp(1e-6, 1 - 1e-6)
    drawn = ((noise.log() - torch.log1p(-noise) + logit) / _TEMPERATURE).sigmoid()
    low, high = _STRETCH
    return (drawn * (high - low) + low).clamp(0, 1)
