"""Batches of a split, wherever it lives."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmark import feed as feed_module
from benchmark.dataset import Split
from benchmark.errors import UserError
from benchmark.feed import Feed

CPU = torch.device("cpu")
SPLIT = Split(
    images=torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 2, 2),
    labels=torch.arange(10),
    segments=torch.arange(10, dtype=torch.uint8).view(10, 1, 1).expand(10, 2, 2),
)
INDICES = torch.tensor([7, 1, 3, 9, 0, 2, 8, 8, 4]).split(2)


@pytest.mark.parametrize("residence", ["device", "host"])
@pytest.mark.parametrize("segments", [True, False])
def test_batches__are_the_samples_asked_for(residence: str, segments: bool) -> None:
    feed = Feed(SPLIT, CPU, segments=segments, residence=residence)
    batches = list(feed.batches(INDICES))
    assert len(feed) == 10
    for index, batch in zip(INDICES, batches, strict=True):
        assert torch.equal(batch.labels, index)
        assert torch.equal(batch.images, SPLIT.images[index])
        assert (batch.segments is not None) == segments
        assert not segments or torch.equal(batch.segments, SPLIT.segments[index])


def test_batches__on_the_host_are_gathered_ahead_by_another_thread(monkeypatch) -> None:
    feed = Feed(SPLIT, CPU, segments=False, residence="host")
    gathered, take = [], feed.take

    def note(index):
        gathered.append((index, threading.current_thread() is threading.main_thread()))
        return take(index)

    monkeypatch.setattr(feed, "take", note)
    batches = feed.batches(INDICES)
    next(batches)
    deadline = time.monotonic() + 10
    while len(gathered) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(gathered) == 3  # the first, and two ahead of it, without being asked for
    assert not any(main for _, main in gathered)
    batches.close()


def test_take__of_a_split_that_lives_on_a_gpu_touches_the_host_no_more() -> None:
    # Fake tensors have a device and no content, so no GPU is needed. What is moved to "cuda" is on
    # "cuda:0", which is not equal to it.
    with FakeTensorMode(allow_non_fake_inputs=True):
        feed = Feed(SPLIT, torch.device("cuda"), segments=True, residence="device")
        samples = feed.take(torch.tensor([7, 1]))
    for array in (samples.images, samples.labels, samples.segments):
        assert array.device == torch.device("cuda:0")


def test_batches__an_error_of_the_thread_reaches_the_caller() -> None:
    feed = Feed(SPLIT, CPU, segments=False, residence="host")
    with pytest.raises(IndexError):
        list(feed.batches([torch.tensor([1]), torch.tensor([10])]))


@pytest.mark.parametrize(("free", "resident"), [(2 * 200, True), (2 * 200 - 1, False)])
def test_feed__is_resident_where_half_of_the_free_memory_will_do(
    monkeypatch: pytest.MonkeyPatch, free: int, resident: bool
) -> None:
    monkeypatch.setattr(feed_module, "free_memory", lambda device: free)
    # 10 images of 12 bytes and 10 labels of 8
    assert Feed(SPLIT, CPU, segments=False, residence="auto").resident == resident


def test_feed__unknown_residence() -> None:
    with pytest.raises(UserError, match="residence=disk is not one of auto, device, host"):
        Feed(SPLIT, CPU, segments=False, residence="disk")
