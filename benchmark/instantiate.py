"""From a configuration node to an object, its arguments checked against the signature."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from benchmark.errors import UserError

Node = Mapping[str, Any]

# What constructors, and libraries that they call, raise for values that they were not made for.
_REFUSALS = (
    TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError, MemoryError,
)  # fmt: skip


def target(node: Any) -> Any:
    """The class or function that a node names.

    Raises:
        UserError: if it cannot be imported.
    """
    path = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(path, str):
        raise UserError(f"{node!r} names no _target_; choose one of the group's options")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_ {path!r} cannot be imported: {error}") from error
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise UserError(f"_target_ {path!r} is no class or function of Python")
    return found


def instantiate(node: Node, **runtime: Any) -> Any:
    """Call a node's target with its other keys and with what is known only at run time.

    Keys that are nodes themselves are built first, and know nothing of the run time.

    Raises:
        UserError: for a key that the target does not take, lacks, or of another type.
    """
    plugin = target(node)
    arguments = {k: v for k, v in node.items() if k != "_target_"}
    checked = _check_arguments(node["_target_"], plugin, arguments, runtime)
    try:
        return plugin(**checked, **runtime)
    except UserError:
        raise
    except _REFUSALS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{node['_target_']} refuses {arguments}: {reason}") from error


def nested_nodes(node: Node) -> dict[str, Node]:
    """The keys of a node that are nodes themselves."""
    return {k: v for k, v in node.items() if isinstance(v, Mapping) and "_target_" in v}


def _build_nested(arguments: Node) -> dict[str, Any]:
    built = dict(arguments)
    for key, node in nested_nodes(arguments).items():
        try:
            built[key] = instantiate(node)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
    return built


def _check_arguments(
    name: str, plugin: Callable[..., Any], arguments: Node, runtime: Node
) -> dict[str, Any]:
    """The arguments by the types of the plugin's signature.

    Nodes among them are built, and whole numbers become floats.
    """
    signature = inspect.signature(plugin)
    try:
        signature.bind(**arguments, **runtime)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "none"
        raise UserError(f"{name}: {error}; it takes {known}") from error
    function = plugin.__init__ if inspect.isclass(plugin) else plugin
    hints = get_type_hints(function)
    built = _build_nested(arguments)
    for key, value in built.items():
        if message := _mismatch(value, hints.get(key)):
            raise UserError(f"{name}: {key}={arguments[key]!r} must be {message}")
    # A whole number for a float, or for a float or None, becomes one.
    return {
        key: float(value) if type(value) is int and _takes_float(hints.get(key)) else value
        for key, value in built.items()
    }


def _takes_float(wanted: Any) -> bool:
    union = get_origin(wanted) in (Union, UnionType)
    return wanted is float or (union and float in get_args(wanted))


def _mismatch(value: Any, wanted: Any) -> str | None:
    """What a value or a part should have been; None if it is that, or of a type not checked."""
    origin = get_origin(wanted)
    if origin in (Union, UnionType):  # int | None, say
        if any(get_origin(part) is Mapping for part in get_args(wanted)):
            return None  # who reads it tells which keys it has
        problems = [_mismatch(value, part) for part in get_args(wanted)]
        return None if None in problems else " or ".join(map(str, problems))
    if wanted is NoneType:
        return None if value is None else "null"
    if origin is Literal:
        choices = get_args(wanted)
        return None if value in choices else f"one of {', '.join(map(str, choices))}"
    if origin is Mapping:
        return None if isinstance(value, Mapping) else "a mapping of KEY: VALUE"
    if origin in (Sequence, list, tuple):
        if not isinstance(value, list | tuple):
            return "a list"
        problems = [_mismatch(part, get_args(wanted)[0]) for part in value]
        return next((f"a list, each of it {problem}" for problem in problems if problem), None)
    if wanted not in (int, float, str, bool):
        if wanted is Any or not inspect.isclass(wanted) or isinstance(value, wanted):
            return None
        return f"a node that builds a {wanted.__name__}"
    if type(value) is float and not math.isfinite(value):
        return "a finite number"
    # A whole number will do for a float, but True is no number.
    fits = type(value) is wanted or (wanted is float and type(value) is int)
    return None if fits else f"of type {wanted.__name__}"
