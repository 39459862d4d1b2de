"""Whether what a file holds has the types that it should have: files may be broken, or hostile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

_NAMES = {
    bool: "true or false",
    dict: "an object",
    float: "a finite number",
    int: "a whole number",
    list: "a list",
    NoneType: "null",
    str: "printable text",
    tuple: "a list",
}


def misfit(value: object, hint: Any, place: str) -> str | None:
    """How a value that was read as JSON or YAML differs from a type, in words; None if it fits.

    A bool is no number, numbers are finite, and text has no control characters, since it may be
    printed. Lists stand for tuples. An object may hold more than a `TypedDict` names, and nothing
    but what a dataclass does.

    Args:
        value: as it was read.
        hint: the type: one of JSON's own, a container or union of them, a `TypedDict` or dataclass.
        place: what the words call the value.
    """
    kind, inner = _parted(hint)
    if kind in (Union, UnionType):
        fits = any(misfit(value, each, place) is None for each in inner)
        return None if fits else _wrong(value, inner, place)
    if not _is(value, kind):
        return _wrong(value, (kind,), place)
    if isinstance(value, dict) and _is_record(kind):
        hints = _hints(kind)
        needed = set(getattr(kind, "__required_keys__", hints))
        if lacking := [name for name in hints if name in needed and name not in value]:
            return f"{place} lacks {', '.join(lacking[:5])}"
        if is_dataclass(kind) and (surplus := value.keys() - hints.keys()):
            return f"{place} has the key {min(surplus, key=str)!r}, which is not known"
    fixed = kind is tuple and inner[-1] is not ...
    if fixed and isinstance(value, list) and len(value) != len(inner):
        return f"{place} has {len(value)} parts where {len(inner)} are expected"
    for part, each, name in _parts(value, kind, inner):
        if each is Any or (each in _LEAVES and _is(part, each)):
            continue  # as most are, which need no words
        if (fault := misfit(part, each, _place(place, name))) is not None:
            return fault
    return None


def _place(place: str, name: str | int | None) -> str:
    """What words call a part of what they call ``place``."""
    if name is None:
        return f"a key of {place}"
    if isinstance(name, int):
        return f"{place}[{name}]"
    return f"{place}.{name if name.isprintable() else ascii(name)}"


_LEAVES = frozenset((bool, float, int, str))
_hints = cache(get_type_hints)


@cache
def _parted(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(hint) or hint, get_args(hint)


@cache
def _is_record(kind: Any) -> bool:
    return is_typeddict(kind) or is_dataclass(kind)


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind, whatever its parts are."""
    if kind is Any:
        return True
    if kind in (int, float):
        number = isinstance(value, int | kind) and not isinstance(value, bool)
        return number and bool(abs(value) <= sys.float_info.max)
    if kind is str:
        return isinstance(value, str) and (value.isprintable() or all(map(_is_text, value)))
    stored = dict if _is_record(kind) else list if kind is tuple else kind
    return isinstance(value, stored)


def _is_text(character: str) -> bool:
    return character.isprintable() or character in "\n\t\N{NO-BREAK SPACE}"


def _parts(
    value: Any, kind: Any, inner: tuple[Any, ...]
) -> Iterator[tuple[object, Any, str | int | None]]:
    """Each part of a value with its type and name: a key, a number, or None for keys themselves."""
    if _is_record(kind):
        for name, hint in _hints(kind).items():
            if name in value:
                yield value[name], hint, name
    elif kind is dict and inner:
        yield from ((name, inner[0], None) for name in value)
        yield from ((part, inner[1], name) for name, part in value.items())
    elif kind in (list, tuple) and inner:
        each = [*inner] if kind is tuple and inner[-1] is not ... else [inner[0]] * len(value)
        yield from ((part, hint, k) for k, (part, hint) in enumerate(zip(value, each, strict=True)))


def _wrong(value: object, kinds: tuple[Any, ...], place: str) -> str:
    expected = [_NAMES[dict if _is_record(kind) else kind] for kind in kinds]
    plain = isinstance(value, str | float | bool | NoneType) or _is(value, int)
    # A container may be too deep to be shown, a number too long.
    shown = repr(value)[:60] if plain else f"of type {type(value).__name__}"
    return f"{place} is {shown} where {' or '.join(expected)} is expected"
