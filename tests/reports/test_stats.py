import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from reports.stats import (
    ALPHA,
    MOST_SEEDS,
    compare,
    holm,
    lowest_p,
    noise,
    power,
    seeds_needed,
    sign_flip,
    t_interval,
)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_t_interval__equals_statsmodels(n: int) -> None:
    values = np.random.default_rng(n).normal(50, 3, n).tolist()
    assert t_interval(values) == pytest.approx(DescrStatsW(values).tconfint_mean(ALPHA))


def test_t_interval__without_noise_or_seeds() -> None:
    assert t_interval([4.0, 4.0]) == (4.0, 4.0)
    assert all(map(math.isnan, t_interval([4.0])))
    assert all(map(math.isnan, t_interval([])))


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_t_interval__covers_what_it_says(n: int) -> None:
    draws = np.random.default_rng(n).normal(1.0, 2.0, (4_000, n))
    intervals = [t_interval(draw.tolist()) for draw in draws]
    covered = np.mean([low <= 1.0 <= high for low, high in intervals])
    assert 0.94 <= covered <= 0.96


def test_percentile_bootstrap__of_three_seeds_covers_far_less() -> None:
    # Why means over seeds get none: 27 equally likely resamples, of which three are one seed alone.
    draws = np.random.default_rng(0).normal(1.0, 2.0, (4_000, 3))
    resamples = np.stack(np.meshgrid(*[range(3)] * 3), -1).reshape(-1, 3)
    means = draws[:, resamples].mean(-1)
    low, high = np.quantile(means, [0.025, 0.975], axis=1, method="inverted_cdf")
    assert 0.73 <= np.mean((low <= 1.0) & (high >= 1.0)) <= 0.77


def test_compare__equals_scipy_on_shared_seeds() -> None:
    generator = np.random.default_rng(3)
    a = dict(enumerate(generator.normal(51, 1, 7)))
    b = {seed: generator.normal(50, 1) for seed in range(2, 9)}
    found = compare(a, b)
    mine, theirs = zip(*[(a[s], b[s]) for s in range(2, 7)], strict=True)
    paired = scipy_stats.ttest_rel(mine, theirs)
    assert found.n == 5
    assert found.p_t == pytest.approx(paired.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(paired.confidence_interval(0.95)))
    differences = np.subtract(mine, theirs)
    assert found.difference == pytest.approx(differences.mean())
    # Hedges' correction is about 1 - 3 / (4 df - 1).
    plain = differences.mean() / differences.std(ddof=1)
    assert found.effect == pytest.approx(plain * (1 - 3 / (4 * 4 - 1)), rel=0.01)
    assert found.p("t") == found.p_t
    assert found.p("sign-flip") == found.p_sign_flip


def test_compare__too_few_seeds_say_nothing() -> None:
    none, one = compare({0: 1.0}, {1: 1.0}), compare({0: 3.0, 1: 4.0}, {1: 1.0})
    assert (none.n, one.n, one.difference) == (0, 1, 3.0)
    for found in (none, one):
        assert all(map(math.isnan, (found.p_t, found.p_sign_flip, found.low, found.effect)))
        assert found.seeds_needed() is None
    two = compare({0: 3.0, 1: 4.5}, {0: 1.0, 1: 2.0})
    assert two.p_t == pytest.approx(scipy_stats.ttest_rel([3.0, 4.5], [1.0, 2.0]).pvalue)
    assert math.isnan(two.effect)


def test_compare__differences_without_noise() -> None:
    same = compare({0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert (same.p_t, same.effect, same.seeds_needed()) == (1.0, 0.0, None)
    above = compare({0: 2.0, 1: 3.0, 2: 4.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert (above.p_t, above.effect, above.low, above.high) == (0.0, math.inf, 1.0, 1.0)
    assert above.p_sign_flip == 0.25


@pytest.mark.parametrize("n", [2, 3, 6, 9, 12])
def test_sign_flip__equals_scipy(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.5, 1, n)
    exact = scipy_stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip(differences.tolist()) == pytest.approx(exact.pvalue)


@pytest.mark.parametrize(("n", "lowest"), [(2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_sign_flip__cannot_go_below_its_lowest_p(n: int, lowest: float) -> None:
    assert sign_flip(range(1, n + 1)) == lowest == lowest_p(n, "sign-flip")


def test_sign_flip__many_seeds() -> None:
    assert sign_flip([1.0] * 20) < 0.001
    assert sign_flip([1.0, -1.0] * 10) > 0.9


def test_lowest_p__one_seed_rejects_nothing() -> None:
    assert lowest_p(1, "t") == lowest_p(1, "sign-flip") == 1.0
    assert lowest_p(2, "t") == 0.0


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_holm__equals_statsmodels(n: int) -> None:
    p_values = np.random.default_rng(n).uniform(0, 0.2, n).tolist()
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_holm__worked_example() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1, then never smaller than the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    adjusted = holm([math.nan, 0.5, 0.02])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.5, 0.04])
    assert holm([]) == []


@pytest.mark.parametrize(("effect", "n"), [(0.3, 10), (0.8, 3), (2.0, 2), (5.0, 4), (0.05, 900)])
def test_power__equals_statsmodels(effect: float, n: int) -> None:
    assert power(effect, n) == pytest.approx(TTestPower().power(effect, n, 0.05))


def slow_power(effect: float, n: int, alpha: float) -> float:
    """A t test is one of normal numbers, given the deviation of the sample."""
    critical = scipy_stats.t.ppf(1 - alpha / 2, n - 1)
    deviation = scipy_stats.chi(n - 1, scale=1 / math.sqrt(n - 1))
    shift = effect * math.sqrt(n)

    def found(s: float) -> float:
        return scipy_stats.norm.sf(critical * s - shift) + scipy_stats.norm.cdf(
            -critical * s - shift
        )

    where = [k * (shift + 1) / critical for k in (0.5, 1, 2, 4)]  # it goes from one to nothing
    top = max(deviation.isf(1e-13), 5 * (shift + 1) / critical)
    return integrate.quad(lambda s: found(s) * deviation.pdf(s), 0, top, points=where)[0]


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 9, 0.05 / 100])
@pytest.mark.parametrize("effect", [0.5, 2.0, 3.0, 5.0])
def test_power__equals_an_integral(effect: float, alpha: float) -> None:
    for n in range(2, 30):  # among which scipy's noncentral t is not a number
        assert power(effect, n, alpha) == pytest.approx(slow_power(effect, n, alpha), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 9])
@pytest.mark.parametrize("effect", [0.2, 0.8, 2.0, -2.0, 5.0])
def test_seeds_needed__is_the_first_that_is_enough(effect: float, alpha: float) -> None:
    found = seeds_needed(effect, alpha)
    assert found is not None
    enough, fewer = (slow_power(abs(effect), n, alpha) for n in (found, found - 1))
    assert fewer < 0.8 <= enough


def test_seeds_needed__one_of_several_tests() -> None:
    found = compare({0: 1.0, 1: 2.0, 2: 4.0}, {0: 0.0, 1: 0.5, 2: 1.0})
    assert found.seeds_needed(9) == seeds_needed(found.effect, 0.05 / 9)
    assert found.seeds_needed(9) > found.seeds_needed()


def test_seeds_needed__without_an_answer() -> None:
    assert seeds_needed(0.0) is None
    assert seeds_needed(math.nan) is None
    assert seeds_needed(0.001) is None
    assert seeds_needed(math.inf) == 3
    assert MOST_SEEDS == 1000


def by_hand(scores: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The textbook's mean squares of a balanced one-way layout."""
    k = len(scores[0])
    within = np.mean([np.var(group, ddof=1) for group in scores])
    between = k * np.var([np.mean(group) for group in scores], ddof=1)
    return math.sqrt(max(0.0, (between - within) / k)), math.sqrt(within)


def test_noise__equals_the_textbook() -> None:
    scores = [[1.0, 2.0, 3.0], [4.0, 4.5, 6.0], [2.0, 2.5, 2.0]]
    found = noise(scores)
    assert (found.pretraining, found.probe) == pytest.approx(by_hand(scores))


def test_noise__is_found_again() -> None:
    generator = np.random.default_rng(0)
    encoders = generator.normal(50, 2.0, 400)
    scores = [generator.normal(e, 1.0, generator.integers(2, 5)).tolist() for e in encoders]
    found = noise(scores)
    assert found.pretraining == pytest.approx(2.0, rel=0.1)
    assert found.probe == pytest.approx(1.0, rel=0.1)


def test_noise__what_cannot_be_told() -> None:
    one_probe = noise([[1.0], [2.0]])
    assert math.isnan(one_probe.pretraining)
    assert math.isnan(one_probe.probe)
    one_encoder = noise([[1.0, 2.0]])
    assert math.isnan(one_encoder.pretraining)
    assert one_encoder.probe == pytest.approx(math.sqrt(0.5))
    assert noise([[1.0, 3.0], [1.0, 3.0]]).pretraining == 0.0
