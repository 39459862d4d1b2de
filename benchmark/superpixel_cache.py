"""Superpixels of images before they are augmented: found once, kept beside the runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int16
from torch import Tensor

from benchmark.contracts import Segmenter
from benchmark.dataset import Split
from benchmark.files import write_atomically
from benchmark.lock import Owner, clear_dead, exclusive

_CHUNK = 256  # images segmented at once


def with_superpixels(
    split: Split,
    segmenter: Segmenter,
    *,
    folder: Path,
    fingerprint: str,
    device: torch.device,
    report: Callable[[str], object],
) -> Split:
    """The split with the superpixels of its images, memory-mapped from a file.

    Args:
        split: whose images are cut up, at the size that they are stored in.
        segmenter: that cuts; what it finds names the file.
        folder: of all such files; one that is missing is made, by one process at a time.
        fingerprint: of the split.
        device: that segments.
        report: told in words how far the making is.

    Raises:
        ValueError: naming the file, if it is broken or of other images.
    """
    name = hashlib.sha256(f"{fingerprint} {segmenter.finds}".encode()).hexdigest()[:16]
    file = folder / f"superpixels-{name}" / "superpixels.npy"
    if not file.exists():

        def wait(owner: Owner | None) -> None:
            report(f"superpixels are being made by {owner or 'another process'}; waiting")

        with exclusive(file.parent, wait):
            if not file.exists():
                write_atomically(file, lambda part: _write(part, split, segmenter, device, report))
    clear_dead(file.parent)
    try:
        found = np.load(file, mmap_mode="c")
        if (found.dtype, found.shape) != (np.int16, _shape(split)):
            raise ValueError(f"it holds {found.dtype} {found.shape}")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file} is damaged ({error}); delete it to have it made again") from error
    return replace(split, superpixels=torch.from_numpy(found))


def segmented(segmenter: Segmenter, images: Tensor) -> Int16[Tensor, "b h w"]:
    """Superpixels of uint8 images."""
    return segmenter.segment(images / 255).to(torch.int16)


def _shape(split: Split) -> tuple[int, ...]:
    images = split.images
    return len(images), *images.shape[2:]


def _write(
    part: Path,
    split: Split,
    segmenter: Segmenter,
    device: torch.device,
    report: Callable[[str], object],
) -> None:
    with part.open("wb") as file:  # open_memmap would choose the name's ending
        header = {"descr": "<i2", "fortran_order": False, "shape": _shape(split)}
        np.lib.format.write_array_header_1_0(file, header)
        done = 0
        for images in split.images.split(_CHUNK):
            segmented(segmenter, images.to(device)).cpu().numpy().astype("<i2").tofile(file)
            done += len(images)
            report(f"superpixels {done}/{len(split)}")
