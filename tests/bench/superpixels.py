"""Superpixels beside scikit-image's: how well they follow objects, and how long they take.

    python tests/bench/superpixels.py
    python tests/bench/superpixels.py quality

The first takes seconds and compares speed alone, on one core and with 64 superpixels of `scenes`;
the second prints everything in two minutes. Where other programs use the machine,
OMP_WAIT_POLICY=passive keeps a thread that waits from slowing them and itself; on an idle one it
makes ours slower. Data: the objects of `scenes` and, if ../shared/data has them, the classes of
CamVid's street scenes, cut square, both at 96 pixels. scikit-image runs with its own settings and
the fewest `n_segments` that give it at least as many connected parts as ours has (its grid allows
only some numbers of parts). Quality is the mean over images of two percentages, in which pixels
labelled 255 do not count:

- ASA, achievable segmentation accuracy: pixels that are right if every part takes the object that
  it overlaps most;
- BR, boundary recall: pixels beside a boundary of objects that have a pixel beside a boundary of
  parts within 2 pixels.

Times are milliseconds per image for a batch of 64, median (minimum to maximum) of interleaved
repeats: on one core, and on two, which are two threads of torch or two processes of scikit-image.
`cpu` is the processor time of one core, which says more where others use the machine too.
"""

from __future__ import annotations

import io
import multiprocessing
import statistics
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import Row, interleaved, print_rows, ratios, summary
from PIL import Image
from scipy.ndimage import label, maximum_filter
from skimage.segmentation import slic as skimage_slic
from torch import Tensor

from benchmark.scenes import load
from methods.superpixels import slic

STREET = Path(__file__).parents[3] / "shared/data/camvid-voc.tar.xz"
IGNORED = 255
BATCH, SIZE, REPEATS = 64, 96, 5
TOLERANCE = 2

Labelled = tuple[Tensor, np.ndarray]


def scenes(count: int, size: int = SIZE) -> Labelled:
    """Scenes with digits that grow with the image, and the objects."""
    grown = {"digit_size": (20, 25), "distractor_size": (6, 8)}
    ranges = {key: [side * size // 32 for side in sides] for key, sides in grown.items()}
    data = load(image_size=size, train_count=count, test_count=1, max_crop=224 // size, **ranges)
    return data.train.images.float() / 255, data.train.segments.numpy()


def street_scenes(count: int, size: int = SIZE) -> Labelled:
    """The middle squares of evenly spaced street scenes, and the classes."""
    with tarfile.open(STREET) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
    names = sorted(name for name in files if name.endswith(".jpg"))
    images, labels = [], []
    for name in names[:: len(names) // count][:count]:
        truth = name.replace("JPEGImages", "SegmentationClass").replace(".jpg", ".png")
        image, classes = (Image.open(io.BytesIO(files[file])) for file in (name, truth))
        side, left = image.height, (image.width - image.height) // 2
        box = (left, 0, left + side, side)
        images.append(np.array(image.crop(box).resize((size, size), Image.Resampling.BICUBIC)))
        labels.append(np.array(classes.crop(box).resize((size, size), Image.Resampling.NEAREST)))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return pixels, np.stack(labels)


def parts(labels: np.ndarray) -> np.ndarray:
    """Connected parts of the labels of one image, numbered from 0."""
    found, offset = np.zeros(labels.shape, int), 0
    for value in np.unique(labels):
        numbered, count = label(labels == value)
        found += np.where(numbered > 0, numbered - 1 + offset, 0)
        offset += count
    return found


def beside_boundary(labels: np.ndarray) -> np.ndarray:
    """Pixels of which a neighbour has another label and neither is ignored."""
    found = np.zeros(labels.shape, bool)
    for here, there in (np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]):
        differ = labels[here] != labels[there]
        differ &= (labels[here] != IGNORED) & (labels[there] != IGNORED)
        found[here] |= differ
        found[there] |= differ
    return found


def quality(segments: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Mean number of parts, ASA and BR over the images, the last two in percent."""
    scores = []
    for ours, objects in zip(segments, truth, strict=True):
        found, counted = parts(ours), objects != IGNORED
        overlap = np.zeros((found.max() + 1, IGNORED), int)
        np.add.at(overlap, (found[counted], objects[counted]), 1)
        near = maximum_filter(beside_boundary(found.astype(int) + 1000), 2 * TOLERANCE + 1)
        recall = near[beside_boundary(objects)].mean()
        accuracy = overlap.max(1).sum() / counted.sum()
        scores.append((found.max() + 1, 100 * accuracy, 100 * recall))
    count, accuracy, recall = np.mean(scores, axis=0)
    return float(count), float(accuracy), float(recall)


def skimage_segments(images: np.ndarray, num_segments: int) -> np.ndarray:
    """scikit-image's superpixels with its own settings, connected."""
    return np.stack([skimage_slic(image, num_segments, start_label=0) for image in images])


def channels_last(pixels: Tensor) -> np.ndarray:
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def matched_skimage(images: np.ndarray, num_parts: float) -> tuple[int, np.ndarray]:
    """The fewest segments asked of scikit-image that give at least ``num_parts``, and these."""
    asked = round(0.9 * num_parts)
    while True:
        segments = skimage_segments(images, asked)
        if np.mean([parts(s).max() + 1 for s in segments]) >= num_parts:
            return asked, segments
        asked += max(1, asked // 25)


def milliseconds(runs: dict[str, Callable[[], object]]) -> dict[str, tuple[list[float], float]]:
    """Wall times per image of each run, interleaved, and its median processor time."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            if repeat:  # the first one warms up
                wall[name].append((time.perf_counter() - start) * 1e3 / BATCH)
                cpu[name].append((time.process_time() - start_cpu) * 1e3 / BATCH)
    return {name: (wall[name], statistics.median(cpu[name])) for name in runs}


def threaded(threads: int, run: Callable[[], object]) -> None:
    torch.set_num_threads(threads)
    run()


def rows(repeats: int = 5) -> list[Row]:
    """Milliseconds per image of ours and of scikit-image on one core, for as many parts."""
    torch.set_num_threads(1)
    pixels, _ = scenes(BATCH)
    images = channels_last(pixels)
    ours = slic(pixels, 64).numpy()
    theirs, _ = matched_skimage(images, float(np.mean([parts(s).max() + 1 for s in ours])))
    names = "ours, 64 asked for", f"scikit-image, {theirs} asked for"
    runs = partial(slic, pixels, 64), partial(skimage_segments, images, theirs)
    seconds = interleaved(dict(zip(names, runs, strict=True)), repeats)
    part = f"superpixels, {SIZE} px, one core"
    found = [
        summary(part, name, [1e3 * s / BATCH for s in taken], "ms/image")
        for name, taken in seconds.items()
    ]
    faster = ratios(seconds[names[1]], seconds[names[0]])
    return [*found, summary(part, "scikit-image / ours", faster, "x")]


def quality_table() -> None:
    data = {"scenes": scenes(BATCH)}
    if STREET.exists():
        data["street"] = street_scenes(BATCH)
    variants = {
        "ours": {},
        "ours, lab": {"colour": "lab", "compactness": 10.0},
        "ours, fragments": {"connected": False},
    }
    print("| data | asked | superpixels | parts | ASA | BR | 1 core | cpu | 2 cores |")
    print("|---|---|---|---|---|---|---|---|---|")
    # Forking a process that has threads may hang.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for (name, (pixels, truth)), asked in ((d, n) for d in data.items() for n in (64, 150)):
            images = channels_last(pixels)
            rows: dict[str, tuple[float, float, float]] = {}
            runs: dict[str, Callable[[], object]] = {}
            for variant, settings in variants.items():
                run = partial(slic, pixels, asked, **settings)
                rows[variant] = quality(run().numpy(), truth)
                runs |= {f"{variant}/{n}": partial(threaded, n, run) for n in (1, 2)}
            theirs, segments = matched_skimage(images, rows["ours"][0])
            rows[f"scikit-image, {theirs}"] = quality(segments, truth)
            runs[f"scikit-image, {theirs}/1"] = partial(skimage_segments, images, theirs)
            halves = images[: BATCH // 2], images[BATCH // 2 :]
            both = (halves, [theirs] * 2)
            runs[f"scikit-image, {theirs}/2"] = lambda both=both: list(
                pool.map(skimage_segments, *both)
            )
            times = milliseconds(runs)
            for row, (count, accuracy, recall) in rows.items():
                (one, cpu), (two, _) = times[f"{row}/1"], times[f"{row}/2"]
                spans = [
                    f"{statistics.median(t):.2f} ({min(t):.2f}-{max(t):.2f})" for t in (one, two)
                ]
                print(
                    f"| {name} | {asked} | {row} | {count:.1f} | {accuracy:.2f} | {recall:.2f} "
                    f"| {spans[0]} | {cpu:.2f} | {spans[1]} |",
                    flush=True,
                )


if __name__ == "__main__":
    quality_table() if sys.argv[1:] == ["quality"] else print_rows(rows())
