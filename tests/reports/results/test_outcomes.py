from __future__ import annotations

import math

import pytest

from reports.results.collect import collect
from reports.results.outcomes import Outcome, Ranking, outcomes, rank

LINEAR = ("linear", "scenes")


def row(*scores: float) -> Outcome:
    return Outcome({seed: (score,) for seed, score in enumerate(scores)}, {}, "h", ())


def tied(ranking: Ranking) -> set[str]:
    return {label for label, rival in ranking.rivals.items() if rival.tied}


def only(found) -> Outcome:
    (outcome,) = found.values()
    return outcome


def test_outcomes__mean_and_sample_deviation_over_seeds(make_run) -> None:
    runs = [make_run("none", seed, {LINEAR: score}) for seed, score in ((2, 46.0), (0, 42.0))]
    outcome = only(outcomes(collect(runs)))
    assert outcome.by_seed == {0: 42.0, 2: 46.0}
    assert (outcome.mean, outcome.std, outcome.n, outcome.asked) == (44.0, math.sqrt(8), 2, 2)
    # Student's t with one degree of freedom: 12.706 standard errors of 2.
    assert outcome.interval == pytest.approx((44 - 25.412, 44 + 25.412), abs=1e-3)
    assert set(outcome.runs) == {str(run.folder) for run in runs}


def test_outcomes__evaluation_seeds_are_averaged_first(make_run) -> None:
    runs = [
        make_run("none", 0, {LINEAR: [40.0, 42.0]}),
        make_run("none", 1, {LINEAR: [50.0, 52.0]}),
    ]
    outcome = only(outcomes(collect(runs)))
    assert outcome.by_seed == {0: 41.0, 1: 51.0}
    assert outcome.std == pytest.approx(math.sqrt(50))
    # Within an encoder the variance is 2; the variance of both means, 50, holds half of it.
    assert outcome.noise.probe == pytest.approx(math.sqrt(2))
    assert outcome.noise.pretraining == pytest.approx(math.sqrt(50 - 2 / 2))


def test_outcomes__a_seed_lost_in_one_evaluation_seed_is_lost(make_run) -> None:
    runs = [
        make_run("none", 0, {LINEAR: [40.0, 42.0]}),
        make_run("none", 1, {LINEAR: [90.0, None]}),
    ]
    outcome = only(outcomes(collect(runs)))
    assert (outcome.mean, outcome.n, outcome.asked) == (41.0, 1, 2)
    assert outcome.lost_by() == {"missing": 1}
    assert math.isnan(outcome.std)


def test_outcomes__rows_by_any_column(make_run) -> None:
    runs = [make_run("none", 0, {LINEAR: 1.0}, hash8=h) for h in "ab"]
    assert [where[0] for where in outcomes(collect(runs), "hash8")] == ["a", "b"]


def test_rank__one_seed_tells_nothing() -> None:
    ranking = rank({"a": row(50.0), "b": row(49.0)})
    assert ranking.best == ("a",)
    assert math.isnan(ranking.rivals["b"].p)
    assert tied(ranking) == set()


@pytest.mark.parametrize("test", ["t", "sign-flip"])
def test_rank__one_shared_seed_tells_nothing(test) -> None:
    b = Outcome({2: (48.0,), 3: (49.0,)}, {}, "h", ())
    assert tied(rank({"a": row(50.0, 51.0, 52.0), "b": b}, test)) == set()


def test_rank__two_seeds() -> None:
    # Differences 1 and 3: t = 2 with one degree of freedom, p = 1 - 2/pi atan(2).
    ranking = rank({"a": row(50.0, 52.0), "b": row(49.0, 49.0)})
    assert ranking.rivals["b"].p == pytest.approx(1 - 2 / math.pi * math.atan(2))
    assert tied(ranking) == {"b"}


def test_rank__three_seeds() -> None:
    column = {
        "a": row(50.0, 51.0, 52.0),
        "near": row(52.0, 50.0, 50.0),
        "far": row(40.0, 41.1, 42.0),
    }
    ranking = rank(column)
    # near: differences -2, 1, 2: mean 1/3, std sqrt(13/3), t = 0.277: p = 0.81 by a table.
    assert ranking.rivals["near"].p == pytest.approx(0.81, abs=0.01)
    assert ranking.rivals["far"].p < 0.001
    assert tied(ranking) == {"near"}


def test_rank__flipping_three_signs_cannot_reject() -> None:
    column = {"a": row(50.0, 51.0, 52.0), "near": row(52.0, 50.0, 50.0), "far": row(1.0, 2.0, 3.5)}
    assert tied(rank(column, "sign-flip")) == set()
    assert all(rival.p > 0.05 for rival in rank(column, "sign-flip").rivals.values())


def test_rank__flipping_eight_signs_can() -> None:
    best = [50.0 + k / 10 for k in range(8)]
    far = [score - 5 - k / 100 for k, score in enumerate(best)]
    near = [score + (-1) ** k - 0.1 for k, score in enumerate(best)]
    ranking = rank({"a": row(*best), "near": row(*near), "far": row(*far)}, "sign-flip")
    assert ranking.rivals["far"].p == pytest.approx(2 * 2 / 2**8)  # the smallest, of two tests
    assert tied(ranking) == {"near"}


def test_rank__what_holm_leaves_no_room_for_is_not_underlined() -> None:
    """Six seeds reach p = 1/32 by flipping signs, of two tests not below 1/16."""
    best, other = row(*range(50, 56)), row(*(50 + (-1) ** k for k in range(6)))
    assert tied(rank({"a": best, "b": other}, "sign-flip")) == {"b"}
    assert tied(rank({"a": best, "b": other, "c": row(*range(6))}, "sign-flip")) == set()


def test_rank__holm_within_the_column() -> None:
    """Three rivals with one p: multiplied by 3, all of them are tied; alone, each is worse."""
    best = row(50.0, 51.0, 52.0)
    rivals = {k: row(49.0, 49.8, 50.4) for k in "bcd"}  # differences 1, 1.2, 1.6: t = 7.18
    alone = rank({"a": best, "b": rivals["b"]})
    assert 0.05 / 3 < alone.rivals["b"].p < 0.05
    assert tied(alone) == set()
    together = rank({"a": best, **rivals})
    assert together.rivals["c"].p == pytest.approx(3 * alone.rivals["b"].p)
    assert tied(together) == set("bcd")


def test_rank__ties_in_the_shown_number_are_all_best() -> None:
    ranking = rank({"a": row(50.001, 50.001), "b": row(50.0, 50.0), "c": row(49.99, 49.99)})
    assert ranking.best == ("a", "b")
    assert set(ranking.rivals) == {"c"}


def test_rank__no_noise_at_all() -> None:
    ranking = rank({"a": row(50.0, 51.0), "b": row(49.0, 50.0)})
    assert ranking.rivals["b"].p == 0
    assert tied(ranking) == set()


def test_rank__rows_without_a_score_take_no_part() -> None:
    nothing = Outcome({}, {0: "failed"}, "h", ())
    assert rank({"a": nothing}) == Ranking((), {})
    assert rank({"a": nothing, "b": row(1.0)}) == Ranking(("b",), {})
