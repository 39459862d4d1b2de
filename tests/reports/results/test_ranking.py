"""Who is told from the best of a column, and who is not."""

from __future__ import annotations

import pytest

from reports.results.outcomes import Outcome, rank


def outcome(*scores: float | None) -> Outcome:
    known = {k: (score,) for k, score in enumerate(scores) if score is not None}
    return Outcome(known, {k: "failed" for k, s in enumerate(scores) if s is None}, "h", ())


def test_rank__better_on_all_shared_seeds_is_not_worse() -> None:
    ranking = rank({"A": outcome(50.0, 51.0, 52.0, 99.0), "B": outcome(55.0, 56.1, 57.0, None)})
    assert ranking.best == ("A",)
    rival = ranking.rivals["B"]
    assert rival.p < 0.001
    assert rival.comparison.difference == pytest.approx(-5.03, abs=0.01)
    assert (rival.worse, rival.tied) == (False, True)


def test_rank__a_lone_seed_does_not_compete_with_more() -> None:
    ranking = rank({"A": outcome(50.0, 51.0), "B": outcome(99.0, None)})
    assert ranking.best == ("A",)
    assert ranking.rivals == {}
    alone = rank({"A": outcome(50.0), "B": outcome(99.0)})
    assert alone.best == ("B",)
    assert not alone.rivals["A"].tied  # of which no test can say anything
