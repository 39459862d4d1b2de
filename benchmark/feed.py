"""From the arrays of a split, in memory or on disk, to batches on the device."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Int, Int16, UInt8
from torch import Tensor

from benchmark.dataset import Split
from benchmark.errors import UserError

RESIDENCES = ("auto", "device", "host")
_SHARE = 0.5  # of the device's free memory that a resident split may take
_AHEAD = 2  # batches gathered before they are needed


@dataclass(frozen=True)
class Samples:
    """One batch of a split, on the device; ``index`` tells its places in the split."""

    index: Int[Tensor, "b"]
    images: UInt8[Tensor, "b 3 H W"]
    labels: Int[Tensor, "b"] | None
    segments: UInt8[Tensor, "b H W"] | None
    superpixels: Int16[Tensor, "b H W"] | None


class Feed:
    """Hands out batches of a split.

    A split that fits lives on the device, where a batch is an indexing. A larger one, memory-mapped
    as a rule, stays where it is: a thread gathers its batches ahead of time, so that the
    disk is not waited for, nor by the host the copy. The batches are the same either way.

    Args:
        split: what is handed out; segments only if ``segments``.
        device: where the batches go.
        segments: whether they are wanted.
        residence: "device" or "host" where the split is to live; "auto" is the device if it takes
            at most half of the memory that is free there.

    Raises:
        UserError: for another residence.
    """

    def __init__(
        self, split: Split, device: torch.device, *, segments: bool, residence: str
    ) -> None:
        check_residence(residence)
        shown = split.segments if segments else None
        arrays = [split.images, split.labels, shown, split.superpixels]
        if residence == "auto":
            size = sum(array.nbytes for array in arrays if array is not None)
            residence = "device" if size <= _SHARE * free_memory(device) else "host"
        self.resident = residence == "device"
        self.device = device
        # Where indices are wanted: fetching them from a GPU would wait for all that it has to do.
        self.home = device if self.resident else torch.device("cpu")
        if self.resident:
            arrays = [None if array is None else array.to(device) for array in arrays]
        self._images, self._labels, self._segments, self._superpixels = arrays

    def __len__(self) -> int:
        assert self._images is not None
        return len(self._images)

    def take(self, index: Int[Tensor, "b"]) -> Samples:
        """The samples at ``index``, a tensor on any device."""
        index = index.to(self.home)
        arrays = [
            None if array is None else self._moved(array[index])
            for array in (self._images, self._labels, self._segments, self._superpixels)
        ]
        assert arrays[0] is not None
        return Samples(self._moved(index), arrays[0], *arrays[1:])

    def batches(self, indices: Iterable[Int[Tensor, "_"]]) -> Iterator[Samples]:
        """The samples of each of ``indices`` in turn."""
        if self.resident:
            yield from map(self.take, indices)
            return
        waiting: deque[Future[Samples]] = deque()
        with ThreadPoolExecutor(1) as pool:
            for index in indices:
                waiting.append(pool.submit(self.take, index))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _moved(self, array: Tensor) -> Tensor:
        if self.resident or self.device.type != "cuda":
            return array
        return array.pin_memory().to(self.device, non_blocking=True)


def check_residence(residence: str) -> None:
    """Refuse a residence that there is not.

    Raises:
        UserError: for an unknown residence.
    """
    if residence not in RESIDENCES:
        raise UserError(f"residence={residence} is not one of {', '.join(RESIDENCES)}")


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
