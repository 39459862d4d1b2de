"""A picture of what a method hides: a row per image, with its masks and what remains."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.utils import make_grid, save_image

from benchmark.contracts import MaskingMethod
from benchmark.files import write_atomically
from benchmark.pretrain import Pretraining

_IMAGES = 8
_ZOOM = 3


@torch.no_grad()
def save_gallery(path: Path, method: MaskingMethod, training: Pretraining) -> None:
    """Draw the first images of the training split: image, N masks (white hides), N masked images.

    A method that hides nothing gets no picture. The order of samples plays no part, so galleries
    of different methods show the same images.
    """
    index = torch.arange(min(_IMAGES, len(training.images)), device=training.device)
    batch = training.batch(0, 0, index)
    masks = method(batch).masks
    if not masks.any():
        return
    tiles = []
    for pixels, own in zip(batch.pixels, masks, strict=True):
        fill = pixels.new_tensor(training.mean).view(3, 1, 1)
        tiles.append(pixels)
        tiles += [mask.expand(3, -1, -1) for mask in own]
        tiles += [pixels * (1 - mask) + fill * mask for mask in own]
    grid = make_grid(torch.stack(tiles).cpu(), nrow=1 + 2 * masks.shape[1], pad_value=0.5)
    grid = grid.repeat_interleave(_ZOOM, 1).repeat_interleave(_ZOOM, 2)
    write_atomically(path, lambda part: save_image(grid, part, format="png"))
