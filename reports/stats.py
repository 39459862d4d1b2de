"""Inference from few seeds: intervals, paired comparisons, what decides them, where noise is from.

Seeds are the unit. A bootstrap over three seeds covers 75% where it says 95%, so means over seeds
get Student's t, and the bootstrap is left to test images, of which there are many.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy import special, stats

Test = Literal["t", "sign-flip"]
Values = Sequence[float]

TESTS: tuple[Test, ...] = ("t", "sign-flip")
ALPHA = 0.05
LEVEL = 1 - ALPHA
POWER = 0.8
MOST_SEEDS = 1000  # that `seeds_needed` tells

_LARGEST_EFFECT = 1000.0  # without noise it is infinite
_LEAST = 3  # seeds by which an effect is known
_EXACT = 12  # differences whose signs are all flipped; of more, random ones


def t_interval(values: Values, level: float = LEVEL) -> tuple[float, float]:
    """Student's t interval of a mean; NaN from fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = error * float(special.stdtrit(len(values) - 1, (1 + level) / 2))
    return mean - half, mean + half


@dataclass(frozen=True)
class Comparison:
    """What n shared seeds say of the difference a - b.

    Attributes:
        difference: mean of the paired differences.
        low: of its t interval.
        high: of its t interval.
        p_t: of the paired t test, two-sided; NaN with fewer than two seeds.
        p_sign_flip: of the test that flips the signs of differences, two-sided.
        effect: Cohen's d of the differences, with Hedges' correction; infinite without noise, NaN
            with fewer than three seeds.
    """

    n: int
    difference: float
    low: float
    high: float
    p_t: float
    p_sign_flip: float
    effect: float

    def seeds_needed(self, tests: int = 1) -> int | None:
        """How many would decide, if the difference and its noise are as seen.

        Args:
            tests: that it is one of, so that Holm's method may ask for ``ALPHA / tests``.
        """
        return seeds_needed(self.effect, ALPHA / tests)

    def p(self, test: Test) -> float:
        """Of one of the two tests."""
        return self.p_t if test == "t" else self.p_sign_flip


def compare(a: Mapping[int, float], b: Mapping[int, float]) -> Comparison:
    """Compare two methods by the seeds that both have.

    Args:
        a: score by seed.
        b: score by seed.
    """
    shared = sorted(a.keys() & b.keys())
    differences = np.array([a[seed] - b[seed] for seed in shared])
    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    low, high = t_interval(differences.tolist())
    return Comparison(
        n,
        mean,
        low,
        high,
        p_t=_paired_t(differences),
        p_sign_flip=sign_flip(differences.tolist()),
        effect=_effect(differences),
    )


def lowest_p(n: int, test: Test) -> float:
    """The smallest p that a test can give with n shared seeds: 2 / 2^n where signs are flipped."""
    if n < 2:
        return 1.0
    return 0.0 if test == "t" else 2.0 ** (1 - n)


def holm(p_values: Values) -> list[float]:
    """Adjust p-values of a family of tests by Holm's step-down method; NaN counts for none."""
    known = [k for k, p in enumerate(p_values) if not math.isnan(p)]
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for number, k in enumerate(sorted(known, key=lambda k: p_values[k])):
        highest = max(highest, min(1.0, (len(known) - number) * p_values[k]))
        adjusted[k] = highest
    return adjusted


def sign_flip(differences: Values) -> float:
    """Two-sided p of the mean, if each difference may as well have the other sign.

    All 2^n choices of signs are tried, of more than 12 differences 9,999 random ones. NaN from
    fewer than two differences.
    """
    n = len(differences)
    if n < 2:
        return math.nan
    if n > _EXACT:
        result = stats.permutation_test(
            (np.asarray(differences),),
            np.mean,
            permutation_type="samples",
            rng=np.random.default_rng(0),
        )
        return float(result.pvalue)
    sums = np.abs(_signs(n) @ np.asarray(differences))
    return float((sums >= sums[0] * (1 - 1e-12)).mean())  # equal ones differ in their last digit


def seeds_needed(effect: float, alpha: float = ALPHA) -> int | None:
    """Seeds with which a paired t test finds an effect with ``POWER`` at a level.

    None for no effect, and for one that takes more than ``MOST_SEEDS``.
    """
    if math.isnan(effect) or effect == 0:
        return None
    size = min(abs(effect), _LARGEST_EFFECT)
    tried = range(_LEAST, MOST_SEEDS + 1)
    # Not a number is what scipy gives for a power of about 1.
    found = bisect_left(tried, True, key=lambda n: not power(size, n, alpha) < POWER)
    return tried[found] if found < len(tried) else None


def power(effect: float, n: int, alpha: float = ALPHA) -> float:
    """The probability that a paired t test of n seeds finds an effect (Cohen's d) at a level."""
    # By the square of t, a noncentral F: scipy's noncentral t is not a number here and there.
    critical = special.stdtrit(n - 1, 1 - alpha / 2)
    return float(1 - special.ncfdtr(1, n - 1, n * effect**2, critical**2))


@dataclass(frozen=True)
class Noise:
    """Standard deviations of a score over the seeds of pretraining, and over those of the probe."""

    pretraining: float
    probe: float


def noise(scores: Sequence[Values]) -> Noise:
    """Tell the noise of pretraining from that of the probe, which is trained on a finished encoder.

    The estimates are those of a one-way analysis of variance with random effects. The spread of
    means over encoders holds a share of the probe's noise too, which is taken off.

    Args:
        scores: of each encoder, one per evaluation seed.

    Returns:
        NaN for what cannot be told: the probe's noise where no encoder has two scores, and that of
        pretraining then, or with one encoder.
    """
    groups = [np.asarray(group, dtype=float) for group in scores if len(group)]
    sizes = np.array([len(group) for group in groups])
    spare = int(sizes.sum()) - len(groups)
    if spare < 1:
        return Noise(math.nan, math.nan)
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / spare
    if len(groups) < 2:
        return Noise(math.nan, math.sqrt(within))
    total = np.concatenate(groups).mean()
    means = np.array([group.mean() for group in groups])
    between = float((sizes * (means - total) ** 2).sum()) / (len(groups) - 1)
    usual = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(groups) - 1)
    return Noise(math.sqrt(max(0.0, (between - within) / usual)), math.sqrt(within))


def _paired_t(differences: np.ndarray) -> float:
    if len(differences) < 2:
        return math.nan
    if np.ptp(differences) == 0:  # where scipy divides by zero
        return 1.0 if differences[0] == 0 else 0.0
    n = len(differences)
    t = float(differences.mean() / differences.std(ddof=1)) * math.sqrt(n)
    return 2 * float(special.stdtr(n - 1, -abs(t)))


def _effect(differences: np.ndarray) -> float:
    """Cohen's d of paired differences, less the bias that few of them give it (Hedges, 1981)."""
    n = len(differences)
    if n < 3:  # with two, the correction is zero
        return math.nan
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    half = (n - 1) / 2
    correction = math.exp(math.lgamma(half) - math.lgamma(half - 0.5)) / math.sqrt(half)
    return correction * mean / spread


@cache
def _signs(n: int) -> np.ndarray:
    """Every choice of n signs, all positive first. (2^n, n)."""
    return 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
