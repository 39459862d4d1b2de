"""Two augmented views of 96x96 images: ours beside PIL and torchvision in a DataLoader.

    python tests/bench/augmentation.py

prints one table in half a minute. Data: 512 images of `scenes`, in memory as bytes; all make float
tensors of two views of each. PIL does what defines the augmentation, operation by operation as in
the ADIOS code, one image at a time: its own blur rather than torchvision's, which is slower. Ours
draws by the same settings for batches of 256. Rates are source images per second, median of
interleaved repeats, and ratios are those within each repeat to PIL with two workers.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from measure import Row, interleaved, print_rows, ratios, summary
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmark.augment import Augment
from benchmark.scenes import load
from benchmark.streams import Streams

PART = "augmentation, two views of 96x96"
COUNT, SIZE, BATCH = 512, 96, 256
WORKERS = 2
GPU_EPOCHS = 20  # an epoch is over in milliseconds
DEFINITION = f"PIL, {WORKERS} workers"


class Blur:
    """PIL's Gaussian blur."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class Views(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each image by classes of torchvision on PIL images; the settings are ours."""

    def __init__(self, images: Tensor) -> None:
        bicubic = transforms.InterpolationMode.BICUBIC
        self.arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIZE, scale=(0.08, 1.0), interpolation=bicubic),
                transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                transforms.RandomApply([Blur()], p=0.5),
                transforms.RandomHorizontalFlip(p=0.5),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.fromarray(self.arrays[index])
        return self.transform(image), self.transform(image)


def epoch_of(augment: Augment, images: Tensor, epoch: int = 0) -> None:
    """Two views of all images."""
    index = torch.arange(len(images), device=images.device)
    for own in index.split(BATCH):
        streams = Streams(0, epoch, own)
        for view in range(2):
            augment(images[own], streams, view)


def rows(repeats: int = 5) -> list[Row]:
    """Images per second, how many times that is of PIL with workers, and a GPU's time per batch."""
    threads = torch.get_num_threads()
    # Digits grow with the images, and patches of the photographs are no larger than those.
    sizes = {"digit_size": (60, 75), "distractor_size": (18, 24), "max_crop": 2}
    images = load(image_size=SIZE, train_count=COUNT, test_count=2, **sizes).train.images
    views = Views(images)
    loaders = {
        workers: DataLoader(
            views, batch_size=64, num_workers=workers, persistent_workers=workers > 0
        )
        for workers in (0, WORKERS)
    }

    def by_pil(workers: int) -> None:
        torch.set_num_threads(1)
        for _ in loaders[workers]:
            pass

    def ours(threads: int) -> None:
        torch.set_num_threads(threads)
        epoch_of(Augment(SIZE), images)

    cases: dict[str, Callable[[], None]] = {
        DEFINITION: lambda: by_pil(WORKERS),
        "PIL in the process, 1 core": lambda: by_pil(0),
        "ours, CPU, 1 thread": lambda: ours(1),
        "ours, CPU, 2 threads": lambda: ours(2),
    }
    seconds = interleaved(cases, repeats)
    torch.set_num_threads(threads)
    rates = {name: [COUNT / s for s in values] for name, values in seconds.items()}
    on_gpu, per_batch = _on_gpu(images, repeats)
    rates |= on_gpu
    table = [summary(PART, name, values, "images/s") for name, values in rates.items()]
    faster = {name: ratios(values, rates[DEFINITION]) for name, values in rates.items()}
    del faster[DEFINITION]
    part = f"times {DEFINITION}"
    table += [summary(part, name, values, "x") for name, values in faster.items()]
    return table + per_batch


def _on_gpu(images: Tensor, repeats: int) -> tuple[dict[str, list[float]], list[Row]]:
    """Images per second of each way on the GPU, and rows of milliseconds per batch."""
    part, asked = f"augmentation on a GPU, batch of {BATCH}", "at most 5% of a step"
    if not torch.cuda.is_available():
        return {}, [Row(part, "eager and compiled", None, "ms", note="there is no GPU")]
    resident, compiled = images.cuda(), Augment(SIZE)
    compiled.compile()
    ways = {"eager": Augment(SIZE), "compiled": compiled}

    def epochs(augment: Augment) -> None:
        for epoch in range(GPU_EPOCHS):
            epoch_of(augment, resident, epoch)

    cases = {name: lambda augment=augment: epochs(augment) for name, augment in ways.items()}
    seconds = interleaved(cases, repeats)
    count = COUNT * GPU_EPOCHS
    rates = {f"ours, GPU, {name}": [count / s for s in own] for name, own in seconds.items()}
    per_batch = [
        summary(part, name, [1000 * s * BATCH / count for s in own], "ms", asked)
        for name, own in seconds.items()
    ]
    return rates, per_batch


if __name__ == "__main__":
    print_rows(rows())
