"""What a method hides once it is trained: its masks of a few images, as data and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from benchmark.array_file import read_arrays
from benchmark.dataset import Dataset
from benchmark.files import write_atomically
from benchmark.pretrain import Pretraining
from benchmark.task import SavedMasks

MASKS_FILE = "test.npz"

_IMAGES = 128  # in the data
_SHOWN = 8  # in the picture
_ZOOM = 3


@torch.no_grad()
def save_masks(folder: Path, training: Pretraining, data: Dataset) -> bool:
    """Write ``test.npz`` and ``gallery.png`` into a folder.

    The first images of the test split (of train, where there is none) are taken as they are, so
    every method of a data set is shown the same ones. ``test.npz`` holds ``images``, ``masks`` (255
    hides) and, where the data has them, ``segments``, all as bytes, and the data's fingerprint. The
    picture has a row per image: the image, its masks (white hides) and what remains. A method that
    hides nothing gets neither; returns whether it hides.

    Args:
        folder: of the files.
        training: the method's, after its last step.
        data: whose images are taken.
    """
    batch = training.batches.plain(data.test or data.train, _IMAGES, training.device)
    with torch.no_grad():
        proposal = training.trainer.propose(batch)
    # What the encoder trains under where that is not what was proposed, as another image's masks.
    masks = proposal.masks if proposal.trained is None else proposal.trained
    if not masks.any():
        return False
    shares = {"images": batch.pixels[1], "masks": masks}
    arrays = {name: (255 * value).round().to(torch.uint8) for name, value in shares.items()}
    if batch.segments is not None:
        arrays["segments"] = batch.segments[1].to(torch.uint8)
    contents = {name: value.cpu().numpy() for name, value in arrays.items()}
    contents["fingerprint"] = np.array(data.fingerprint)
    write_atomically(folder / MASKS_FILE, lambda part: _save_arrays(part, contents))
    hidden = training.trainer.hidden(batch, masks)
    _save_picture(folder / "gallery.png", training, batch.pixels[1], masks, hidden)
    return True


def load_masks(folder: Path, fingerprint: str) -> SavedMasks | None:
    """Read the masks that `save_masks` wrote; None if they are of other data.

    Raises:
        ValueError: naming the file, if it is broken.
    """
    file = folder / MASKS_FILE
    if not file.exists():
        raise ValueError(f"{folder} has no masks: the method hides nothing of these images")
    arrays = read_arrays(file)
    masks = arrays.get("masks", np.empty(0))
    if masks.dtype != np.uint8 or masks.ndim != 4:
        raise ValueError(
            f"{file} is broken (masks are {masks.dtype} {masks.shape}); delete it to have it made "
            "again"
        )
    # Files of earlier versions do not say what they are of.
    known = str(arrays.get("fingerprint")) == fingerprint
    return SavedMasks(masks) if known else None


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # given a name, numpy would append a suffix
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _save_picture(
    path: Path, training: Pretraining, pixels: Tensor, masks: Tensor, hidden: Tensor
) -> None:
    mean, std = (
        pixels.new_tensor(v).view(3, 1, 1)
        for v in (training.batches.data.mean, training.batches.data.std)
    )
    tiles = []
    for i in range(min(_SHOWN, len(pixels))):
        tiles.append(pixels[i])
        tiles += [mask.expand(3, -1, -1) for mask in masks[i]]
        tiles += [(view * std + mean).clamp(0, 1) for view in hidden[:, i]]
    grid = make_grid(torch.stack(tiles).cpu(), nrow=1 + 2 * masks.shape[1], pad_value=0.5)
    grid = grid.repeat_interleave(_ZOOM, 1).repeat_interleave(_ZOOM, 2)
    write_atomically(path, lambda part: save_image(grid, part, format="png"))
