"""Random numbers as a pure function of (seed, purpose, epoch, sample, draw).

SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014) as
a counter hash in int64 tensor operations: no state, the same bits on every device, and what one
sample draws does not depend on its place in the batch or on what others draw.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _signed(value: int) -> int:
    """Two's complement of a 64-bit word, the form int64 tensors take."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection on 64-bit words; products wrap around."""
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def _word(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


class Streams:
    """Draws for the samples of one batch in one epoch."""

    def __init__(self, seed: int, epoch: int, index: Int[Tensor, "b"], prefix: str = "") -> None:
        self.seed = seed
        self.epoch = epoch
        self.index = index.long()
        self.prefix = prefix

    def apart(self, name: str) -> Streams:
        """Streams of the same samples in which every purpose draws other numbers."""
        return Streams(self.seed, self.epoch, self.index, f"{self.prefix}{name}/")

    def _bits(self, purpose: str, draws: int) -> Int[Tensor, "b draws"]:
        word = _word(f"{self.seed}/{self.prefix}{purpose}/{self.epoch}")
        key = _mix(self.index * _GAMMA + word)
        counter = torch.arange(1, draws + 1, device=key.device) * _GAMMA
        return _mix(key[:, None] + counter)

    def uniform(self, purpose: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Uniform float32 draws in [0, 1), ``shape`` per sample."""
        bits = _shift_right(self._bits(purpose, math.prod(shape)), 40)
        return (bits.float() * 2.0**-24).view(len(self.index), *shape)

    def normal(self, purpose: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Standard normal float32 draws (Box and Muller 1958), ``shape`` per sample."""
        radius, angle = self.uniform(purpose, 2, *shape).unbind(1)
        # 1 - u lies in (0, 1], where the logarithm is finite.
        return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)


def permutation(
    seed: int, purpose: str, epoch: int, count: int, device: torch.device | str = "cpu"
) -> Int[Tensor, "count"]:
    """A random order of ``count`` samples."""
    streams = Streams(seed, epoch, torch.arange(count, device=device))
    return torch.argsort(streams._bits(purpose, 1)[:, 0], stable=True)


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's own CPU generator for building a module, and put the old state back.

    Modules are built on the CPU with their library's own initialisation, so weights depend on
    (seed, purpose) alone: a method with a larger mask net gets the same encoder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_word(f"{seed}/{purpose}"))
        yield
