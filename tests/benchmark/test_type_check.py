"""Values against types: what fits, and how messages name what does not."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.type_check import misfit


class Named(TypedDict):
    name: str
    sizes: list[int]


class Open(Named, total=False):
    share: float


@dataclass
class Closed:
    pairs: dict[str, tuple[str, int]]
    parts: tuple[Named, ...]
    note: str | None


NAMED = {"name": "a", "sizes": [1, 2]}
CLOSED = {"pairs": {"a": ["b", 1]}, "parts": [NAMED], "note": None}


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int), (-1.5, float), (2, float), ("é\n→", str), (None, str | None), (False, bool),
        ([], list[int]), ({}, dict[str, int]), ({"a": [1]}, dict[str, Any]), ([1, "a"], list[Any]),
        (NAMED, Named), ({**NAMED, "more": 1}, Named), ({**NAMED, "share": 1}, Open), (NAMED, Open),
        (CLOSED, Closed),
    ],
)  # fmt: skip
def test_misfit__nothing_where_it_fits(value: object, hint: Any) -> None:
    assert misfit(value, hint, "it") is None


@pytest.mark.parametrize(
    ("value", "hint", "says"),
    [
        (True, int, "it is True where a whole number is expected"),
        (True, float, "it is True where a finite number is expected"),
        (0, bool, "it is 0 where true or false is expected"),
        (1.0, int, "it is 1.0 where a whole number is expected"),
        (math.nan, float, "it is nan where a finite number is expected"),
        (-math.inf, float, "it is -inf where a finite number is expected"),
        (10**400, float, "it is of type int where a finite number is expected"),
        ("1", float, "it is '1' where a finite number is expected"),
        ("\x1b[2J", str, r"it is '\x1b[2J' where printable text is expected"),
        ("\ud800", str, r"it is '\ud800' where printable text is expected"),
        (3, str | None, "it is 3 where printable text or null is expected"),
        ([1, "2"], list[int], "it[1] is '2' where a whole number is expected"),
        ({1: 1}, dict[str, int], "a key of it is 1 where printable text is expected"),
        ([1], dict[str, int], "it is of type list where an object is expected"),
        (["a"], tuple[str, int], "it has 1 parts where 2 are expected"),
        ({"name": "a"}, Named, "it lacks sizes"),
        ({**NAMED, "sizes": [None]}, Named, "it.sizes[0] is None where a whole number is expected"),
        ({**NAMED, "share": "1"}, Open, "it.share is '1' where a finite number is expected"),
        ([], Named, "it is of type list where an object is expected"),
        ({**CLOSED, "parts": [{}]}, Closed, "it.parts[0] lacks name, sizes"),
        ({**CLOSED, "x": 1}, Closed, "it has the key 'x', which is not known"),
    ],
)  # fmt: skip
def test_misfit__names_what_does_not_fit(value: object, hint: Any, says: str) -> None:
    assert misfit(value, hint, "it") == says


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
)


@given(JSON)
def test_misfit__says_it_in_one_printable_line(value: object) -> None:
    for hint in (Closed, list[Named], dict[str, float], tuple[int, ...], str | None):
        fault = misfit(value, hint, "it")
        assert fault is None or fault.isprintable()


@given(JSON)
def test_misfit__what_fits_is_written_as_json(value: object) -> None:
    if misfit(value, dict[str, float], "it") is None:
        json.dumps(value, allow_nan=False).encode()
