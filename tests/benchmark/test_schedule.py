"""Ramps: numbers that change with the progress of training."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import UserError
from benchmark.schedule import Ramp


@pytest.mark.parametrize("value", [0.25, 1])
def test_parse__a_number_stays(value: float) -> None:
    ramp = Ramp.parse("method.ratio", value)
    assert [ramp.at(p) for p in (0.0, 0.3, 1.0)] == [value] * 3
    assert ramp.ends == (value, value)


@pytest.mark.parametrize(
    ("progress", "linear", "cosine"),
    [
        (0.0, 0.1, 0.1),
        (0.2, 0.1, 0.1),
        (0.3, 0.2, 0.1 + 0.4 * (1 - math.cos(math.pi / 4)) / 2),
        (0.4, 0.3, 0.3),
        (0.6, 0.5, 0.5),
        (1.0, 0.5, 0.5),
    ],
)
def test_at__between_begin_and_until(progress: float, linear: float, cosine: float) -> None:
    keys = {"start": 0.1, "end": 0.5, "begin": 0.2, "until": 0.6}
    assert Ramp.parse("x", keys).at(progress) == pytest.approx(linear)
    assert Ramp.parse("x", keys | {"curve": "cosine"}).at(progress) == pytest.approx(cosine)


@given(
    ends=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    progress=st.floats(0, 1),
    curve=st.sampled_from(["linear", "cosine"]),
)
def test_at__stays_between_its_ends(ends: tuple[float, float], progress: float, curve: str) -> None:
    value = Ramp.parse("x", {"start": ends[0], "end": ends[1], "curve": curve}).at(progress)
    assert min(ends) - 1e-9 <= value <= max(ends) + 1e-9


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("much", "'much' is no number"),
        (True, "True is no number"),
        (math.nan, "nan is no number"),
        (None, "None is no number"),
        ({"start": 0.1}, "lacks 'end'"),
        ({"start": 0.1, "end": "x"}, "end='x' is no number"),
        ({"start": 0.1, "end": 0.2, "stop": 1}, "unknown 'stop'"),
        ({"start": 0.1, "end": 0.2, "begin": 0.6, "until": 0.5}, "begin=0.6 and until=0.5"),
        ({"start": 0.1, "end": 0.2, "until": 2}, "until=2 are no interval"),
        ({"start": 0.1, "end": 0.2, "curve": "step"}, "curve='step' is unknown"),
    ],
)
def test_parse__refuses(value: object, problem: str) -> None:
    with pytest.raises(UserError, match=f"method.ratio: .*{problem}.*give a number"):
        Ramp.parse("method.ratio", value)
