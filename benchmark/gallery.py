"""What a method hides, while it is trained and once it is: masks of some images, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from benchmark import processes
from benchmark.array_file import read_arrays, write_arrays
from benchmark.contracts import Batch, Masks
from benchmark.files import write_atomically
from benchmark.pretrain import Pretraining
from benchmark.task import SavedMasks
from benchmark.trackers import Picture, Trackers

MASKS_FILE = "test.npz"
STEPS_FOLDER = "steps"

_IMAGES = 128  # for which masks are made
_SHOWN = 8  # of them, in pictures and in the data of a moment of training
_ZOOM = 3


def save_masks(folder: Path, training: Pretraining) -> bool:
    """Write ``test.npz`` and ``gallery.png`` into a folder.

    The first images of the test split (of train, where there is none) are taken as they are, so
    every method of a data set is shown the same ones. ``test.npz`` holds ``images``, ``masks`` (255
    hides) and, where the data has them, ``segments``, all as bytes, and the data's fingerprint. The
    picture has a row per image: the image, its masks (white hides) and what remains. A method that
    hides nothing gets neither; returns whether it hides.

    Args:
        folder: of the files.
        training: the method's, after its last step.
    """
    seen = _look(training, 1.0)
    if seen is None:
        return False
    write_arrays(folder / MASKS_FILE, seen.arrays())
    picture = seen.picture().repeat_interleave(_ZOOM, 1).repeat_interleave(_ZOOM, 2)
    path = folder / "gallery.png"
    write_atomically(path, lambda part: save_image(picture, part, format="png"))
    return True


class Snapshots:
    """Keeps what a method hides at evenly spaced steps, as ``steps/step<steps done>.npz``.

    Each holds the first images of `save_masks` under the same names, and ``step`` and ``epoch``,
    which are those done. It depends on the state of training at this step alone, so that a training
    that was interrupted leaves the same files. While a method hides nothing, there are none.

    Args:
        folder: of the masks.
        training: is looked at, and left as it is.
        parts: of training, after each of which there is one, and one before the first; 0 for none.
        check: raises if nothing may be written.
        trackers: get a picture of each.
    """

    def __init__(
        self,
        folder: Path,
        training: Pretraining,
        parts: int,
        check: Callable[[], object],
        trackers: Trackers,
    ) -> None:
        self._folder = folder / STEPS_FOLDER
        self._training = training
        self._check = check
        self._trackers = trackers
        self._parts = parts

    def __call__(self, done: int) -> None:
        """Called in all processes, of which the first one looks, after so many steps."""
        if self._due(done):
            processes.once(lambda: self._take(done))

    def _due(self, done: int) -> bool:
        """Whether one of the parts ends here."""
        steps, parts = max(self._training.steps, 1), self._parts
        ended = -(-done * parts // steps)  # parts when the next one ends, or one that ends here
        return parts > 0 and steps * ended // parts == done

    def _take(self, done: int) -> None:
        training = self._training
        seen = _look(training, done / max(training.steps, 1))
        if seen is None:
            return
        arrays = {n: v[:_SHOWN] if v.ndim else v for n, v in seen.arrays().items()}
        arrays["step"] = np.array(done)
        arrays["epoch"] = np.array(done / max(training.steps_per_epoch, 1))
        self._check()
        write_arrays(self._folder / f"step{done:08}.npz", arrays)
        self._trackers.picture(done, lambda: _as_bytes(seen.picture()))


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


@dataclass(frozen=True)
class _Seen:
    """Images, and the masks under which the encoder trains."""

    training: Pretraining
    batch: Batch
    masks: Masks

    def arrays(self) -> dict[str, np.ndarray]:
        """What is kept of them."""
        shares = {"images": self.batch.pixels[1], "masks": self.masks}
        arrays = {name: (255 * value).round().to(torch.uint8) for name, value in shares.items()}
        if self.batch.segments is not None:
            arrays["segments"] = self.batch.segments[1].to(torch.uint8)
        contents = {name: value.cpu().numpy() for name, value in arrays.items()}
        return contents | {"fingerprint": np.array(self.training.batches.data.fingerprint)}

    @torch.no_grad()
    def picture(self) -> Float[Tensor, "3 h w"]:
        """A row for each of the first images: itself, its masks, what remains of it."""
        pixels, data = self.batch.pixels[1], self.training.batches.data
        hidden = self.training.trainer.hidden(self.batch, self.masks)
        mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (data.mean, data.std))
        tiles = []
        for i in range(min(_SHOWN, len(pixels))):
            tiles.append(pixels[i])
            tiles += [mask.expand(3, -1, -1) for mask in self.masks[i]]
            tiles += [(view * std + mean).clamp(0, 1) for view in hidden[:, i]]
        columns = 1 + 2 * self.masks.shape[1]
        grid: Tensor = make_grid(torch.stack(tiles).cpu(), nrow=columns, pad_value=0.5)
        return grid


@torch.no_grad()
def _look(training: Pretraining, progress: float) -> _Seen | None:
    """What the method hides at a moment of training; None if nothing. It leaves no trace.

    As many images as at the end are looked at, so that what depends on a whole batch is the same.
    """
    trainer, data, device = training.trainer, training.batches.data, training.device
    batch = training.batches.plain(data.test or data.train, _IMAGES, device)
    batch = replace(batch, progress=progress)
    if trainer.cuda_graphs:
        torch.compiler.cudagraph_mark_step_begin()
    generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(generators), _buffers_kept(trainer.method):
        proposal = trainer.propose(batch)
    # What the encoder trains under where that is not what was proposed, as another image's masks.
    masks = proposal.masks if proposal.trained is None else proposal.trained
    return _Seen(training, batch, masks) if masks.any() else None


@contextmanager
def _buffers_kept(net: nn.Module) -> Iterator[None]:
    """Inside, buffers may change: the running statistics of a BatchNorm, say."""
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in net.named_buffers():
            if name in before:  # else it was made just now
                buffer.copy_(before[name])


def _as_bytes(picture: Float[Tensor, "3 h w"]) -> Picture:
    pixels: np.ndarray = (255 * picture).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels
