from __future__ import annotations

import pytest
import torch

from benchmark.streams import Streams, permutation, seeded

MASK = (1 << 64) - 1


def splitmix(x: int) -> int:
    """The finaliser in Python's own integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_uniform__equals_arbitrary_precision_arithmetic() -> None:
    from benchmark.streams import _word

    streams = Streams(3, 5, torch.tensor([0, 17, 2**40]))
    draws = streams.uniform("mask", 4)
    gamma = 0x9E3779B97F4A7C15
    for row, sample in enumerate((0, 17, 2**40)):
        key = splitmix((sample * gamma + _word("3/mask/5")) & MASK)
        for draw in range(4):
            bits = splitmix((key + (draw + 1) * gamma) & MASK)
            assert draws[row, draw].item() == (bits >> 40) * 2.0**-24


def test_uniform__does_not_depend_on_the_batch() -> None:
    together = Streams(1, 2, torch.arange(50)).uniform("crop", 3, 2)
    alone = Streams(1, 2, torch.tensor([33])).uniform("crop", 3, 2)
    assert torch.equal(together[33:34], alone)


def test_uniform__longer_draw_begins_with_the_shorter() -> None:
    streams = Streams(1, 2, torch.arange(5))
    assert torch.equal(streams.uniform("crop", 7)[:, :3], streams.uniform("crop", 3))


def test_uniform__keys_matter_and_values_are_uniform() -> None:
    index = torch.arange(20000)
    base = Streams(0, 0, index).uniform("a", 2)
    for other in (
        Streams(1, 0, index).uniform("a", 2),
        Streams(0, 1, index).uniform("a", 2),
        Streams(0, 0, index).uniform("b", 2),
    ):
        assert abs(torch.corrcoef(torch.stack([base[:, 0], other[:, 0]]))[0, 1]) < 0.03
    assert abs(torch.corrcoef(base.T)[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack([base[1:, 0], base[:-1, 0]]))[0, 1]) < 0.03
    histogram = torch.histc(base, 10, 0, 1) / base.numel()
    assert ((histogram - 0.1).abs() < 0.01).all()


def test_permutation__is_one_and_changes_with_epoch() -> None:
    first = permutation(0, "order", 0, 1000)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, permutation(0, "order", 1, 1000))
    assert torch.equal(first, permutation(0, "order", 0, 1000))


def test_seeded__independent_of_what_was_drawn_and_leaves_no_trace() -> None:
    torch.manual_seed(5)
    expected_after = torch.rand(3)
    torch.manual_seed(5)
    with seeded(0, "init/encoder"):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected_after)
    with seeded(0, "init/encoder"):
        assert torch.equal(torch.rand(3), first)
    with seeded(0, "init/method"):
        assert not torch.equal(torch.rand(3), first)


def test_normal__has_its_moments_and_is_finite() -> None:
    drawn = Streams(0, 0, torch.arange(500)).normal("test", 4, 50)
    assert drawn.shape == (500, 4, 50)
    assert drawn.isfinite().all()
    assert abs(float(drawn.mean())) < 0.01
    assert float(drawn.std()) == pytest.approx(1, abs=0.01)
    assert float((drawn.abs() < 1).float().mean()) == pytest.approx(0.683, abs=0.01)


def test_apart__other_numbers_for_every_purpose_of_the_same_sample() -> None:
    streams = Streams(0, 0, torch.arange(8))
    other = streams.apart("swapped")
    assert not torch.equal(streams.uniform("x", 3), other.uniform("x", 3))
    assert torch.equal(other.uniform("x", 3)[5:6], other_sample(5).uniform("x", 3))
    assert not torch.equal(other.uniform("x", 3), other.apart("swapped").uniform("x", 3))


def other_sample(index: int) -> Streams:
    return Streams(0, 0, torch.tensor([index])).apart("swapped")
